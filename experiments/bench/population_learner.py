"""Gradient steps of K small learners as one population, beside K processes of one learner each."""

import multiprocessing as mp
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from multiprocessing.connection import Connection
from typing import Any

import torch

from ...agents import SAC, SACConfig
from ...buffers import Layout, ReplayBuffer, Transitions
from ...buffers.groups import Groups
from .report import OURS, BenchOptions, Peer, Report, Row, interleave, torch_threads, version

OBS, ACT = 17, 6
MEMBERS = (1, 5, 20)
WIDTHS, BATCHES = (32, 64, 128, 256), (64, 128, 256)
ROWS = 10_000  # transitions in the replay buffer of each member
STEPS = 10  # updates of each process in one turn
ALONE, APART = "one learner", "processes"

Work = Callable[[], int]


def run(
    options: BenchOptions,
    widths: Sequence[int] = WIDTHS,
    batches: Sequence[int] = BATCHES,
    members: Sequence[int] = MEMBERS,
    rows: int = ROWS,
) -> Report:
    """Measure SAC's updates, sampling included: a population of K, one learner, two processes.

    A rate counts updates of members. The processes have one thread each and one learner at a
    time, as `--jobs` of the runs of K seeds have: their rate is the same for every K.
    """
    report = Report("population-learner", "member updates/s", _peers(options))
    with torch_threads(options.threads):
        for width, batch in product(widths, batches):
            works: dict[str, Work] = {f"K={k}": population(k, width, batch, rows) for k in members}
            works[ALONE] = one(width, batch, rows)
            with processes(options.threads, width, batch, rows) as works[APART]:
                rates = interleave(works, options.repeats, options.seconds)
            for k in members:
                case = f"{k:2d} members, {width} wide, batch {batch}"
                report.rows.append(Row(case, OURS, rates[f"K={k}"]))
                report.rows.extend(Row(case, who, rates[who]) for who in (ALONE, APART))
    return report


def _peers(options: BenchOptions) -> tuple[Peer, ...]:
    torch_ = f"torch {torch.__version__}, float32"
    sizes = f"SAC, {OBS}+{ACT} dims, two hidden layers, own replay sampled"
    return (
        Peer(OURS, version("reverie"), f"{sizes}; {torch_}, {options.threads} threads"),
        Peer(ALONE, version("reverie"), f"one run in one process; {options.threads} threads"),
        Peer(APART, version("reverie"), f"{options.threads} processes of 1 thread, one run each"),
    )


def _rows(worlds: int, rows: int) -> Transitions:
    """Return random transitions [rows, worlds]."""
    g = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(rows, worlds, *size, generator=g)

    zeros = torch.zeros(rows, worlds)
    return Transitions(normal(OBS), normal(ACT).tanh(), normal(), normal(OBS), zeros, zeros)


def population(k: int, width: int, batch: int, rows: int) -> Work:
    """Return a callable that takes one gradient step of each of K members."""
    agent = SAC(OBS, ACT, SACConfig(hidden=(width, width)), seed=tuple(range(k)))
    buffer = ReplayBuffer(Layout(OBS, ACT), rows * k, k)
    buffer.add(_rows(k, rows))
    source = Groups(buffer, range(k))

    def work() -> int:
        agent.update(source.sample(batch))
        return k

    return work


def one(width: int, batch: int, rows: int) -> Work:
    """Return a callable that takes one gradient step of one learner."""
    agent = SAC(OBS, ACT, SACConfig(hidden=(width, width)))
    buffer = ReplayBuffer(Layout(OBS, ACT), rows)
    buffer.add(_rows(1, rows))

    def work() -> int:
        agent.update(buffer.sample(batch))
        return 1

    return work


def _child(pipe: Connection, width: int, batch: int, rows: int) -> None:
    """Take as many gradient steps as the parent says, again and again; 0 ends."""
    torch.set_num_threads(1)
    work = one(width, batch, rows)
    while n := pipe.recv():
        pipe.send(sum(work() for _ in range(n)))


@contextmanager
def processes(n: int, width: int, batch: int, rows: int) -> Iterator[Work]:
    """Give a callable that lets n processes take `STEPS` gradient steps each, at the same time."""
    context = mp.get_context("spawn")
    pipes: list[Any] = []
    children = []
    for _ in range(n):
        ours, theirs = context.Pipe()
        pipes.append(ours)
        children.append(
            context.Process(target=_child, args=(theirs, width, batch, rows), daemon=True)
        )
        children[-1].start()

    def work() -> int:
        for pipe in pipes:
            pipe.send(STEPS)
        return sum(pipe.recv() for pipe in pipes)

    try:
        yield work
    finally:
        for pipe, child in zip(pipes, children, strict=True):
            pipe.send(0)
            child.join()
