"""What arms of a study of continual learning kept of each task, task by task and in pairs.

`python -m reverie.experiments.studies.sequences RESULTS/oer-d2 --less none random-10 --seeds 0:10`
prints the tables; nothing is played or trained. Of a run whose CSV has a matrix beside it
(NAME.tasks.csv, a row after each task) with `score0` ..., the scores of the tasks met so far.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import stats
from .report_tables import span, table
from .results import read_results, read_tasks, seed_of
from .suite import parse_seeds
from .tables import digits

Array = np.ndarray[Any, Any]
FEW = 5  # old tasks whose own losses fit in a table


@dataclass(frozen=True)
class Played:
    """One run: the columns of its matrix, the scores among them as one table."""

    columns: Mapping[str, Array]
    scores: Array  # [N, N], after each task on each; NaN on those not met yet

    @property
    def lost(self) -> Array:
        """Return what the end keeps less of each old task than its own training gave: [N - 1]."""
        lost: Array = np.diag(self.scores) - self.scores[-1]
        return lost[:-1]


Arms = Mapping[str, Mapping[int, Played]]


def read_arms(*folders: Path, seeds: Sequence[int] | None = None) -> Arms:
    """Return the finished runs of each arm of suites' results, by seed; of `seeds` alone.

    Raises FileNotFoundError where there are none, ValueError for a run without scores, for two of
    one arm and seed, and for sequences of several lengths.
    """
    out: dict[str, dict[int, Played]] = {}
    for run in (run for folder in folders for run in read_results(folder)):
        if not run.finished or (seeds is not None and seed_of(run) not in seeds):
            continue
        columns = read_tasks(run)
        n = len(columns.get("step", ()))
        if any(f"score{j}" not in columns for j in range(n)) or not n:
            raise ValueError(f"{run.path} has no scores of its tasks beside it")
        scores = np.array([columns[f"score{j}"] for j in range(n)]).T
        if seed_of(run) in (runs := out.setdefault(run.arm, {})):
            raise ValueError(f"{run.path} is the second run of arm {run.arm}, seed {seed_of(run)}")
        runs[seed_of(run)] = Played(columns, scores)
    lengths = {len(one.scores) for runs in out.values() for one in runs.values()}
    if not lengths:
        raise FileNotFoundError(f"{' '.join(map(str, folders))}: no finished run of these seeds")
    if len(lengths) > 1:
        raise ValueError(f"sequences of {sorted(lengths)} tasks are not set side by side")
    return out


def last(one: Played, metric: str) -> float:
    """Return a metric after the last task; `lost I` is what task I lost."""
    if metric.startswith("lost "):
        return float(one.lost[int(metric.removeprefix("lost "))])
    return float(one.columns[metric][-1])


def losses(arms: Arms) -> list[str]:
    """Return the names of the old tasks' own losses, none where they are too many."""
    old = next(len(one.lost) for runs in arms.values() for one in runs.values())
    return [f"lost {i}" for i in range(old)] if old <= FEW else []


def interval(values: Sequence[float]) -> str:
    """Return a mean with its 95 % t interval, without one of a single run."""
    if len(values) < 2:
        return digits(values[0])
    t = stats.mean_t(values)
    return f"{digits(t.estimate)} ({span((t.low, t.high))})"


def means(arms: Arms) -> list[str]:
    """Return a table: each arm's metrics after the last task, and what is kept."""
    names = ["per", "forgetting", *losses(arms), "learned"]
    rows = []
    for arm, runs in arms.items():
        cells = [interval([last(one, name) for one in runs.values()]) for name in names]
        kept = [np.mean([last(one, b) for one in runs.values()]) for b in ("bytes", "bytes_total")]
        rows.append([arm, len(runs), *cells, *(f"{b / 1000:,.1f}" for b in kept)])
    return table(["arm", "seeds", *names, "kB", "kB with trunk"], rows)


def pairs(arms: Arms, base: str) -> list[str]:
    """Return a table: each other arm less `base`, over the seeds that both have."""
    names, rows = ["per", "forgetting", *losses(arms)], []
    for arm, runs in arms.items():
        both = sorted(runs.keys() & arms[base].keys())
        if arm == base or len(both) < 2:
            continue
        cells = []
        for name in names:
            a, b = ([last(arms[x][seed], name) for seed in both] for x in (arm, base))
            t = stats.paired_t(a, b)
            cells.append(f"{digits(t.difference)} ({span((t.low, t.high))})")
        rows.append([arm, len(both), *cells])
    return table([f"less {base}", "pairs", *names], rows)


def along(arms: Arms, metric: str) -> list[str]:
    """Return a table: a metric after a quarter, half, three quarters and all of the tasks."""
    n = next(len(one.scores) for runs in arms.values() for one in runs.values())
    at = sorted({max(1, n * k // 4) for k in (1, 2, 3, 4)})
    rows = [
        [arm, *(interval([one.columns[metric][k - 1] for one in runs.values()]) for k in at)]
        for arm, runs in arms.items()
    ]
    return table([metric, *(f"{k} tasks" for k in at)], rows)


def conflicts(arms: Arms) -> list[str]:
    """Return a table: row i, column j the mean cosine of task i's gradient at mu_j with j's own."""
    for arm, runs in arms.items():
        first = next(iter(runs.values()))
        n = len(first.scores)
        if f"conflict_0_{n - 1}" not in first.columns:
            continue
        rows = []
        for i in range(n):
            cells = []
            for j in range(n):
                mean = np.mean([last(one, f"conflict_{i}_{j}") for one in runs.values()])
                cells.append(digits(float(mean)))
            rows.append([f"task {i}", *cells])
        least = [last(one, "conflict_least") for one in runs.values()]
        head = [f"{arm}: cosine, least {min(least):.3f}", *(f"at mu {j}" for j in range(n))]
        return table(head, rows)
    return []


def main(args: Sequence[str]) -> int:
    """Print the tables of a suite's results."""
    parser = ArgumentParser(prog="python -m reverie.experiments.studies.sequences")
    parser.add_argument("results", type=Path, nargs="+", help="folders of `reverie compare`")
    parser.add_argument("--less", nargs="*", default=[], help="arms to subtract from the others")
    parser.add_argument("--seeds", type=parse_seeds, help="of these seeds alone: 0:10")
    asked = parser.parse_args(args)
    arms = read_arms(*asked.results, seeds=asked.seeds)
    if unknown := set(asked.less) - arms.keys():
        raise ValueError(f"no arm {sorted(unknown)[0]!r} in it, there are {', '.join(arms)}")
    tables = [means(arms), *(pairs(arms, base) for base in asked.less), conflicts(arms)]
    tables += [along(arms, m) for m in ("per", "forgetting")] if not losses(arms) else []
    print("\n".join(line for lines in tables for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
