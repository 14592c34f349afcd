"""Runs that cannot be lost: kills, full disks, damaged files, values that are not finite."""

import functools
import logging
import os
import random
import resource
import signal
import time

import pytest
import torch
from forked import finish, fork
from safetensors.torch import load_file
from tiny import METHODS, config, module_of

from reverie.experiments import cli, load_run, sac, td3
from reverie.experiments.runs import checkpoint
from reverie.experiments.runs.stopping import DIVERGED

one = pytest.mark.parametrize("method", [  # fits and tasks: tests/faults/test_stops.py, and slow
    pytest.param(m, marks=[] if m == "sac" else [pytest.mark.slow]) for m in METHODS
])  # fmt: skip


def contents(path):
    newest = checkpoint.list_checkpoints(path / "checkpoints")[-1]
    return (
        newest.name,
        (newest / "state.json").read_bytes(),
        {k: v.tolist() for k, v in load_file(newest / "tensors.safetensors").items()},
        (path / "metrics.jsonl").read_bytes(),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run of a method, and the seconds that it took; made when asked for."""
    out = tmp_path_factory.mktemp("whole")

    @functools.cache
    def run(method):
        module = module_of(method)
        start = time.perf_counter()
        assert finish(fork(lambda: module.main(config(method, out, method)))) == 0
        return contents(out / method), time.perf_counter() - start

    return run


def kill_and_resume(method, kills, seed, whole, out):
    """Kill one run again and again at random instants, then let it finish; compare the whole."""
    module, (expected, seconds) = module_of(method), whole(method)
    draw = random.Random(seed)
    survived = 0
    for _ in range(kills):
        resume = (out / "run").exists()
        pid = fork(lambda: module.main(config(method, out, "run"), resume=resume))  # noqa: B023
        time.sleep(draw.uniform(0.0, 0.6 * seconds))
        os.kill(pid, signal.SIGKILL)
        survived += os.WIFSIGNALED(finish(pid))
    assert finish(fork(lambda: module.main(config(method, out, "run"), resume=True))) == 0
    assert contents(out / "run") == expected
    return survived


@one
def test_three_kills_at_random_instants(method, whole, tmp_path):
    assert kill_and_resume(method, 3, f"fast {method}", whole, tmp_path) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_fifty_kills_at_random_instants(method, whole, tmp_path):
    survived = 0
    for i in range(10):
        out = tmp_path / str(i)
        out.mkdir()
        survived += kill_and_resume(method, 5, f"slow {method} {i}", whole, out)
    print(f"{method}: {survived} of 50 kills hit a running process; all runs equal the whole one")
    assert survived >= 25


@one
def test_a_kill_in_the_middle_of_a_save(method, whole, tmp_path):
    """Die after the tensors are written and before the rename."""
    module = module_of(method)

    def die_while_saving():
        real, saves = checkpoint.sh.sync_file, []

        def sync(path):
            saves.append(path)
            if len(saves) > 30:
                os.kill(os.getpid(), signal.SIGKILL)
            real(path)

        checkpoint.sh.sync_file = sync
        module.main(config(method, tmp_path, "run"))

    assert os.WIFSIGNALED(finish(fork(die_while_saving)))
    assert finish(fork(lambda: module.main(config(method, tmp_path, "run"), resume=True))) == 0
    assert contents(tmp_path / "run") == whole(method)[0]


@one
def test_a_full_disk_keeps_training_and_the_old_checkpoint(method, whole, tmp_path):
    module = module_of(method)
    count = tmp_path / "count"

    def train_on_a_small_disk():
        warnings = []
        handler = logging.Handler()
        handler.emit = lambda record: warnings.append(record.getMessage())
        logging.getLogger("reverie").addHandler(handler)
        real = checkpoint.save

        def save(folder, at, *args, **kwargs):
            path = real(folder, at, *args, **kwargs)
            if at[0] == 120:  # from here on, files above 256 bytes are refused
                resource.setrlimit(resource.RLIMIT_FSIZE, (256, 256))
            return path

        checkpoint.save = save
        module.main(config(method, tmp_path, "run"))
        count.write_text(str(sum("not written" in w for w in warnings)))

    assert finish(fork(train_on_a_small_disk)) == 0
    kept = checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")
    assert [checkpoint.step_of(p) for p in kept] == [60, 120]
    leftovers = [p for p in (tmp_path / "run").rglob("*") if "tmp" in p.name or "partial" in p.name]
    assert not leftovers
    assert count.read_text() == "1"  # for rows and checkpoints at steps 180, 240, ..., 660
    assert finish(fork(lambda: module.main(config(method, tmp_path, "run"), resume=True))) == 0
    assert contents(tmp_path / "run") == whole(method)[0]


@pytest.mark.parametrize("where", ["loss", "parameter", "batch"])
@pytest.mark.parametrize("method", ["sac", "td3"])
def test_a_value_that_is_not_finite_stops_the_run_with_a_dump(
    method, where, tmp_path, monkeypatch, capsys
):
    module = module_of(method)
    agent_class = {"sac": sac.SAC, "td3": td3.TD3}[method]
    real, calls = agent_class.update, []

    def update(self, batch, **more):
        calls.append(1)
        if len(calls) == 20 and where == "parameter":
            next(iter(self.critic.parameters())).data[0] = float("nan")
        if len(calls) == 20 and where == "batch":
            batch.reward[3] = float("inf")
        metrics = real(self, batch, **more)
        if len(calls) == 20 and where == "loss":
            metrics["critic_loss"] = metrics["critic_loss"] * float("nan")
        return metrics

    monkeypatch.setattr(agent_class, "update", update)
    monkeypatch.setattr(module, "PRESETS", {"default": config(method, tmp_path, "run")})
    assert cli.main([method]) == DIVERGED
    assert len(calls) == 20  # within the step
    stamp = load_run(tmp_path / "run").stamp
    assert stamp["status"] == "diverged" and "not finite" in stamp["error"]
    found = checkpoint.load(tmp_path / "run" / "dump", tmp_path)
    assert found.state["batch"]["obs"].shape == (16, 10)
    assert found.state["env"]["physics"].shape[0] == 3
    if where == "batch":
        assert torch.isinf(found.state["batch"]["reward"][3])
    assert checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")
    # Three worlds, so 57 vector steps by step 171: every eighth of them, and the last.
    assert len(found.state["trail"]) == 8 and found.state["trail"][-1].shape[0] == 3
    check_film(tmp_path / "run", tmp_path / "dump.png", capsys)


def test_ppo_stops_when_a_parameter_is_not_finite(tmp_path, monkeypatch, capsys):
    from stable_baselines3 import PPO

    real, calls = PPO.train, []

    def train(self):
        real(self)
        calls.append(1)
        if len(calls) == 8:
            self.policy.value_net.weight.data[0, 0] = float("nan")

    monkeypatch.setattr(PPO, "train", train)
    monkeypatch.setattr(module_of("ppo"), "PRESETS", {"default": config("ppo", tmp_path, "run")})
    assert cli.main(["ppo"]) == DIVERGED
    assert "value_net.weight not finite" in load_run(tmp_path / "run").stamp["error"]
    found = checkpoint.load(tmp_path / "run" / "dump", tmp_path)
    assert found.state["batch"]["obs"].shape == (30, 10)  # SB3 flattens it to train
    check_film(tmp_path / "run", tmp_path / "dump.png", capsys)


@pytest.mark.parametrize("method", ["ncap-es", "ncap-ars", "ncap"])
def test_a_search_stops_when_its_parameters_are_not_finite(method, tmp_path, monkeypatch, capsys):
    from reverie.agents import search

    kind = {"ncap-es": search.OpenAIES, "ncap-ars": search.ARS, "ncap": search.CMAES}[method]
    best, tell, told = kind.best.fget, kind.tell, []
    monkeypatch.setattr(kind, "tell", lambda self, scores: (told.append(1), tell(self, scores))[1])
    broken = property(lambda self: best(self) * (float("nan") if len(told) == 6 else 1.0))
    monkeypatch.setattr(kind, "best", broken)
    monkeypatch.setattr(module_of(method), "PRESETS", {"default": config(method, tmp_path, "run")})
    assert cli.main(["ncap"]) == DIVERGED
    stamp = load_run(tmp_path / "run").stamp
    assert stamp["status"] == "diverged" and stamp["step"] == 180  # six generations of 30
    found = checkpoint.load(tmp_path / "run" / "dump", tmp_path)
    assert found.state["batch"]["candidates"].shape[0] == 6
    check_film(tmp_path / "run", tmp_path / "dump.png", capsys)


def check_film(run, strip, capsys):
    """The dump can be watched, or the machine has no headless OpenGL and says so."""
    if cli.main(["watch", str(run), "--dump", "--world", "2", "--out", str(strip)]):
        assert "EGL or OSMesa" in capsys.readouterr().err
    else:
        assert strip.stat().st_size > 500


def test_an_observation_that_is_not_finite_stops_the_run(tmp_path):
    import gymnasium
    import numpy as np

    class Breaks(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        steps = 0

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(2, np.float32), {}

        def step(self, action):
            self.steps += 1
            value = np.nan if self.steps == 70 else 0.0
            return np.full(2, value, np.float32), 0.0, False, False, {}

    gymnasium.register("Breaks-v0", entry_point=Breaks, max_episode_steps=30)
    options = config("sac", tmp_path, "run", env="Breaks-v0", num_envs=1)
    from reverie.experiments.runs.stopping import Diverged

    with pytest.raises(Diverged, match="non-finite observation"):
        sac.main(options)
    assert load_run(tmp_path / "run").stamp["step"] == 69
