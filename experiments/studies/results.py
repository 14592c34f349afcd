"""The small files that a study keeps, a CSV and a stamp for each run: one writer, one reader."""

import csv
import io
import json
import logging
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ...buffers.aside import write_text
from ..runs.result import load_run
from .suite import Entry

STAMP = {"status": str, "started": str, "config": dict, "revision": str | None}
log = logging.getLogger("reverie")


@dataclass(frozen=True)
class Kept:
    """A run as a study keeps it: its CSV's columns, and its stamp with the settings."""

    path: Path
    stamp: Mapping[str, Any]
    columns: Mapping[str, np.ndarray[Any, Any]]

    @property
    def arm(self) -> str:
        """Name of its arm."""
        return self.path.parent.name

    @property
    def task(self) -> str:
        """Name of its task, as its files have it."""
        return self.path.stem.rpartition("-s")[0]

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.stamp["status"] == "finished")

    @property
    def started(self) -> datetime:
        """When it began."""
        when = datetime.fromisoformat(self.stamp["started"])
        return when if when.tzinfo else when.replace(tzinfo=UTC)

    def first(self, steps: int) -> int | None:
        """Return the step of the first evaluation at or after `steps`; None if there is none."""
        later = self.columns["step"][self.columns["step"] >= steps]
        return int(later.min()) if len(later) else None


def read_result(path: Path) -> Kept:
    """Return a run from its CSV and the stamp beside it; ValueError names a file of no use."""
    try:
        stamp = json.loads(path.with_suffix(".json").read_text())
        for key, kind in STAMP.items():
            if not isinstance(stamp.get(key), kind):
                raise ValueError(f"{key} is {stamp.get(key)!r}")
        datetime.fromisoformat(stamp["started"])
    except (ValueError, TypeError, AttributeError, FileNotFoundError) as error:
        raise ValueError(f"{path.with_suffix('.json')} is not a run's stamp: {error}") from error
    return Kept(path, stamp, _read_csv(path))


def read_tasks(run: Kept) -> Mapping[str, np.ndarray[Any, Any]]:
    """Return the columns of a continual learner's matrix, a row after each task; {} without one."""
    path = run.path.with_suffix(".tasks.csv")
    return _read_csv(path) if path.exists() else {}


def _read_csv(path: Path) -> Mapping[str, np.ndarray[Any, Any]]:
    with path.open(newline="") as file:
        names, *rows = list(csv.reader(file)) or [["step"]]
    try:
        table = np.array([[float(x) for x in row] for row in rows]).reshape(len(rows), len(names))
    except ValueError as error:
        raise ValueError(f"{path} is not a run's table: {error}") from error
    columns = {name: table[:, i] for i, name in enumerate(names)}
    if "step" not in columns:
        raise ValueError(f"{path} is not a run's table: it has no column step, only {names}")
    return columns


def seed_of(run: Kept) -> int:
    """Return the seed that a run's files are named by."""
    return int(run.path.stem.rpartition("-s")[2])


def has_results(folder: Path) -> bool:
    """Return whether a folder holds what `reverie compare` keeps."""
    return any(p.with_suffix(".json").exists() for p in folder.glob("*/*-s[0-9]*.csv"))


def read_results(folder: Path) -> list[Kept]:
    """Return all runs of a suite's results, arm by arm."""
    stamps = sorted(folder.glob("*/*.json"))
    if not stamps:
        raise FileNotFoundError(f"{folder}: no results of `reverie compare` in it")
    return [read_result(stamp.with_suffix(".csv")) for stamp in stamps]


def write_results(entries: Sequence[Entry], results: Path) -> None:
    """Write each run's CSV `step,return,seed,...` and stamp; failed ones too, damaged ones not.

    A continual learner's matrix, a row after each task, goes to `NAME.tasks.csv` beside it. The
    files of a transfer matrix go to `ARM-NAME.*` in `results` itself: its card is no stamp.
    """
    for entry in entries:
        if not (entry.path / "stamp.json").exists():
            continue
        try:
            run = load_run(entry.path)
        except ValueError as error:
            log.warning("%s; the run is left out of %s", error, results)
            continue
        target = results / f"{entry.key}.csv"
        _write_csv(target, run.frame(), entry.seed)
        if tasks := run.frame("task"):
            _write_csv(target.with_suffix(".tasks.csv"), tasks, entry.seed)
        for part in entry.path.glob("matrix.*"):
            kept = f"{entry.key.replace('/', '-')}{part.name.removeprefix('matrix')}"
            shutil.copyfile(part, results / kept)
        # What was run and on what, without the folders of the machine that it was run on.
        settings = {k: v for k, v in run.config["run"].items() if k != "out"}
        stamp = {k: v for k, v in run.stamp.items() if k != "command"}
        stamp |= {"status": entry.status(), "config": {**run.config, "run": settings}}
        write_text(target.with_suffix(".json"), json.dumps(stamp, indent=1) + "\n")


def _write_csv(target: Path, frame: Mapping[str, Any], seed: int) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    others = [k for k in frame if k not in ("step", "return")]
    writer.writerow(["step", "return", "seed", *others])
    for i, step in enumerate(frame.get("step", [])):
        values = [repr(float(frame[k][i])) for k in ("return", *others)]
        writer.writerow([int(step), values[0], seed, *values[1:]])
    write_text(target, file.getvalue())


def common_end(steps: Iterable[float]) -> int:
    """Return the step at which most of some runs ended, the greatest of several; 0 of none.

    What ended elsewhere, short of it or beyond, is not set beside the others.
    """
    counts = Counter(map(int, steps))
    return max(counts, key=lambda step: (counts[step], step), default=0)


def last_rows(folder: Path, *columns: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return, for each arm of a suite's results, the last rows [S, C] of its seeds.

    `folder`: what `reverie compare` wrote; with several tasks, for each arm on each of them. Left
    out: what did not finish, or lacks a column, and, with a warning, a seed whose last row is of
    another step than most others'.
    """
    arms: dict[tuple[str, str], list[Kept]] = {}
    for run in read_results(folder):
        if run.finished and len(run.columns["step"]) and set(columns) <= run.columns.keys():
            arms.setdefault((run.arm, run.task), []).append(run)
    out: dict[str, list[list[float]]] = {}
    several = len({task for _, task in arms}) > 1
    for (arm, task), runs in arms.items():
        end = common_end(run.columns["step"][-1] for run in runs)
        for run in runs:
            row = [float(run.columns[c][-1]) for c in columns]
            if run.columns["step"][-1] != end or any(map(math.isnan, row)):
                log.warning("%s has no %s at step %d: left out", run.path, "/".join(columns), end)
            else:
                out.setdefault(f"{arm} {task}" if several else arm, []).append(row)
    return {arm: np.array(rows) for arm, rows in out.items()}
