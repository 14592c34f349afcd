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
    gpu_learner,
    learner,
    matrix,
    offline,
    population_learner,
    stages,
)
from reverie.experiments.bench.measure import Toy
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
    shares = report.costs["add of 16"]  # of SB3's add
    assert list(shares) == ["all", "check", "row view", "pack", "to numpy"]
    assert 0 < shares["row view"] < shares["all"] and shares["pack"] < shares["all"]
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


@pytest.mark.xdist_group("warp")
def test_every_stage_of_the_gpu_bench_runs_dry(tmp_path):
    pytest.importorskip("mujoco_warp", reason="needs the extra: pip install 'reverie[gpu]'")
    argv = ["gpu", "--dry-run", "--threads", "1", "--json", str(tmp_path / "gpu.json")]
    assert cli.main(argv) == 0
    told = {}
    for n in (1, 2, 3, 4):
        head, *lines = (tmp_path / f"gpu-stage-{n}.csv").read_text().splitlines()
        assert head == "case,what,value,unit"
        told |= {tuple(x.split(",")[:2]): float(x.split(",")[-2]) for x in lines}
        about = json.loads((tmp_path / f"gpu-stage-{n}.json").read_text())
        assert about["stage"] == n and about["left"] == [] and "cpu" in about["stamp"]
    assert "failed" not in {what for _, what in told}
    for agent in ("SAC", "TD3"):  # where both are the CPU nothing differs
        assert told[f"{agent} as on the CPU", "largest relative gap of a metric"] == 0
        assert told[f"{agent} graphs", "largest relative gap to eager of a metric"] == 0
        assert told[f"{agent} graphs", "generators stand alike"] == 1
        rate = told[f"{agent} many worlds", "2 worlds; batch 8"]
        assert told[f"{agent} many worlds", "2 a vector step"] == pytest.approx(
            rate
        )  # 2 of 2 worlds
    assert told["HalfCheetah-v5", "observation: median gap"] < 1e-4
    assert told["HalfCheetah-v5 x 2", "ours over bare"] > 0
    assert told["HalfCheetah-v5 x 2", "recorded"] > 0
    assert told["SAC x 2", "graphs"] > 0 and told["SAC training", "env steps"] % 4 == 0
    assert told["width 8", "fill"] > 0


def test_a_stage_ends_in_time_and_goes_on_behind_what_fails(tmp_path, capsys, monkeypatch):
    def good():
        yield stages.Measure("good", "rate", 3.0, "steps/s")

    def bad():
        yield stages.Measure("bad", "rate", 1.0, "steps/s")
        raise RuntimeError("out of memory")

    clock = iter([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 100.0])
    monkeypatch.setattr(stages.time, "monotonic", lambda: next(clock))
    cases = [("bad", bad), ("good", good), ("late", good)]
    stage = stages.Stage("a try", 50.0, lambda toy, options: cases)
    options = BenchOptions("gpu", stage=2, json=tmp_path / "x.json")
    rows = stages.take(2, stage, None, options, {"cpu": "a"})
    assert [tuple(m) for m in rows] == [
        ("bad", "rate", 1.0, "steps/s"), ("bad", "failed", 1, "RuntimeError"),
        ("bad", "took", 1.0, "s"), ("good", "rate", 3.0, "steps/s"), ("good", "took", 1.0, "s"),
    ]  # fmt: skip
    assert "no time left for late" in capsys.readouterr().out
    assert json.loads((tmp_path / "x-stage-2.json").read_text())["left"] == ["late"]
    assert (tmp_path / "x-stage-2.csv").read_text().count("\n") == 6


@pytest.mark.xdist_group("warp")
def test_many_worlds_are_warm_before_they_are_measured():
    """Two steps of two worlds at random, then one with its updates."""
    pytest.importorskip("mujoco_warp", reason="needs the extra: pip install 'reverie[gpu]'")
    work = gpu_learner.Many("SAC", Toy(), "cpu")
    assert (work.steps, len(work.buffer), work.agent.updates) == (4, 4, 0)
    assert (work(), work.steps, work.agent.updates) == (2, 6, work.u)


def test_a_stage_with_a_failed_case_ends_with_1(monkeypatch):
    good = [stages.Measure("a", "rate", 3.0, "steps/s")]
    bad = [*good, stages.Measure("a", "failed", 1, "RuntimeError")]
    for rows, status in ((good, 0), (bad, 1)):
        monkeypatch.setattr(stages, "run", lambda options, rows=rows: rows)
        assert cli.main(["gpu", "--stage", "1"]) == status


def test_the_stages_have_known_lengths():
    assert {n: stage.seconds for n, stage in stages.STAGES.items()} == {
        1: 180, 2: 180, 3: 300, 4: 180
    }  # fmt: skip
    options = BenchOptions("gpu")
    names = [[name for name, _ in stage.cases(None, options)] for stage in stages.STAGES.values()]
    assert names[0][:2] == ["HalfCheetah-v5", "Ant-v5"] and names[1][0] == "HalfCheetah-v5 x 4096"
    few = stages.STAGES[2].cases(None, BenchOptions("gpu", worlds=(8,), tasks=("Ant-v5",)))
    assert [name for name, _ in few] == ["Ant-v5 x 8"]
    assert len(names[1]) == 4 * 5 and {"SAC x 1", "SAC x 8", "SAC x 64"} < set(names[2])
    with pytest.raises(ValueError, match="stage must be 1, 2, 3 or 4, got 5"):
        BenchOptions("gpu", stage=5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_gpu_bench_without_a_gpu_is_told():
    with pytest.raises(ValueError, match="torch sees cpu"):
        stages.run(BenchOptions("gpu"))


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
