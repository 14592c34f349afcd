"""What thousands of runs need of a cluster whose nodes fail: makespan and lost work, simulated.

`python -m reverie.experiments.studies.schedule RESULTS...` draws run lengths from the stamps of
runs that were made (folders of results), and writes a table and a figure for checkpoint intervals.
Nothing is trained.
"""

import csv
import heapq
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from ...buffers.aside import write_text
from ..runs.config import parse
from ..runs.stamp import hardware
from .plots import new_figure, save_figure


@dataclass(frozen=True)
class Cluster:
    """Machines and what goes wrong with them; times in seconds."""

    nodes: int = 32
    """machines"""
    seats: int = 8
    """runs at a time on each"""
    mtbf: float = 24 * 3600.0
    """mean time between failures of one node"""
    repair: float = 600.0
    """until a node that failed is there again"""
    notice: float = 30.0
    """until its jobs are handed out again"""
    begin: float = 5.0
    """from a job's start to its first step: imports, loading"""
    save: float = 1.0
    """for which a run stands still to write a checkpoint"""


@dataclass(frozen=True)
class Outcome:
    """What a schedule took, in seconds; `lost` and `saving` are of all runs together."""

    makespan: float
    work: float
    lost: float
    saving: float
    failures: int


class Run(NamedTuple):
    """A job on a seat: the work that is left of it, and since when it is there."""

    job: int
    work: float
    since: float


