"""How much a newcomer reads to follow one environment step and one gradient step of a run."""

import dataclasses
import sys
from pathlib import Path

from reverie.experiments import offpolicy, sac
from reverie.experiments.config import RunOptions

ROOT = Path(__file__).parent.parent
SCRIPT = {ROOT / "experiments" / "sac.py", ROOT / "experiments" / "offpolicy.py"}


def trace(tmp_path):
    """Return the files of ours in which a function ran during a few steps of the loop."""
    run = RunOptions(
        out=str(tmp_path), log_every=0, eval_every=0, checkpoint_every=0, eval_episodes=1,
        tensorboard=False, progress=False,
    )  # fmt: skip
    config = dataclasses.replace(sac.Config(), steps=40, learning_starts=10, batch_size=8, run=run)
    files, calls = set(), []

    def profile(frame, event, arg):
        if event == "call" and 20 <= len(calls) < 25:
            files.add(frame.f_code.co_filename)

    tick = offpolicy.Run.tick

    def count(self, transitions):
        calls.append(1)
        tick(self, transitions)

    offpolicy.Run.tick = count
    sys.setprofile(profile)
    try:
        sac.main(config)
    finally:
        sys.setprofile(None)
        offpolicy.Run.tick = tick
    ours = {Path(f) for f in files if Path(f).is_relative_to(ROOT) and ".venv" not in f}
    return {f for f in ours if not f.is_relative_to(ROOT / "tests")} | SCRIPT


def test_reading_cost_of_sac(tmp_path):
    files = trace(tmp_path)
    lines = {f: len(f.read_text().splitlines()) for f in files}
    table = "\n".join(f"{n:5d} {f.relative_to(ROOT)}" for f, n in sorted(lines.items()))
    assert {"core.py", "replay.py", "sac.py", "half_cheetah.py"} <= {f.name for f in files}
    assert len(files) <= 18 and sum(lines.values()) <= 2150, f"\n{table}\n{sum(lines.values())}"
    print(f"\n{table}\n{sum(lines.values())} lines in {len(files)} files")
