import json

import numpy as np
import pytest
import torch

from reverie.experiments.bench import (
    buffer,
    cli,
    diffusion,
    dream,
    env,
    gpu,
    learner,
    matrix,
    offline,
    population_learner,
)
from reverie.experiments.bench.report import OURS, BenchOptions, Report, Row

TINY = {"threads": 1, "num_envs": 8, "repeats": 2, "seconds": 0.005}
TASK = "InvertedPendulum-v5"


def ratios_hold(report):
    for row in report.rows:
        assert len(row.rates) == 2 and min(row.rates) > 0
        assert report.ratio(row.case, row.who) > 0
    for case in report.cases():
        assert report.ratio(case, OURS) == 1
    assert {row.who for row in report.rows} <= {peer.name for peer in report.peers}


def test_ratio_is_the_median_of_paired_ratios():
    rows = [Row("a", OURS, (4.0, 9.0, 2.0)), Row("a", "peer", (2.0, 3.0, 2.0))]
    rows += [Row("b", OURS, (8.0, 8.0, 8.0)), Row("b", "peer", (1.0, 1.0, 1.0))]
    report = Report("env", "steps/s", (), rows)
    assert report.ratio("a", "peer") == 2  # of 2, 3, 1
    assert report.mean_ratio("peer") == pytest.approx(4)
    assert report.ratio("a", "absent") is None


def test_options_must_be_positive():
    with pytest.raises(ValueError, match="repeats must be positive, got 0"):
        BenchOptions("env", repeats=0)


@pytest.fixture(scope="module")
def contestants():
    out = env.make_contestants(TASK, BenchOptions("env", **TINY))
    yield out
    for contestant in out.values():
        contestant.env.close()


def test_true_transitions_are_counted_and_stored(contestants):
    """A pendulum's true step gives 1 or ends; a call spent on a reset gives 0 and goes on."""
    for who, contestant in contestants.items():
        worlds = len(contestant.obs)
        done = sum(contestant() for _ in range(100))
        assert len(contestant.buffer) == done
        rows = contestant.buffer.gather(torch.arange(100 * worlds))
        ended = rows.terminated.view(100, worlds).numpy()
        assert ended.any(), who
        spent = 0 if who == OURS else int(ended[:-1].sum())
        assert done == 100 * worlds - spent, who
        drawn = contestant.buffer.sample(2000)
        assert ((drawn.reward == 1) | (drawn.terminated == 1)).all(), who


def test_contestants_play_the_same_actions(contestants):
    ours = contestants[OURS]
    for contestant in contestants.values():
        worlds = len(contestant.obs)
        few = min(worlds, len(ours.obs))
        for a, b in zip(contestant.actions, ours.actions, strict=True):
            assert torch.equal(a[:few], b[:few])
        if contestant is not ours:
            assert np.allclose(contestant.native[0], 3 * contestant.actions[0].numpy())


def test_env_bench_reports(tmp_path, capsys):
    out = tmp_path / "bench.json"
    tiny = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items()]
    before = torch.get_num_threads()
    assert cli.main(["env", *tiny, "--tasks", TASK, "--json", str(out)]) == 0
    assert torch.get_num_threads() == before
    data = json.loads(out.read_text())
    assert data["bench"] == "env" and data["options"]["num_envs"] == 8
    assert {"cpu", "packages", "revision"} <= set(data["stamp"])
    assert 0 < data["engine_shares"][TASK] < 1
    who = {row["who"] for row in data["rows"]}
    assert {OURS, env.SYNC, env.ASYNC} <= who
    for row in data["rows"]:
        assert row["case"] == TASK and len(row["rates"]) == 2
    text = capsys.readouterr().out
    assert TASK in text and "num_threads=1" in text


def test_a_missing_peer_is_named(monkeypatch, capsys):
    monkeypatch.setattr(buffer, "version", lambda package: None if package == "cpprb" else "1")
    options = BenchOptions("buffer", **TINY)
    report = buffer.run(options, capacity=1600)
    cli.show(report, options)
    assert "cpprb not installed (pip install reverie[bench])" in capsys.readouterr().out
    assert {row.who for row in report.rows} == {OURS, buffer.SB3}


def test_buffer_bench_reports():
    report = buffer.run(BenchOptions("buffer", **TINY), capacity=1600)
    assert report.cases() == ["sample(256)", "add of 16"]
    ratios_hold(report)


def test_offline_bench_reports():
    report = offline.run(BenchOptions("offline", **TINY), rows=512)
    assert report.cases() == ["TD3+BC"]
    ratios_hold(report)


def test_dream_bench_reports_and_counts_steps():
    report = dream.run(BenchOptions("dream", **TINY), dreams=3)
    assert report.cases() == list(dream.CASES)
    assert all(report.ratio(case, who) > 0 for case in report.cases() for who in dream.PEERS)
    data = dream.random_rows(2, 1)
    assert len(data) == 2 * dream.HORIZON
    model, settings = dream.CASES["GRU-64, a mask an episode"]
    who = dream.contestants(data, model, settings, 3, BenchOptions("dream", **TINY))
    steps = {OURS: 3, dream.NATIVE: BenchOptions("dream", **TINY).num_envs, dream.SINGLE: 1}
    assert {name: step() for name, step in who.items()} == steps