def progress(elapsed: float, interval: float, save: float) -> tuple[float, float]:
    """Return the work that is done and that is saved, so long after a run's first step."""
    whole = int(elapsed // (interval + save))
    saved = whole * interval
    return saved + min(elapsed - whole * (interval + save), interval), saved


def wall(work: float, interval: float, save: float) -> float:
    """Return how long some work takes with its checkpoints; none is written at its end."""
    return work + max(0, -int(-work // interval) - 1) * save


class Floor:
    """The seats of a cluster, what runs on them, and what comes next."""

    def __init__(self, lengths: Sequence[float], cluster: Cluster, interval: float) -> None:
        self.cluster, self.interval, self.now = cluster, interval, 0.0
        self.waiting = list(enumerate(lengths))  # jobs in their order, with the work left of each
        self.free = [(n, s) for n in range(cluster.nodes) for s in range(cluster.seats)]
        self.running: dict[int, dict[int, Run]] = {n: {} for n in range(cluster.nodes)}
        self.away = dict.fromkeys(range(cluster.nodes), 0.0)  # until when each node is
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count, self.left = 0, len(lengths)
        self.lost, self.saving, self.failed = 0.0, 0.0, 0

    def at(self, time: float, what: Callable[[], None]) -> None:
        """Let something happen; of two at one time the first that was asked for."""
        self.count += 1
        heapq.heappush(self.events, (time, self.count, what))

    def hand_out(self) -> None:
        """Seat jobs while there are both."""
        while self.waiting and self.free:
            (node, seat), (job, work) = heapq.heappop(self.free), heapq.heappop(self.waiting)
            run = Run(job, work, self.now)
            self.running[node][seat] = run
            took = self.cluster.begin + wall(work, self.interval, self.cluster.save)
            self.at(self.now + took, lambda n=node, s=seat, r=run: self.ends(n, s, r))  # type: ignore[misc]

    def ends(self, node: int, seat: int, run: "Run") -> None:
        """Let a job end, if its node is still there."""
        if self.running[node].get(seat) is run:
            del self.running[node][seat]
            heapq.heappush(self.free, (node, seat))
            self.saving += wall(run.work, self.interval, self.cluster.save) - run.work
            self.left -= 1

    def fails(self, node: int, coming: Iterator[float]) -> None:
        """Take a node away with its jobs, if it is there, and wait for the next failure."""
        self.expect(node, coming)
        if self.away[node] > self.now:
            return
        self.failed += 1
        self.away[node] = self.now + self.cluster.repair
        self.at(self.away[node], lambda: self.is_back(node))
        self.free = [one for one in self.free if one[0] != node]
        heapq.heapify(self.free)
        for run in self.running[node].values():
            elapsed = max(0.0, self.now - run.since - self.cluster.begin)
            done, saved = progress(elapsed, self.interval, self.cluster.save)
            self.lost += done - saved
            self.saving += saved / self.interval * self.cluster.save
            again = (run.job, run.work - saved)
            back = lambda a=again: heapq.heappush(self.waiting, a)  # noqa: E731
            self.at(self.now + self.cluster.notice, back)
        self.running[node] = {}

    def is_back(self, node: int) -> None:
        """Give the seats of a node out again."""
        for seat in range(self.cluster.seats):
            heapq.heappush(self.free, (node, seat))

    def expect(self, node: int, coming: Iterator[float]) -> None:
        """Wait for the next failure of a node, if there is one."""
        if (time := next(coming, None)) is not None:
            self.at(time, lambda: self.fails(node, coming))


def simulate(
    lengths: Sequence[float],
    cluster: Cluster,
    interval: float,
    failures: Callable[[int], Iterator[float]],
) -> Outcome:
    """Run jobs of these lengths in order; `failures(node)` gives the seconds at which it fails.

    A node that fails takes its jobs with it, each of which goes on elsewhere from its newest
    checkpoint, before those after it. Failures of a node that is away do nothing.
    """
    floor = Floor(lengths, cluster, interval)
    for node in range(cluster.nodes):
        floor.expect(node, failures(node))
    while floor.left:
        floor.hand_out()
        floor.now, _, what = heapq.heappop(floor.events)
        what()
    return Outcome(floor.now, float(sum(lengths)), floor.lost, floor.saving, floor.failed)


def poisson(mtbf: float, seed: int) -> Callable[[int], Iterator[float]]:
    """Return failures of nodes that come at random, `mtbf` seconds apart in the mean."""

    def of(node: int) -> Iterator[float]:
        draw, t = random.Random(f"{seed}-{node}"), 0.0
        while True:
            t += draw.expovariate(1 / mtbf)
            yield t

    return of


def lengths_of(folders: Iterable[Path]) -> list[float]:
    """Return how long the finished runs under these folders took, in seconds, from their stamps."""
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*.json")):
            try:
                stamp = json.loads(path.read_text())
                begun, ended = (datetime.fromisoformat(stamp[k]) for k in ("started", "updated"))
                resumed = "resumed with" in stamp["notes"] or "resume" in stamp["notes"]
            except (ValueError, KeyError, TypeError):
                continue  # no stamp
            if stamp.get("status") == "finished" and not resumed:
                found.append((ended - begun).total_seconds())
    return [x for x in found if x > 0]


@dataclass(frozen=True)
class Options(Cluster):
    """Simulate many runs on a cluster whose nodes fail."""

    runs: int = 10_000
    """runs, their lengths drawn from those of the stamps"""
    longer: float = 100.0
    """times as long as those"""
    schedules: int = 10
    """seeds of failures and draws"""
    out: Path = Path("schedule")
    """files to write: OUT.csv and OUT.png"""


INTERVALS = (15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0, 7200.0, 4 * 3600.0)


def table(lengths: Sequence[float], o: Options) -> list[dict[str, float]]:
    """Return a row for each checkpoint interval, means over schedules."""
    rows = []
    for interval in INTERVALS:
        made = []
        for seed in range(o.schedules):
            draw = random.Random(seed)
            drawn = [o.longer * draw.choice(lengths) for _ in range(o.runs)]
            made.append(simulate(drawn, o, interval, poisson(o.mtbf, seed)))
        row = {
            "interval_s": interval,
            "makespan_h": fmean(m.makespan / 3600 for m in made),
            "ideal_h": fmean(m.work / 3600 / o.nodes / o.seats for m in made),
            "lost": fmean(m.lost / m.work for m in made),
            "saving": fmean(m.saving / m.work for m in made),
            "failures": fmean(m.failures for m in made),
        }
        rows.append(row)
    return rows


def draw(rows: Sequence[dict[str, float]], out: Path) -> None:
    """Draw makespan, and work lost and spent on saving, against the interval."""
    figure, ((left, right),) = new_figure(1, 2, size=(9, 3.4))
    minutes = [row["interval_s"] / 60 for row in rows]
    left.plot(minutes, [row["makespan_h"] for row in rows], "o-", label="all runs")
    left.axhline(rows[0]["ideal_h"], color="0.5", ls="--", label="no failures, full nodes")
    for name, label in (("lost", "lost with nodes"), ("saving", "spent on checkpoints")):
        right.plot(minutes, [100 * row[name] for row in rows], "o-", label=label)
    left.set(ylabel="hours until the last run ends", ylim=(0, None))
    right.set(ylabel="% of the work")
    for axis in (left, right):
        axis.set(xlabel="minutes between checkpoints", xscale="log")
        axis.legend(frameon=False)
    save_figure(figure, out, 150)


def main(args: Sequence[str]) -> int:
    """Simulate, and write OUT.csv and OUT.png."""
    folders = [Path(a) for a in takewhile(lambda a: not a.startswith("-"), args)]
    o = parse(Options, args[len(folders) :], "schedule RESULTS...")
    if not (lengths := lengths_of(folders)):
        raise ValueError("give a folder of results whose stamps say how long runs took")
    rows = table(lengths, o)
    with o.out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: round(v, 5) for k, v in row.items()} for row in rows)
    draw(rows, o.out.with_suffix(".png"))
    told = {"results": list(map(str, folders)), "lengths": len(lengths), **asdict(o), **hardware()}
    write_text(o.out.with_suffix(".json"), json.dumps(told, indent=2, default=str) + "\n")
    best = min(rows, key=lambda row: row["makespan_h"])
    print(f"{len(lengths)} stamps; {o.runs:,} runs on {o.nodes} x {o.seats} seats:")
    for row in rows:
        print(
            f"{row['interval_s'] / 60:7.2f} min  {row['makespan_h']:7.2f} h  "
            f"lost {row['lost']:.2%}  saving {row['saving']:.2%}"
        )
    print(f"shortest with a checkpoint every {best['interval_s'] / 60:g} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
