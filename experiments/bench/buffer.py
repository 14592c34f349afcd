"""Replay buffers: sampling a batch of 256 and adding 16 transitions, from a full million."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from ...buffers import Layout, ReplayBuffer, Transitions
from .report import OURS, BenchOptions, Peer, Report, Row, interleave, torch_threads, version

SB3, CPPRB = "SB3", "cpprb"
OBS, ACT, BATCH, ADD = 17, 6, 256, 16
CALLS = 20  # in one turn, so that the clock costs nothing

Array = Any
Work = Callable[[], int]


def run(options: BenchOptions, capacity: int = 1_000_000) -> Report:
    """Measure `sample(256)` and `add` of 16 transitions; every buffer is full from the start."""
    report = Report("buffer", "calls/s", _peers(options, capacity))
    cases = {f"sample({BATCH})": 0, f"add of {ADD}": 1}
    with torch_threads(options.threads):
        makers = {OURS: make_ours, SB3: make_sb3}
        if version("cpprb") is not None:
            makers[CPPRB] = make_cpprb
        works = {who: maker(capacity) for who, maker in makers.items()}
        for case, which in cases.items():
            contestants = {who: _many(pair[which]) for who, pair in works.items()}
            rates = interleave(contestants, options.repeats, options.seconds)
            report.rows.extend(Row(case, who, values) for who, values in rates.items())
        report.costs[f"add of {ADD}"] = parts(works[SB3][1], works[OURS][1], options.repeats)
    return report


def parts(sb3: Work, ours: Work, repeats: int, calls: int = 200) -> dict[str, float]:
    """Return what an `add` of ours is made of, each part's CPU time over that of SB3's whole add.

    `to numpy`: what it would take to hand the six tensors to numpy, as SB3's caller has done.
    """
    buffer = ReplayBuffer(Layout(OBS, ACT), 64 * ADD, ADD)
    fields = tuple(map(torch.from_numpy, _columns(0)))
    row = buffer._rows[0]
    shapes = tuple([x.shape for x in fields])
    works: dict[str, Callable[[], object]] = {
        "all": ours,
        "check": lambda: tuple([x.shape for x in fields]) == shapes,
        "row view": lambda: buffer._rows[5],
        "pack": lambda: torch.column_stack(fields, out=row),
        "to numpy": lambda: [x.numpy() for x in fields],
    }
    shares: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        whole = _cpu(sb3, calls)
        for name, work in works.items():
            shares[name].append(_cpu(work, calls) / whole)
    return {name: median(values) for name, values in shares.items()}


def _cpu(work: Callable[[], object], calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        work()
    return time.process_time() - start


def _peers(options: BenchOptions, capacity: int) -> tuple[Peer, ...]:
    size = f"{capacity:,} transitions of {OBS}+{ACT} dims, float32"
    threads = f"torch with {options.threads} threads"
    return (
        Peer(OURS, version("reverie"), f"{size}; {threads}; torch in, torch out"),
        Peer(SB3, version("stable-baselines3"), f"{size}; {threads}; numpy in, torch out"),
        Peer(CPPRB, version("cpprb"), f"{size}; numpy in, numpy out, then torch.from_numpy"),
    )


def _many(work: Work) -> Work:
    def call() -> int:
        return sum(work() for _ in range(CALLS))

    return call


def _columns(seed: int) -> list[Array]:
    """Return obs, action, reward, next_obs, terminated, truncated of one vector step."""
    rng = np.random.default_rng(seed)
    obs, next_obs = rng.standard_normal((2, ADD, OBS), np.float32)
    action = rng.uniform(-1, 1, (ADD, ACT)).astype(np.float32)
    reward = rng.standard_normal(ADD, np.float32)
    ends = rng.random((2, ADD)) < 1e-3
    return [obs, action, reward, next_obs, *ends.astype(np.float32)]


def make_ours(capacity: int) -> tuple[Work, Work]:
    """Return (sample, add) of our buffer, filled."""
    buffer = ReplayBuffer(Layout(OBS, ACT), capacity, ADD)
    steps = []
    for i in range(64):
        obs, action, reward, next_obs, terminated, truncated = map(torch.from_numpy, _columns(i))
        steps.append(Transitions(obs, action, reward, next_obs, terminated, truncated))

    def sample() -> int:
        buffer.sample(BATCH)
        return 1

    def add() -> int:
        buffer.add(steps[buffer.total % 64])
        return 1

    return sample, _filled(add, capacity)


def make_sb3(capacity: int) -> tuple[Work, Work]:
    """Return (sample, add) of Stable-Baselines3's buffer, filled."""
    from gymnasium.spaces import Box
    from stable_baselines3.common.buffers import ReplayBuffer as SB3ReplayBuffer

    buffer = SB3ReplayBuffer(
        capacity,
        Box(-np.inf, np.inf, (OBS,), np.float32),
        Box(-1, 1, (ACT,), np.float32),
        device="cpu",
        n_envs=ADD,
    )
    steps = []
    for i in range(64):
        obs, action, reward, next_obs, terminated, truncated = _columns(i)
        infos = [{"TimeLimit.truncated": bool(x)} for x in truncated]
        done = np.maximum(terminated, truncated)
        steps.append((obs, next_obs, action, reward, done, infos))

    def sample() -> int:
        buffer.sample(BATCH)
        return 1

    def add() -> int:
        buffer.add(*steps[buffer.pos % 64])
        return 1

    return sample, _filled(add, capacity)


def make_cpprb(capacity: int) -> tuple[Work, Work]:
    """Return (sample, add) of cpprb's buffer, filled."""
    import cpprb

    scalar: dict[str, Any] = {"dtype": np.float32}
    obs, action = {"shape": OBS, **scalar}, {"shape": ACT, **scalar}
    columns = {"obs": obs, "action": action, "reward": scalar, "next_obs": obs}
    columns |= {"terminated": scalar, "truncated": scalar}
    buffer = cpprb.ReplayBuffer(capacity, columns)
    steps = [dict(zip(columns, _columns(i), strict=True)) for i in range(64)]

    def sample() -> int:
        for value in buffer.sample(BATCH).values():
            torch.from_numpy(value)
        return 1

    at = 0

    def add() -> int:
        nonlocal at
        buffer.add(**steps[at % 64])
        at += 1
        return 1

    return sample, _filled(add, capacity)


def _filled(add: Work, capacity: int) -> Work:
    for _ in range(capacity // ADD):
        add()
    return add