CALLS = {OURS: 16, diffusion.LONGER: 32, diffusion.PLAIN: 16, diffusion.OFFICIAL: 255}


def test_diffusion_bench_reports_and_counts_calls():
    report = diffusion.run(BenchOptions("diffusion", **TINY), widths=(8,), batch=4)
    assert report.cases() == ["width 8"]
    ratios_hold(report)
    for who, fill in diffusion.contestants(8, 4).items():
        network, seen = fill.__closure__[1].cell_contents.average, []
        network.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        assert fill() == 4
        assert len(seen) == CALLS[who]


def test_gpu_bench_reports(tmp_path, capsys):
    """On Warp's CPU device: one thread and no GPU, but the same code."""
    pytest.importorskip("mujoco_warp", reason="needs the extra: pip install 'reverie[gpu]'")
    out = tmp_path / "gpu.json"
    argv = ["gpu", "--device", "cpu", "--worlds", "3", "--tasks", "Hopper-v5", "--threads", "1"]
    assert cli.main([*argv, "--repeats", "2", "--seconds", "0.01", "--json", str(out)]) == 0
    data = json.loads(out.read_text())
    assert {row["who"] for row in data["rows"]} == {OURS, gpu.BARE, gpu.NATIVE}
    assert data["costs"]["Hopper-v5 x 3"]["capture_s"] > 0
    lines = out.with_suffix(".csv").read_text().splitlines()
    assert lines[0] == "case,who,unit,rate,ratio" and len(lines) == 4
    assert "njmax" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_gpu_bench_without_a_gpu_is_told():
    with pytest.raises(ValueError, match="torch sees cpu"):
        gpu.run(BenchOptions("gpu"))


def test_learner_bench_reports():
    report = learner.run(BenchOptions("learner", **TINY), rows=512)
    assert report.cases() == ["SAC", "SAC bfloat16", "TD3", "TD3 bfloat16"]
    ratios_hold(report)


def test_learner_bench_says_what_compiling_brings(monkeypatch):
    """By eager critics that are as large: the ratio's other half."""
    asked = []

    def made(name, rows, **how):
        asked.append((name, how["config"].critic_norm, how["batch"], how["compile"]))
        return lambda: 2 if how["compile"] else 1

    monkeypatch.setattr(learner, "make_ours", made)
    options = BenchOptions("learner", compile=True, **TINY)
    assert [(r.case, r.who) for r in learner.normalised(options, 512)] == [
        ("SAC 2x128 layer norm compile", learner.OURS),
        ("SAC 2x128 layer norm compile", learner.EAGER),
    ]
    assert asked == [("SAC", "layer", 128, True), ("SAC", "layer", 128, False)]
    assert learner.EAGER in [p.name for p in learner._peers(options)]
    assert learner.EAGER not in [p.name for p in learner._peers(BenchOptions("learner", **TINY))]


@pytest.mark.slow
def test_population_learner_bench_reports(monkeypatch):
    """A turn of K members counts K updates; what one learner and processes do is for all K."""
    assert population_learner.population(3, 8, 4, rows=16)() == 3
    assert population_learner.one(8, 4, rows=16)() == 1
    monkeypatch.setattr(population_learner, "STEPS", 2)
    with population_learner.processes(2, 8, 4, 16) as work:
        assert work() == 4 == work()
    sizes = {"widths": (8,), "batches": (4,), "members": (1, 3), "rows": 16}
    report = population_learner.run(BenchOptions("population-learner", **TINY), **sizes)
    assert report.cases() == [" 1 members, 8 wide, batch 4", " 3 members, 8 wide, batch 4"]
    assert {row.who for row in report.rows} == {"reverie", "one learner", "processes"}
    ratios_hold(report)


def test_matrix_bench_reports_and_counts_the_steps_of_whole_episodes(monkeypatch):
    monkeypatch.setattr(matrix, "CASES", {"CartPoleSwingUp-v0": (("length=lin:0.5:2:20",), 4)})
    report = matrix.run(BenchOptions(what="matrix", threads=1, repeats=1, seconds=0.01))
    assert [row.who for row in report.rows] == ["reverie", matrix.PLAIN, matrix.LOOP]
    assert all(row.rate > 0 for row in report.rows)
    ours = matrix.Ours("CartPoleSwingUp-v0", ("length=lin:0.5:2:20",), 4, 1)
    looped = matrix.Looped("CartPoleSwingUp-v0", ("length=lin:0.5:2:20",), 4)
    assert ours() == 20 * 10 * 4 and looped() == 10 * 4
    assert ours.env.contexts.table[-1, 0] == 2 and looped.envs[-1].unwrapped.env.context[0, 0] == 2
