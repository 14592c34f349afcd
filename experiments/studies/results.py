"""The small files that a study keeps: a CSV and a stamp for each run."""

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..runs.result import load_run
from .suite import Entry


def write_results(entries: Sequence[Entry], results: Path) -> None:
    """Write each run's CSV `step,return,seed,...` and stamp; failed ones too.

    A continual learner's matrix, a row after each task, goes to `NAME.tasks.csv` beside it.
    """
    for entry in entries:
        if entry.status() == "missing":
            continue
        run = load_run(entry.path)
        target = results / f"{entry.key}.csv"
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_csv(target, run.frame(), entry.seed)
        if tasks := run.frame("task"):
            _write_csv(target.with_suffix(".tasks.csv"), tasks, entry.seed)
        # What was run and on what, without the folders of the machine that it was run on.
        settings = {k: v for k, v in run.config["run"].items() if k != "out"}
        stamp = {k: v for k, v in run.stamp.items() if k != "command"}
        stamp |= {"status": entry.status(), "config": {**run.config, "run": settings}}
        target.with_suffix(".json").write_text(json.dumps(stamp, indent=1) + "\n")


def _write_csv(target: Path, frame: Mapping[str, Any], seed: int) -> None:
    with target.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        others = [k for k in frame if k not in ("step", "return")]
        writer.writerow(["step", "return", "seed", *others])
        for i, step in enumerate(frame.get("step", [])):
            values = [repr(float(frame[k][i])) for k in ("return", *others)]
            writer.writerow([int(step), values[0], seed, *values[1:]])


def last_rows(folder: Path, *columns: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return, for each arm of a suite's results, the last rows [S, C] of its seeds.

    `folder`: what `reverie compare` wrote. Left out: what did not finish, or lacks a column.
    """
    out = defaultdict(list)
    for stamp in sorted(folder.glob("*/*.json")):
        path = stamp.with_suffix(".csv")
        with path.open() as file:
            rows = list(csv.DictReader(file))
        finished = json.loads(stamp.read_text())["status"] == "finished"
        if finished and rows and set(columns) <= rows[-1].keys():
            out[path.parent.name].append([float(rows[-1][c]) for c in columns])
    return {arm: np.array(rows) for arm, rows in out.items()}
