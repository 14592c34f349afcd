"""Run directories: what is written, what is refused, what a resumed run continues."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import EACH, LOOPS, METHODS, config, finished, judging_worlds, module_of

from reverie.agents import SACConfig, collect, evaluate
from reverie.agents.playing import EVAL_SEED
from reverie.agents.training import compiler
from reverie.envs import make
from reverie.experiments import cli, load_policy, load_run, population, sac
from reverie.experiments.runs import checkpoint
from reverie.experiments.runs.codec import decode, encode
from reverie.experiments.runs.config import from_dict, to_dict
from reverie.experiments.runs.stopping import INTERRUPTED
from reverie.experiments.studies.suite import parse_seeds


def final_tensors(path):
    newest = checkpoint.list_checkpoints(Path(path) / "checkpoints")[-1]
    return load_file(newest / "tensors.safetensors"), (newest / "state.json").read_text()


def same_run(a, b):
    left, right = final_tensors(a), final_tensors(b)
    assert left[1] == right[1]
    assert left[0].keys() == right[0].keys()
    assert all(torch.equal(left[0][k], right[0][k]) for k in left[0])
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("name", EACH)
def test_a_run_directory_is_complete(name):
    options, result = finished(name)
    assert result.path == Path(options.run.out) / "whole" and result.steps == 660
    assert np.isfinite(result.eval_return) and result.evaluation.returns.shape[1] == 1
    run = load_run(result.path)
    assert run.method == name.partition("-")[0] and from_dict(type(options), run.config) == options
    assert run.stamp["status"] == "finished" and run.stamp["step"] == 660
    assert {"reverie", "revision", "packages", "cpu", "threads", "seed"} <= run.stamp.keys()
    assert "native, mujoco" in run.stamp["notes"]["engine"]
    assert list(run.frame("train")["step"]) == list(range(60, 661, 60))
    judged = [s for s in run.frame()["step"] if s]  # a search is judged at its start too
    assert judged == [150, 300, 450, 600, 660]
    assert run.frame()["return"][-1] == result.eval_return
    assert list((result.path / "tensorboard").glob("events*"))
    times = [json.loads(x) for x in (result.path / "timing.jsonl").read_text().splitlines()]
    assert all(row["steps_per_second"] > 0 for row in times)
    assert "time" not in (result.path / "metrics.jsonl").read_text()
    kept = checkpoint.list_checkpoints(result.path / "checkpoints")
    fitted = name == "oer-synther"  # its last task ends with a fit, which saves too
    assert [checkpoint.step_of(p) for p in kept] == [660 if fitted else 600, 660]
    needed = {
        f"{name}/{s.name}"
        for p in kept
        for name, shards in checkpoint.manifest_stores(p).items()
        for s in shards
    }
    rows = result.path / "buffer"
    assert {str(p.relative_to(rows)) for p in rows.glob("*/*")} == needed


@pytest.mark.parametrize("name", EACH)
def test_the_policy_of_a_run_is_the_one_that_was_judged(name):
    options, result = finished(name)
    judge, expected = judging_worlds(options, result)
    again = evaluate(load_policy(result.path), judge, seed=EVAL_SEED)
    assert np.array_equal(again.returns, expected)


@pytest.mark.parametrize("name", [
    pytest.param(m, marks=[] if m == "sac" else [pytest.mark.slow]) for m in METHODS
])  # fmt: skip
def test_the_same_seed_gives_the_same_run_and_another_does_not(name, tmp_path):
    module, a = module_of(name), finished(name)[1].path
    torch.rand(3), np.random.rand(3)  # the global generators are nobody's business
    b = module.main(config(name, tmp_path, "b")).path
    same_run(a, b)
    c = module.main(config(name, tmp_path, "c", seed=1)).path
    assert (a / "metrics.jsonl").read_bytes() != (c / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("name", "stop"),
    [(m, s) for m in LOOPS for s in (30, 519)]
    + [pytest.param(m, 300, marks=[pytest.mark.slow] * (m != "sac")) for m in LOOPS]
    + [pytest.param(m, 519, marks=pytest.mark.slow) for m in METHODS if m not in LOOPS],
)
def test_a_resumed_run_continues_bit_for_bit(name, stop, tmp_path):
    module = module_of(name)
    parts = config(name, tmp_path, "parts")
    module.main(dataclasses.replace(parts, steps=stop))
    # The run cut at `stop` judged itself there: go on from the checkpoint before, as after a kill.
    newest = checkpoint.list_checkpoints(tmp_path / "parts" / "checkpoints")[-1]
    if stop % 300:
        shutil.rmtree(newest)
    if stop == 30:  # and so long before the first save, that the stamp does not know of one either
        stamp = json.loads((tmp_path / "parts" / "stamp.json").read_text())
        stamp.pop("saved")
        (tmp_path / "parts" / "stamp.json").write_text(json.dumps(stamp))
    module.main(parts, resume=True)
    same_run(finished(name)[1].path, tmp_path / "parts")


@pytest.mark.slow
def test_a_compiled_run_continues_bit_for_bit(tmp_path):
    """Compiled code is its own rounding, the same in every process of one machine."""
    agent = SACConfig(hidden=(24, 24), critic_norm="layer")
    whole = sac.main(config("sac", tmp_path, "whole", compile=True, agent=agent)).path
    parts = config("sac", tmp_path, "parts", compile=True, agent=agent)
    sac.main(dataclasses.replace(parts, steps=300))
    torch._dynamo.reset()  # as a new process begins
    sac.main(parts, resume=True)
    same_run(whole, tmp_path / "parts")


def test_compiling_without_a_compiler_is_refused_through_every_door(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    told = r"no C\+\+ compiler: install g\+\+ .*, or give --compile False"
    for name in ("sac", "td3", "synther", "ncap-td3"):
        with pytest.raises(ValueError, match=told):
            module_of(name).main(config(name, tmp_path, "a", compile=True))
    group = population.of_seeds("sac", config("sac", tmp_path, "a", compile=True), (0, 1))
    with pytest.raises(ValueError, match=told):
        population.main(group)
    assert not list(tmp_path.iterdir())
    assert cli.main(["bench", "learner", "--compile", "--seconds", "0.01"]) == 2
    assert re.search(told, capsys.readouterr().err)
    assert compiler(True, "cuda") is torch.compile  # compiles by other means


@pytest.mark.parametrize("damage", ["truncate", "flip", "no manifest", "no shard"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(damage, tmp_path, caplog):
    whole = finished("sac")[1].path
    parts = sac.main(config("sac", tmp_path, "parts")).path
    newest = checkpoint.list_checkpoints(parts / "checkpoints")[-1]
    target = newest / "tensors.safetensors"
    if damage == "truncate":
        target.write_bytes(target.read_bytes()[:-7])
    elif damage == "flip":
        data = bytearray(target.read_bytes())
        data[len(data) // 2] ^= 1
        target.write_bytes(data)
    elif damage == "no manifest":
        (newest / "manifest.json").unlink()
    else:
        shards = checkpoint.manifest_stores(newest)["replay"]
        target = parts / "buffer" / "replay" / shards[-1].name
        target.unlink()
    sac.main(config("sac", tmp_path, "parts"), resume=True)
    assert newest.name in caplog.text
    same_run(whole, parts)


def test_nothing_is_overwritten(tmp_path):
    sac.main(config("sac", tmp_path, "a", steps=3))
    before = (tmp_path / "a" / "metrics.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match="--resume"):
        sac.main(config("sac", tmp_path, "a"))
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == before


def test_a_refused_run_leaves_no_directory(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="did you mean"):
        sac.main(config("sac", tmp_path, "a", env="reverie/Reachr-v5"))
    with pytest.raises(ValueError, match="discrete"):
        sac.main(config("sac", tmp_path, "a", env="CartPole-v1"))
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=r"SAC needs .*'label'"):
        patch.setattr(sac.SAC, "columns", ("label",))
        sac.main(config("sac", tmp_path, "a"))
    with pytest.raises(ValueError, match="torch sees cpu"):
        run = dataclasses.replace(config("sac", tmp_path, "a").run, device="cuda:9")
        sac.main(config("sac", tmp_path, "a", run=run))
    assert not (tmp_path / "a").exists()


def test_weights_and_biases_gets_the_same_rows(tmp_path, monkeypatch):
    rows = []

    class FakeRun:
        def log(self, values, step):
            rows.append((step, values))

        def finish(self):
            rows.append("finished")

    fake = type(sys)("wandb")
    fake.init = lambda **kwargs: rows.append(kwargs["project"]) or FakeRun()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run = dataclasses.replace(config("sac", tmp_path, "a").run, wandb="dreams")
    path = sac.main(config("sac", tmp_path, "a", run=run)).path
    assert rows[0] == "dreams" and rows[-1] == "finished"
    logged = [v["eval/return"] for _, v in rows[1:-1] if "eval/return" in v]
    assert logged == list(load_run(path).frame()["return"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"reverie\[wandb\]"):
        sac.main(config("sac", tmp_path, "b", run=dataclasses.replace(run, name="b")))


def test_a_gymnasium_env_trains_and_says_that_it_restarts(tmp_path):
    options = config("sac", tmp_path, "a", env="Pendulum-v1", steps=160)
    sac.main(options)
    sac.main(dataclasses.replace(options, steps=300), resume=True)
    assert "restarted at a reset" in load_run(tmp_path / "a").stamp["notes"]["resume"]


def test_utd_counts_updates_per_transition_whatever_num_envs(tmp_path, monkeypatch):
    counts = []
    for i, (num_envs, utd) in enumerate([(1, 1.0), (3, 1.0), (3, 0.25), (1, 2.0)]):
        calls = []
        update = sac.SAC.update
        monkeypatch.setattr(
            sac.SAC, "update", lambda *a, u=update, c=calls: (c.append(1), u(*a))[1]
        )
        sac.main(config("sac", tmp_path, str(i), num_envs=num_envs, utd=utd, steps=150))
        monkeypatch.setattr(sac.SAC, "update", update)
        counts.append(len(calls))
    assert counts == [60, 60, 15, 120]


def test_policies_load_and_act():
    policy = load_policy(finished("td3")[1].path)
    obs = np.zeros(10, np.float32)
    assert policy.act(obs).shape == (2,) and policy.act(obs[None]).shape == (1, 2)
    with pytest.raises(ValueError, match="takes 10"):
        policy.act(np.zeros(9))

    env = make("Reacher-v5", 4)
    again = evaluate(policy, env, episodes=2, seed=3)
    assert again.returns.shape == (4, 2) and (again.lengths == 50).all()
    assert (again.returns == evaluate(policy, env, episodes=2, seed=3).returns).all()


def test_collect_returns_that_many_true_transitions():
    from reverie.agents import RandomPolicy

    env = make("InvertedPendulum-v5", 4, seed=1)
    batch = collect(env, RandomPolicy(1), 101)
    assert batch.obs.shape == (101, 4) and batch.terminated.sum() > 3
    for world in range(4):
        rows = batch.extra["world"] == world
        obs, nxt, term = batch.obs[rows], batch.next_obs[rows], batch.terminated[rows]
        joined = (obs[1:] == nxt[:-1]).all(1)
        assert torch.equal(joined, term[:-1] == 0)


def test_state_codec_round_trips_and_refuses_the_rest():
    tree = {
        "t": torch.arange(3), "a": np.eye(2), "n": np.float64(2.5), 3: ("x", None, [1, True]),
        "big": 2**100, "empty": {}, "scalar": torch.tensor(1.5), "bytes": np.array([1], np.uint8),
    }  # fmt: skip
    tensors, text = encode(tree)
    back = decode(tensors, json.loads(json.dumps(text)))
    assert back[3] == tree[3] and back["big"] == 2**100 and back["n"] == 2.5 and back["empty"] == {}
    assert torch.equal(back["t"], tree["t"]) and back["scalar"].shape == ()
    assert isinstance(back["a"], np.ndarray) and (back["a"] == np.eye(2)).all()
    with pytest.raises(TypeError, match=r"\.f holds a function"):
        encode({"f": len.__class__ and (lambda: 0)})


def test_config_round_trip_names_an_unknown_field(tmp_path):
    options = config("sac", tmp_path, "a")
    values = json.loads(json.dumps(to_dict(options)))
    assert from_dict(sac.Config, values) == options
    values["agent"]["gama"] = values["agent"].pop("gamma")
    with pytest.raises(ValueError, match="did you mean 'gamma'"):
        from_dict(sac.Config, values)


# -- the command line

QUICK = ["--env", "reverie/Reacher-v5", "--learning-starts", "50", "--batch-size", "16",
         "--hidden", "16", "16", "--threads", "1", "--eval-episodes", "2",
         "--no-tensorboard", "--no-progress"]  # fmt: skip


def test_train_resume_eval_plot_list(tmp_path, capsys):
    out = ["--out", str(tmp_path), "--name", "a"]
    assert cli.main(["sac", *QUICK, *out, "--steps", "120"]) == 0
    assert cli.main(["sac", *QUICK, *out, "--steps", "120"]) == 2
    assert cli.main(["sac", "--resume", str(tmp_path / "a"), "--steps", "200"]) == 0
    assert load_run(tmp_path / "a").stamp["step"] == 200
    assert cli.main(["sac", "--config", str(tmp_path / "a"), "--name", "b", "--steps", "60"]) == 0
    assert cli.main(["eval", str(tmp_path / "a"), "--episodes", "3"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert row["episodes"] == 3 and np.isfinite(row["return"])
    picture = tmp_path / "c.png"
    runs = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert cli.main(["plot", *runs, "--out", str(picture)]) == 0
    assert picture.stat().st_size > 5000
    assert cli.main(["list", "runs", str(tmp_path)]) == 0
    assert "finished" in capsys.readouterr().out
    assert cli.main(["list"]) == 0 and cli.main([]) == 0
    assert cli.main(["td3", "--resume", str(tmp_path / "a")]) == 2
    assert "reverie sac" in capsys.readouterr().err


@pytest.mark.slow
def test_several_seeds_in_parallel(tmp_path, forks):
    args = ["td3", *QUICK, "--out", str(tmp_path), "--steps", "60", "--seeds", "0:2", "--jobs", "2"]
    assert cli.main(args) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"td3-Reacher-v5-s0", "td3-Reacher-v5-s1"}


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["sca"], "did you mean 'sac'"),
        (["sac", "--preset", "quik"], "did you mean 'quick'"),
        (["sac", "--seeds", "5"], None),
        (["sac", "--seeds", "a:b"], "0:5"),
        (["eval"], "run directory"),
        (["eval", "nowhere"], "no such file"),
        (["list", "things"], "none of"),
    ],
)
def test_a_wrong_command_is_told(argv, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if text is None:
        assert parse_seeds(argv[-1]) == [5]
        return
    assert cli.main(argv) == 2
    assert text in capsys.readouterr().err


@pytest.mark.slow  # real processes that are stopped: tests/faults/test_stops.py
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(number, tmp_path):
    whole = [*QUICK, "--out", str(tmp_path), "--steps", "2000"]
    command = [sys.executable, "-m", "reverie", "sac", *whole, "--name", "cut"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "cut" / "metrics.jsonl"
    deadline = time.time() + 60
    while not (metrics.exists() and metrics.stat().st_size) and time.time() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, err
    assert f"reverie sac --resume {tmp_path / 'cut'}" in err
    stamp = load_run(tmp_path / "cut").stamp
    assert stamp["status"] == "interrupted" and 0 < stamp["step"] < 2000
    assert cli.main(["sac", "--resume", str(tmp_path / "cut")]) == 0
    assert cli.main(["sac", *whole, "--name", "whole"]) == 0
    same_run(tmp_path / "whole", tmp_path / "cut")


def test_watch_or_a_clear_message(tmp_path, capsys):
    path = finished("sac")[1].path
    status = cli.main(["watch", str(path), "--out", str(tmp_path / "w.png"), "--steps", "20"])
    text = capsys.readouterr()
    if status:
        assert "EGL or OSMesa" in text.err
    else:
        assert (tmp_path / "w.png").stat().st_size > 1000
    assert cli.main(["watch", str(path), "--out", str(tmp_path / "w.txt")]) == 2
