"""Stops: heard wherever a run is, passed on by parents, and gone on from byte for byte."""

import dataclasses
import fcntl
import functools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import gymnasium
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import DIFFUSION, METHODS, config, finished, module_of

from reverie.agents import RandomPolicy, candidates, evaluate, playing
from reverie.agents.dreams.fit import Fit
from reverie.agents.dynamics import DynamicsEnsemble
from reverie.agents.ncap import SineCPG, transfer
from reverie.agents.oer import keeping, selectors
from reverie.agents.oer.distilled import Distilled
from reverie.agents.sac import SAC
from reverie.agents.synther import samplers
from reverie.agents.synther.diffusion import Diffusion
from reverie.envs import make
from reverie.envs.check import check_env
from reverie.envs.gym.sb3 import BatchVecEnv
from reverie.experiments import cli, load_run, methods, oer, sac
from reverie.experiments.loops import collecting, deploying, onpolicy
from reverie.experiments.runs import checkpoint, stopping
from reverie.experiments.runs.run import Run
from reverie.experiments.studies.jobs import Job
from reverie.experiments.studies.pool import LocalEngine, run_jobs


def contents(path):
    """Return all of a run that must not depend on when it was stopped."""
    newest = checkpoint.list_checkpoints(path / "checkpoints")[-1]
    tensors = load_file(newest / "tensors.safetensors")
    return (
        newest.name,
        (newest / "state.json").read_bytes(),
        {name: value.numpy().tobytes() for name, value in tensors.items()},
        (path / "metrics.jsonl").read_bytes(),
    )


PLACES = {
    "evaluation": (playing, "advance"),
    "update": (SAC, "update"),
    "fit": (DynamicsEnsemble, "fit_step"),
    "diffusion": (Diffusion, "fit_step"),
    "sampler": (samplers, "denoise"),  # a network call of the stochastic one
    "distillation": (Distilled, "clone_step"),
    "selection": (selectors.Pick, "go_on"),
    "rollout of mu": (keeping, "advance"),
    "generation": (candidates.Play, "step"),
    "rollout": (BatchVecEnv, "step_wait"),
    "learning": (onpolicy.Episodes, "go_on"),  # from a rollout
    "collection": (deploying.Collector, "step"),
    "world model": (Fit, "fit_step"),
}


def ask_at(patch, place, n):
    """Let somebody ask to stop at the n-th call of a place's function; return the calls so far."""
    owner, name = PLACES[place]
    real, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == n:
            stopping.stop_asked = True
        return real(*args, **kwargs)

    patch.setattr(owner, name, call)
    return calls


def through(stops, method, out, **changes):
    """Run to the end through stops: each is heard in the very call in which it was asked."""
    module, options = module_of(method), config(method, out, "run", **changes)
    for i, (place, n) in enumerate(stops):
        stopping.stop_asked = False
        with pytest.MonkeyPatch.context() as patch:
            calls = ask_at(patch, place, n)
            with suppress(stopping.Interrupted):
                module.main(options, resume=i > 0)
        assert len(calls) == n, f"stop {i}, {place} {n}, was not heard in {len(calls)} calls"
        assert load_run(out / "run").stamp["status"] == "interrupted"
    stopping.stop_asked = False
    module.main(options, resume=True)
    ended = contents(out / "run")
    with pytest.MonkeyPatch.context() as patch:  # resumed at its end, it is judged once more
        calls = ask_at(patch, "evaluation", 20)
        with pytest.raises(stopping.Interrupted):
            module.main(options, resume=True)
    assert len(calls) == 20 and contents(out / "run") == ended
    return ended


