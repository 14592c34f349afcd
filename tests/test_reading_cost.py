"""How much a newcomer reads to follow one environment step and one gradient step of a run.

Two figures, each of whole files in which a line ran: the learning path (buffer, loop, run, agent,
networks, script) and the simulator path (ours; other suites' end at `gym.make`).
"""

import inspect
import sys
from pathlib import Path

import pytest
from tiny import METHODS, config

from reverie.envs.native.env import TaskEnv
from reverie.experiments.runs.run import Run

ROOT = Path(__file__).parent.parent
SIMULATOR = (700, 5)  # lines, files
# The aims are 600 in 5 and, of learning, 1,200 in 10: docs/architecture.md says what is more.
LEARNING = {"sac": (1367, 9), "td3bc": (1335, 10), "oer": (1672, 9), "ncap": (1189, 7)}
# Ticks of the tiny run looked at: acting, storing and learning, and neither a row nor a save.
STEPS = {"sac": (42, 46), "td3bc": (65, 70), "oer": (65, 70), "ncap": (3, 4)}


def trace(method, tmp_path, monkeypatch):
    """Return {file: lines that ran} of ours over a few ticks in the middle of a tiny run."""
    first, last = STEPS[method]
    ran, ticks, resets = {}, [], []
    tick = Run.tick

    def count(self, transitions):
        ticks.append(1)
        if len(ticks) == first:  # the loop's own frames are open already
            sys.settrace(profile)
            frame = inspect.currentframe()
            while frame := frame.f_back:
                frame.f_trace = profile
        tick(self, transitions)
        if len(ticks) == last:
            sys.settrace(None)

    def profile(frame, event, arg):
        file = frame.f_code.co_filename
        if resets or not first <= len(ticks) < last or not file.startswith(str(ROOT)):
            return profile
        if event == "line":
            ran.setdefault(file, set()).add(frame.f_lineno)
        return profile

    def begins(reset):  # an episode: neither a step of the environment nor of the learner
        def begin(*args):
            resets.append(1)
            try:
                return reset(*args)
            finally:
                resets.pop()

        return begin

    monkeypatch.setattr(Run, "tick", count)
    for name in ("reset", "restart"):
        monkeypatch.setattr(TaskEnv, name, begins(getattr(TaskEnv, name)))
    module = METHODS[method][0]
    try:
        module.main(config(method, tmp_path, "run"))
    finally:
        sys.settrace(None)
    assert len(ticks) > last
    ours = {Path(f): len(lines) for f, lines in ran.items() if ".venv" not in f}
    ours.setdefault(Path(inspect.getfile(module)), 0)
    return {f: n for f, n in ours.items() if not f.is_relative_to(ROOT / "tests")}


@pytest.mark.parametrize("method", STEPS)
def test_reading_cost(method, tmp_path, monkeypatch):
    ran = trace(method, tmp_path, monkeypatch)
    lines = {f: len(f.read_text().splitlines()) for f in ran}
    envs = {f for f in lines if f.is_relative_to(ROOT / "envs")}
    table = "\n".join(f"{n:5d} {ran[f]:5d} {f.relative_to(ROOT)}" for f, n in sorted(lines.items()))
    for what, files, (most, many) in (
        ("learning path", set(lines) - envs, LEARNING[method]),
        ("simulator path", envs, SIMULATOR),
    ):
        total = sum(lines[f] for f in files)
        table += f"\n{what}: {total} lines in {len(files)} files"
        assert total <= most and len(files) <= many, f"{method}\n{table}"
    print(f"\n{method}\n{table}\nlines that ran: {sum(ran.values())}")
