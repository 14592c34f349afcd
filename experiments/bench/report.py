"""What the benchmarks share: options, paired measurements, reports."""

import importlib.metadata
import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import tyro

OURS = "reverie"
V5_TASKS = (
    "Ant-v5",
    "HalfCheetah-v5",
    "Hopper-v5",
    "Humanoid-v5",
    "HumanoidStandup-v5",
    "InvertedDoublePendulum-v5",
    "InvertedPendulum-v5",
    "Pusher-v5",
    "Reacher-v5",
    "Swimmer-v5",
    "Walker2d-v5",
)


@dataclass(frozen=True)
class BenchOptions:
    """Measure a part of Reverie beside its peers, interleaved in one run."""

    what: tyro.conf.Positional[
        Literal[
            "env",
            "buffer",
            "learner",
            "population",
            "population-learner",
            "gpu",
            "gpu-learner",
            "offline",
            "diffusion",
            "dream",
            "matrix",
        ]
    ]
    """env: steps of the v5 tasks, replay write included; buffer: sample and add; learner:
    gradient steps; population: a search's rollouts on the swimmer; population-learner: gradient
    steps of K learners as one; gpu: steps on MuJoCo Warp; gpu-learner: updates there;
    offline: gradient steps of TD3+BC; diffusion: generated rows; dream: steps of imagined
    cart-poles; matrix: a row of a transfer matrix"""
    threads: int = 2
    """CPU threads of the physics (env, gpu), of torch (buffer, learner), and of every peer that
    has threads"""
    num_envs: int = 64
    """worlds stepped together (env; of the simulator: dream)"""
    repeats: int = 5
    """measurements of each contestant; every one has its turn in each repeat"""
    tasks: tuple[str, ...] = ()
    """tasks to step (env: the eleven v5 tasks unless told; gpu: four)"""
    worlds: tuple[int, ...] = ()
    """numbers of worlds to step together (gpu: 4096, 1024, 16384, 64 and 1 unless told)"""
    device: str = "cuda"
    """device of the environments and of their buffer (gpu); cpu is Warp's, to try the bench"""
    stage: int | None = None
    """one of the stages of known length on a GPU, 1 to 4; all of them unless told (gpu)"""
    dry_run: bool = False
    """every stage at toy size on the CPU (gpu)"""
    seconds: float = 0.5
    """length of one measurement"""
    compile: bool = False
    """also measure our compiled losses (learner)"""
    json: Path | None = None
    """file for the rows, the settings and the stamp of this machine; the rates go to a CSV beside
    it"""

    def __post_init__(self) -> None:
        for name in ("threads", "num_envs", "repeats", "seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.stage is not None and self.stage not in (1, 2, 3, 4):
            raise ValueError(f"stage must be 1, 2, 3 or 4, got {self.stage}")


@dataclass(frozen=True)
class Peer:
    """A contestant and its settings; `version` is None when it is not installed."""

    name: str
    version: str | None
    settings: str


@dataclass(frozen=True)
class Row:
    """The rates of one contestant in one case, one for each repeat."""

    case: str
    who: str
    rates: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Median rate per second."""
        return median(self.rates)


@dataclass(frozen=True)
class Report:
    """What a benchmark measured. `shares`: of wall time that ours spends in the physics engine.
    `costs`: what a case took of ours besides time, by name.
    """

    what: str
    unit: str
    peers: tuple[Peer, ...]
    rows: list[Row] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    costs: dict[str, dict[str, float]] = field(default_factory=dict)

    def cases(self) -> list[str]:
        """Names of the cases, in the order of their measurement."""
        return list(dict.fromkeys(row.case for row in self.rows))

    def find(self, case: str, who: str) -> Row | None:
        """Return the row, None where this contestant did not take part."""
        return next((r for r in self.rows if (r.case, r.who) == (case, who)), None)

    def ratio(self, case: str, who: str) -> float | None:
        """Return our rate over theirs: the median of the repeats' ratios, each of one turn."""
        ours, theirs = self.find(case, OURS), self.find(case, who)
        if ours is None or theirs is None:
            return None
        return median(a / b for a, b in zip(ours.rates, theirs.rates, strict=True))

    def mean_ratio(self, who: str) -> float | None:
        """Return the geometric mean of the ratios over all cases."""
        ratios = [r for case in self.cases() if (r := self.ratio(case, who)) is not None]
        return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready dicts."""
        rows = [
            {
                "case": row.case,
                "who": row.who,
                "unit": self.unit,
                "rate": row.rate,
                "rates": list(row.rates),
                "ratio": self.ratio(row.case, row.who),
            }
            for row in self.rows
        ]
        return {
            "bench": self.what,
            "rows": rows,
            "mean_ratios": {p.name: self.mean_ratio(p.name) for p in self.peers},
            "engine_shares": self.shares,
            "costs": self.costs,
            "peers": [vars(p) for p in self.peers],
        }


def version(package: str) -> str | None:
    """Return the installed version of a package, None if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def interleave(
    contestants: Mapping[str, Callable[[], int]], repeats: int, seconds: float
) -> dict[str, tuple[float, ...]]:
    """Return each contestant's rates per second, one for each repeat.

    A contestant is called again and again for `seconds` and returns what it got done. All take
    turns within a repeat, so that a slow minute of the machine hits all; who starts rotates. One
    round of the same length warms up and does not count.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for repeat in range(-1, repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            rate = measure(contestants[name], seconds)
            if repeat >= 0:
                rates[name].append(rate)
    return {name: tuple(values) for name, values in rates.items()}


def measure(work: Callable[[], int], seconds: float) -> float:
    """Return how much per second `work` got done, called for at least `seconds`."""
    done, start = 0, time.perf_counter()
    while True:
        done += work()
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return done / elapsed


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Let torch use n threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drop what C code writes to stderr: MuJoCo warns of half_cheetah.xml once a world."""
    sys.stderr.flush()
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)
