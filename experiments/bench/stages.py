"""What a GPU is asked, in stages of known length: `reverie bench gpu --stage 1`, 2, 3, 4.

What matters comes first in each, and its table and stamp are written after each measurement: a
stage that is cut keeps what it had. No case begins after the stage's time; those left are named.
"""

import csv
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...buffers.aside import write_text
from ..runs.resources import check_device, use_threads
from ..runs.stamp import hardware
from . import gpu_learner, gpu_parity, gpu_synther, gpu_worlds
from .measure import Case, Measure, Toy
from .report import BenchOptions

OUT = Path("experiments/results/bench")


class Stage(NamedTuple):
    """A stage: what it is, its seconds, its cases in the order of what they are worth."""

    what: str
    seconds: float
    cases: Callable[[Toy | None, BenchOptions], list[Case]]


STAGES = {
    1: Stage("parity, graphs and compilation", 180, gpu_parity.cases),
    2: Stage("steps of worlds", 180, gpu_worlds.cases),
    3: Stage("learners", 300, gpu_learner.cases),
    4: Stage("SynthER at width 1024", 180, gpu_synther.cases),
}


def run(options: BenchOptions) -> list[Measure]:
    """Take a stage or all of them, at toy size on the CPU if `dry_run`; return the measurements."""
    toy = Toy() if options.dry_run else None
    device = "cpu" if toy else options.device
    check_device(device)
    use_threads(options.threads)
    wanted = sorted(STAGES) if options.stage is None else [options.stage]
    stamp = hardware()
    return [m for n in wanted for m in take(n, STAGES[n], toy, options, stamp)]


def take(
    n: int, stage: Stage, toy: Toy | None, options: BenchOptions, stamp: Mapping[str, Any]
) -> list[Measure]:
    """Take one stage; print and write each measurement as it is made."""
    end, rows, left = time.monotonic() + stage.seconds, list[Measure](), list[str]()
    print(f"stage {n}: {stage.what}, {stage.seconds:.0f} s", flush=True)
    for name, measures in stage.cases(toy, options):
        if time.monotonic() >= end:
            left.append(name)
            continue
        for m in _told(name, measures):
            rows.append(m)
            print(f"  {m.case}: {m.what} {m.value:,.4g} {m.unit}", flush=True)
            write(n, rows, left, options, stamp)
    if left:
        print(f"  no time left for {', '.join(left)}", flush=True)
    write(n, rows, left, options, stamp)
    return rows


def _told(name: str, measures: Callable[[], Iterator[Measure]]) -> Iterator[Measure]:
    """Yield a case's measurements; one that fails says so, and the stage goes on."""
    start = time.monotonic()
    try:
        yield from measures()
    except Exception as error:  # on a machine that is lent for minutes, the others still count
        print(f"  {name} failed: {type(error).__name__}: {error}", flush=True)
        yield Measure(name, "failed", 1, type(error).__name__)
    yield Measure(name, "took", time.monotonic() - start, "s")


def write(
    n: int, rows: list[Measure], left: list[str], options: BenchOptions, stamp: Mapping[str, Any]
) -> None:
    """Write stage n's CSV, and beside it the settings and the stamp of this machine."""
    if options.dry_run and options.json is None:
        return
    path = options.json or OUT / "gpu.json"
    path = path.with_name(f"{path.stem}-stage-{n}.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([Measure._fields, *rows])
    write_text(path, text.getvalue())
    settings = json.loads(json.dumps(vars(options), default=str))
    about = {"stage": n, "left": left, "options": settings, "stamp": stamp}
    write_text(path.with_suffix(".json"), json.dumps(about, indent=2) + "\n")