SHORT = {"steps": 160}  # an evaluation at 150, and one at the end
ENDS = {"fidelity": ("random", "mbes", "online"), "task_steps": 80, "distilled_steps": 40, **SHORT}
EVAL = [("evaluation", 3), ("evaluation", 53), ("evaluation", 30)]  # the first, twice the last
REFITS = {"refit_every": 60, "diffusion": dataclasses.replace(DIFFUSION, sampler="heun"), **SHORT}
CHAINS = [  # of every loop
    ("sac", [("update", 1), ("update", 5), *EVAL], {"utd": 2.0, **SHORT}),
    (
        "synther",
        [("diffusion", 1), ("diffusion", 33), ("sampler", 2), ("sampler", 4),
         ("diffusion", 64), ("sampler", 7), ("update", 2), *EVAL],
        REFITS,
    ),
    ("td3bc", EVAL, SHORT),
    (
        "oer",
        [("rollout of mu", 9), ("selection", 2), ("evaluation", 130), ("fit", 30)],
        ENDS,
    ),
    ("ppo", [("rollout", 1), ("rollout", 27), ("learning", 1), ("learning", 7), *EVAL], SHORT),
    ("ncap", [("evaluation", 7), ("generation", 1), ("generation", 14), *EVAL], SHORT),
    ("dreamland", [("world model", 40), ("evaluation", 103)], {"round_every": 90, **SHORT}),
]  # fmt: skip
SLOW_CHAINS = [  # what a loop does beside
    (
        "oer",
        [("fit", 1), ("fit", 13), ("rollout of mu", 9), ("selection", 1), ("selection", 2),
         ("selection", 45), ("evaluation", 3), ("evaluation", 130), ("fit", 30),
         ("selection", 30), ("evaluation", 60)],
        ENDS,
    ),
    (  # collect, fit, search, a look at held-out dreams; again; an evaluation, of its dreams too
        "dreamland",
        [("collection", 1), ("collection", 9), ("world model", 1), ("world model", 40),
         ("generation", 2), ("evaluation", 3), ("collection", 4), ("world model", 30), *EVAL[:2],
         ("evaluation", 103)],
        {"round_every": 90, **SHORT},
    ),
    (
        "oer",
        [("distillation", 1), ("distillation", 13), ("fit", 4), ("selection", 40),
         ("distillation", 40), ("evaluation", 60)],
        {"memory": "distilled", **ENDS},
    ),
    (
        "synther-iql",
        [("diffusion", 1), ("diffusion", 33), ("sampler", 4), ("sampler", 7), *EVAL],
        {"diffusion": REFITS["diffusion"], **SHORT},
    ),
    ("oer-synther", [("diffusion", 1), ("diffusion", 40), ("evaluation", 60), ("diffusion", 69)],
     ENDS),
    ("ncap-es", [("generation", 1), ("generation", 14), *EVAL], SHORT),
    ("ncap-ars", [("generation", 1), ("generation", 14), *EVAL], SHORT),
    # A rule's policy is built anew after a stop in the second collection, or in an evaluation.
    ("dreamland-ppo", [("world model", 5), ("collection", 4), ("world model", 30), *EVAL[:2]],
     {"round_every": 60, **SHORT}),
]  # fmt: skip


def chains():
    for group, marks in ((CHAINS, []), (SLOW_CHAINS, [pytest.mark.slow])):
        for method, stops, changes in group:
            yield pytest.param(method, stops, changes, id=f"{method}-{stops[0][0]}", marks=marks)


