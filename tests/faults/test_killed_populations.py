"""A population that is killed for good, and gone on with: each member's files are those of none."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from forked import finish, fork
from made import files, same_end
from tiny import config

from reverie.experiments import population
from reverie.experiments.runs.checkpoint import list_checkpoints, step_of
from reverie.experiments.runs.config import save_config

SEEDS = (4, 0, 9)


def group_of(method, out, **changes):
    return population.of_seeds(method, config(method, out, "x", **changes), SEEDS)


def lasting(path):
    """What a member's directory holds, by name, but when things happened and where it lies."""
    there = files(path)
    there.pop("timing.jsonl")
    stamp = json.loads(there.pop("stamp.json"))
    told = {k: stamp[k] for k in ("method", "seed", "status", "step", "saved", "notes")}
    return told, {k: v.replace(str(path.parent).encode(), b"OUT") for k, v in there.items()}


def require_same(whole, cut):
    assert same_end(whole / "x-p0-9", cut / "x-p0-9")
    for seed in SEEDS:
        expected, got = (lasting(p / f"x-s{seed}") for p in (whole, cut))
        assert list(expected[1]) == list(got[1]) and len(got[1]) >= 4, seed
        assert expected == got, seed


@pytest.mark.parametrize("method", ["sac", pytest.param("iql", marks=pytest.mark.slow)])
def test_a_population_killed_at_random_instants_ends_as_one_that_was_not(method, tmp_path):
    whole, cut, steps = tmp_path / "whole", tmp_path / "cut", 150 if method == "sac" else 70
    population.main(group_of(method, tmp_path / "first", steps=10))  # imports, once for all
    start = time.perf_counter()

    def train(out):
        resume = (out / "x-p0-9").exists()
        group = group_of(method, out, steps=steps)  # the data too are made here, once
        return fork(lambda: population.main(group, resume=resume))

    assert finish(train(whole)) == 0
    seconds, draw, hit = time.perf_counter() - start, random.Random(method), 0
    for _ in range(2):
        pid = train(cut)
        time.sleep(draw.uniform(0.1, 0.7) * seconds)
        os.kill(pid, signal.SIGKILL)
        hit += os.WIFSIGNALED(finish(pid))
    assert hit
    assert finish(train(cut)) == 0
    require_same(whole, cut)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sac", "td3", "iql", "td3bc"])
def test_a_command_killed_in_the_middle_goes_on_to_the_same_bytes(method, tmp_path):
    """Processes of their own, SIGKILL between the first checkpoint and the last, three times."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for place in ("whole", "cut"):
        (tmp_path / place).mkdir()
        options = config(method, tmp_path / place, "x", steps=1_500)
        save_config(tmp_path / place / "asked.json", method, options)

    def command(place, *argv):
        log = (tmp_path / place / "log").open("ab")
        return subprocess.Popen([sys.executable, "-m", "reverie", *argv], stderr=log, env=env)

    def begin(place):
        asked = str(tmp_path / place / "asked.json")
        return command(place, method, "--config", asked, "--population", "4,0,9")

    assert begin("whole").wait() == 0
    group, draw, at, hit = tmp_path / "cut" / "x-p0-9", random.Random(method), 60, 0
    running = begin("cut")
    for _ in range(3):
        while running.poll() is None:
            points = list_checkpoints(group / "checkpoints")
            if points and step_of(points[-1]) >= at:
                break
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.2))
        running.kill()
        hit += running.wait() == -signal.SIGKILL
        at = step_of(list_checkpoints(group / "checkpoints")[-1]) + 240
        running = command("cut", "population", "--resume", str(group))
    assert running.wait() == 0 and hit >= 2
    require_same(tmp_path / "whole", tmp_path / "cut")