@pytest.mark.parametrize(("method", "stops", "changes"), list(chains()))
def test_a_run_stopped_in_every_place_ends_as_one_that_nobody_stopped(
    method, stops, changes, tmp_path
):
    whole = finished(method)[1].path
    if changes:
        whole = module_of(method).main(config(method, tmp_path, "whole", **changes)).path
    assert through(stops, method, tmp_path, **changes) == contents(whole)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_stops_at_any_instant(method, tmp_path, monkeypatch):
    """Stopped at random ones of the instants at which the run looks, 20 times over."""
    asked, left = Run.stopping.fget, [0]

    def look(run):
        left[0] -= 1
        if left[0] == 0:
            stopping.stop_asked = True
        return asked(run)

    monkeypatch.setattr(Run, "stopping", property(look))
    module = module_of(method)
    module.main(config(method, tmp_path, "whole"))
    most, draw, stops = -left[0], random.Random(method), 0
    for i in range(21):
        stopping.stop_asked, left[0] = False, draw.randint(2, most // 8) if i < 20 else 0
        try:
            module.main(config(method, tmp_path, "run"), resume=i > 0)
        except stopping.Interrupted:
            stops += 1
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    assert stops >= 5


# -- outside a run's steps


def test_a_run_told_to_stop_before_it_begins_touches_nothing(tmp_path):
    stopping.stop_asked = True
    with pytest.raises(playing.Stopped):
        module_of("td3bc").main(config("td3bc", tmp_path, "run"))
    assert not (tmp_path / "run").exists()


def test_a_tasks_data_is_made_whole_or_not_at_all(tmp_path, monkeypatch):
    options = config("oer", tmp_path, "run", data_folder=str(tmp_path / "data"), steps=10)
    real, calls = collecting.advance, []

    def advance(*args):
        calls.append(1)
        stopping.stop_asked = len(calls) == 9  # six vector steps are a task's data
        return real(*args)

    monkeypatch.setattr(collecting, "advance", advance)
    with pytest.raises(playing.Stopped):
        oer.main(options)
    first = sorted((tmp_path / "data").iterdir())
    assert len(calls) == 9 and [p.suffix for p in first] == [".json", ".safetensors"]
    assert not (tmp_path / "run").exists()
    stopping.stop_asked = False
    oer.main(options)
    assert len(calls) == 15 and len(list((tmp_path / "data").iterdir())) == 4


@pytest.mark.parametrize("where", ["random actions", "the data"])
def test_collect_leaves_nothing_half_written(where, tmp_path, monkeypatch, capsys):
    owner, n = {"random actions": (playing, 30), "the data": (collecting, 2)}[where]
    real, calls = owner.advance, []

    def advance(*args):
        calls.append(1)
        if len(calls) == n:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(owner, "advance", advance)
    args = ["collect", "--env", "reverie/Reacher-v5", "--transitions", "100", "--num-envs", "4"]
    assert cli.main([*args, "--out", str(tmp_path / "d" / "data")]) == stopping.INTERRUPTED
    assert len(calls) == n and not (tmp_path / "d").exists()
    assert "the same command begins again" in capsys.readouterr().err


def test_eval_hears_a_stop_and_a_second_one_at_once(tmp_path, monkeypatch, capsys):
    path = module_of("td3bc").main(config("td3bc", tmp_path, "run", steps=10)).path
    real, calls = playing.advance, []

    def advance(*args, signals=1):
        calls.append(1)
        for _ in range(signals if len(calls) == 5 else 0):
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(playing, "advance", advance)
    assert cli.main(["eval", str(path)]) == stopping.INTERRUPTED
    assert len(calls) == 5 and not capsys.readouterr().out
    calls.clear()
    monkeypatch.setattr(playing, "advance", functools.partial(advance, signals=2))
    assert cli.main(["eval", str(path)]) == stopping.AT_ONCE


def test_scoring_other_bodies_hears_a_stop():
    """The search's last evaluation: every condition is asked, here after 7 steps of the second."""
    calls = []

    def stop():
        calls.append(1)
        return len(calls) > 17

    def swim(n, **kwargs):
        return make("reverie/Swim-v0", n, time_feature=True, threads=1, max_episode_steps=10,
                    **kwargs)  # fmt: skip

    def build(links):
        return SineCPG(links - 1, 60)

    start = build(6).initial(torch.Generator().manual_seed(0))
    with pytest.raises(playing.Stopped):
        transfer.off_nominal(build, start, 6, swim, stop)
    assert len(calls) == 18


# -- episodes that never end


class Endless(gymnasium.Env):
    """Pays 1 a step; its episodes end after `ends` steps, or never."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    steps, ends = 0, None

    def __init__(self, ends=None):
        self.ends = ends

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return obs, 1.0, self.steps == self.ends, False, {}


gymnasium.register("Endless-v0", entry_point=Endless)


@pytest.fixture
def told(monkeypatch, caplog):
    """Episodes are cut after ten times four steps where there is no limit; what is told of it."""
    monkeypatch.setattr(playing, "LIMIT", 4)
    playing._tell_cut.cache_clear()
    return caplog


def test_an_evaluation_has_a_cap_of_steps_and_says_so(told):
    policy = RandomPolicy(1, seed=0)
    for _ in range(2):
        judged = evaluate(policy, make("Endless-v0", 3), episodes=2, seed=1)
        assert judged.returns.tolist() == judged.lengths.tolist() == [[40, 40]] * 3
        assert judged.cut == 6 and judged.row()["cut"] == 6
    assert told.text.count("not ended after 40 steps") == 1
    judged = evaluate(policy, make("Endless-v0", 2, ends=40), seed=1)  # ends at the cap by itself
    assert judged.returns.tolist() == [[40], [40]] and judged.cut == 0
    assert "cut" not in judged.row()
    judged = evaluate(policy, make("Endless-v0", 2, max_episode_steps=7), seed=1)
    assert judged.lengths.tolist() == [[7], [7]] and judged.cut == 0
    assert playing.cap_of(make("Endless-v0", 1, max_episode_steps=7)) == 70


def test_an_environment_that_does_not_end_is_told_before_training(told, tmp_path):
    tiny = {"env": "Endless-v0", "steps": 100, "num_envs": 1, "env_options": {}}
    for method in ("sac", "ppo"):
        module_of(method).main(config(method, tmp_path, method, **tiny))
        assert "Endless-v0 has no time limit" in told.messages[0]
        assert load_run(tmp_path / method).rows[-1]["cut"] == 2  # one of each judging world
        told.clear()
    for options in ({"max_episode_steps": 20}, {"ends": 900}):
        name = f"fine-{len(options)}-{min(options)}"
        module_of("sac").main(config("sac", tmp_path, name, **{**tiny, "env_options": options}))
        assert not any("no time limit" in text for text in told.messages)


def test_check_env_names_an_environment_that_does_not_end(monkeypatch):
    monkeypatch.setattr("reverie.envs.check.PATIENCE", 100)

    def row(**options):
        return next(r for r in check_env("Endless-v0", steps=30, **options) if r[0] == "time limit")

    assert row().verdict == "FAULT" and "no episode ended within 100 steps" in row().detail
    assert row(ends=9).verdict == row(max_episode_steps=9).verdict == "ok"
    assert row(max_episode_steps=31).verdict == "ok"  # it has a limit, if a late one


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_takes_a_time_limit(name, monkeypatch, capsys):
    module, seen = methods.script(name), []

    def main(config, resume):
        seen.append(config.env_options)
        raise stopping.Interrupted("here")

    monkeypatch.setattr(module, "main", main)
    assert cli.main([name, "--max-episode-steps", "7"]) == stopping.INTERRUPTED
    assert seen == [{"max_episode_steps": 7}]
    assert cli.main([name, "--max-episode-steps", "-7"]) == 2
    assert "'-7'" in capsys.readouterr().err


# -- parents

CHILD = """
import signal, sys, time
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
open(sys.argv[1] + ".up", "w").close()
while len(told) < int(sys.argv[2]):
    time.sleep(0.01)
time.sleep(0.3)
open(sys.argv[1], "w").write(str(len(told)))
"""


class Stubs(LocalEngine):
    """Children that count their SIGTERMs, and end after as many as asked for."""

    def __init__(self, folder, ends, parallel=2):
        super().__init__(parallel, 1)
        self.folder, self.ends = folder, ends

    def _start(self, job):
        told = [str(self.folder / str(job.config.seed)), str(self.ends)]
        return subprocess.Popen([sys.executable, "-c", CHILD, *told], start_new_session=True)


def some_jobs(out, n):
    return [Job("sac", dataclasses.replace(sac.Config(), seed=i)) for i in range(n)]


def when_up(folder, then):
    """Do something in another thread once two children are up."""

    def wait():
        while len(list(folder.glob("*.up"))) < 2:
            time.sleep(0.01)
        then()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_stop_is_passed_on_once_and_waited_for(tmp_path):
    thread = when_up(tmp_path, lambda: setattr(stopping, "stop_asked", True))
    with pytest.raises(stopping.Interrupted, match=r"0 of 3 .* above .*--seeds 2 for"):
        run_jobs(some_jobs(tmp_path, 3), Stubs(tmp_path, ends=1))
    thread.join()
    assert [(tmp_path / str(i)).read_text() for i in range(2)] == ["1", "1"]
    assert not (tmp_path / "2.up").exists()


def test_a_second_signal_is_passed_on_too(tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    thread = when_up(tmp_path, twice)
    with stopping.stop_on_signals(), pytest.raises(KeyboardInterrupt):
        run_jobs(some_jobs(tmp_path, 2), Stubs(tmp_path, ends=2))
    thread.join()
    assert [(tmp_path / str(i)).read_text() for i in range(2)] == ["2", "2"]


def test_a_directory_in_use_is_waited_for(tmp_path, caplog):
    held, free = tmp_path / "0", tmp_path / "1"
    for path in (held, free):
        path.mkdir()
        (path / "lock").write_text("process 7, since noon")
    engine = Stubs(tmp_path, ends=0)
    with (held / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for i, path in enumerate((held, free)):
            engine.submit(Job("sac", dataclasses.replace(sac.Config(), seed=i), path))
        for _ in range(3):
            engine.poll()
        assert [job.path for job, _ in engine.running] == [free]
        assert caplog.text.count("in use by process 7, since noon") == 1
    engine.poll()
    assert {job.path for job, _ in engine.running} == {held, free}
    engine._wait()


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_reaches_every_seed_once(tmp_path):
    """A terminal sends SIGINT to the whole process group; the parent passes one on."""
    small = ["--env", "reverie/Reacher-v5", "--steps", "100000", "--learning-starts", "50",
             "--log-every", "60", "--eval-every", "0", "--batch-size", "16",
             "--no-tensorboard", "--no-progress", "--out", str(tmp_path)]  # fmt: skip
    command = [sys.executable, "-m", "reverie", "td3", *small, "--seeds", "0:2", "--jobs", "2"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    until = time.time() + 120
    runs = [tmp_path / f"td3-Reacher-v5-s{i}" for i in range(2)]
    rows = [run / "metrics.jsonl" for run in runs]
    while not all(r.exists() and r.stat().st_size for r in rows) and time.time() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == stopping.INTERRUPTED, err
    for run in runs:
        assert f"reverie td3 --resume {run}" in err
        assert load_run(run).stamp["status"] == "interrupted"
        assert checkpoint.list_checkpoints(run / "checkpoints")
    assert "0 of 2 runs had ended" in err and "Traceback" not in err
