"""Stage 3: gradient steps and whole training steps on a GPU; also `reverie bench gpu-learner`."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from ...agents import SAC, TD3, Policy, RandomPolicy, SACConfig, TD3Config, advance
from ...agents.graphs import drawn
from ...agents.unread import UnreadReturns
from ...buffers import Layout, ReplayBuffer, Transitions
from ...buffers.groups import Groups
from ...buffers.nstep import NStep
from ...envs import make
from ..loops.many_worlds import LEARNER, OPTIONS
from .gpu_worlds import sizes
from .measure import Case, Measure, Toy, rate
from .report import BenchOptions

OBS, ACT = 17, 6
AGENTS: dict[str, tuple[Any, Any]] = {"SAC": (SAC, SACConfig), "TD3": (TD3, TD3Config)}
UPDATES = 8  # of a call with graphs
GOALS = (3_000, 6_000)  # returns of HalfCheetah
LIMIT = 100.0  # seconds of the training at the end
ROWS = 100_000


def cases(toy: Toy | None, options: BenchOptions) -> list[Case]:
    """Return eager and graphs, one world, populations, many worlds, training, compiled."""
    device = "cpu" if toy else options.device
    out: list[Case] = []

    def add(name: str, measures: Callable[..., Iterator[Measure]], *more: Any) -> None:
        out.append((name, partial(measures, name, *more, toy, device)))

    for agent in AGENTS:
        add(f"{agent} eager", _updates, agent, "eager")
        add(f"{agent} graphs", _updates, agent, "graphs")
        add(f"{agent} one world", _one_world, agent, options.threads)
    for k in (1, 2) if toy else (1, 8, 64):
        add(f"SAC x {k}", _population, k)
    for agent in AGENTS:
        add(f"{agent} many worlds", _many, agent)
    add("SAC training", _training)
    if not toy:  # a minute of compiling each
        for agent in AGENTS:
            add(f"{agent} compiled", _updates, agent, "losses")
    return out


def _rows(n: int, worlds: int, device: str) -> Transitions:
    """Return random transitions [n, worlds]."""
    g = torch.Generator().manual_seed(0)
    size = (n, worlds)
    obs, next_obs = torch.randn(2, *size, OBS, generator=g)
    action, reward = torch.randn(*size, ACT, generator=g).tanh(), torch.randn(size, generator=g)
    zeros = torch.zeros(size)
    return Transitions(obs, action, reward, next_obs, zeros, zeros).map(lambda x: x.to(device))


def _agent(name: str, toy: Toy | None, device: str, how: str, **more: Any) -> Any:
    kind, config = AGENTS[name]
    settings = config(hidden=toy.hidden) if toy else config()
    compile = how if how == "graphs" else how == "losses"
    return kind(OBS, ACT, settings, device=device, compile=compile, **more)


def _buffer(worlds: int, toy: Toy | None, device: str) -> ReplayBuffer:
    rows = 64 if toy else ROWS // worlds
    buffer = ReplayBuffer(Layout(OBS, ACT), rows * worlds, worlds, device=device)
    buffer.add(_rows(rows, worlds, device))
    return buffer


def _updates(case: str, name: str, how: str, toy: Toy | None, device: str) -> Iterator[Measure]:
    agent, source = _agent(name, toy, device, how), _buffer(1, toy, device)
    batch, seconds = (toy.batch, toy.seconds) if toy else (256, 3.0)
    calls = 1 if toy else 50

    def one() -> int:
        for _ in range(calls):
            agent.update(source.sample(batch))
        return calls

    yield Measure(case, "one update a call", rate(one, device, seconds), "updates/s")
    if how == "graphs":

        def many() -> int:
            for _ in range(calls):
                agent.update(drawn(source, batch, UPDATES))
            return UPDATES * calls

        unit = "updates/s"
        yield Measure(case, f"{UPDATES} updates a call", rate(many, device, seconds), unit)


def _one_world(
    case: str, name: str, threads: int, toy: Toy | None, device: str
) -> Iterator[Measure]:
    """Act, step one world on the CPU, store and learn, as the loop does."""
    env = make("reverie/HalfCheetah-v5", 1, threads=threads)
    agent, buffer = _agent(name, toy, device, "graphs"), _buffer(1, toy, device)
    batch, seconds = (toy.batch, toy.seconds) if toy else (256, 5.0)
    calls, obs = 1 if toy else 50, env.reset()

    def steps() -> int:
        nonlocal obs
        for _ in range(calls):
            action, _ = agent.act(obs, explore=True)
            row, valid, obs = advance(env, obs, action.to("cpu"))
            buffer.add(row, valid)
            agent.update(buffer.sample(batch))
        return calls

    yield Measure(case, "graphs, one update a step", rate(steps, device, seconds), "steps/s")


def _population(case: str, k: int, toy: Toy | None, device: str) -> Iterator[Measure]:
    agent = _agent("SAC", toy, device, "graphs", seed=tuple(range(k)))
    source = Groups(_buffer(k, toy, device), range(k))
    batch, seconds = (toy.batch, toy.seconds) if toy else (256, 5.0)

    calls = 1 if toy else 20

    def work() -> int:
        for _ in range(calls):
            agent.update(source.sample(batch))
        return k * calls

    yield Measure(case, "graphs", rate(work, device, seconds), "member updates/s")


class Many:
    """The preset of many worlds behind its warm-up, as its run goes between two log rows.

    Nothing is read.
    """

    def __init__(self, name: str, toy: Toy | None, device: str) -> None:
        c, (kind, config) = SimpleNamespace(**OPTIONS), AGENTS[name]
        worlds, size, settings = c.num_envs, c.buffer_size, config(**LEARNER)
        if toy:
            worlds, size = toy.worlds, 64
            settings = dataclasses.replace(settings, hidden=toy.hidden)
        self.batch, self.u = (toy.batch if toy else c.batch_size), round(c.utd * c.num_envs)
        self.env = make(c.env, worlds, backend="warp", device=device, warp=sizes(toy))
        more = {"device": device, "compile": c.compile}
        self.agent = kind(self.env.obs_dim, self.env.act_dim, settings, **more)
        self.buffer = ReplayBuffer.for_env(self.env, size, device=device)
        self.source = NStep(self.buffer, c.n_step, settings.gamma)
        self.returns = UnreadReturns(worlds, self.env.device)
        self.obs, self.steps = self.env.reset(), 0
        at_random = RandomPolicy(self.env.act_dim, device=self.env.device)
        for _ in range(2 if toy else c.learning_starts // worlds):
            self.play(at_random)

    def play(self, policy: Policy) -> None:
        """Take one vector step."""
        action, _ = policy.act(self.obs, explore=True)
        batch, valid, self.obs = advance(self.env, self.obs, action)
        self.buffer.add(batch, valid)
        self.returns.add(batch, valid)
        self.steps += self.env.num_envs

    def __call__(self) -> int:
        """Take one vector step and its updates; return the transitions."""
        self.play(self.agent)
        self.agent.update(drawn(self.source, self.batch, self.u))
        return self.env.num_envs


def _many(case: str, name: str, toy: Toy | None, device: str) -> Iterator[Measure]:
    work = Many(name, toy, device)
    calls, worlds = 1 if toy else 20, work.env.num_envs

    def some() -> int:  # the device is waited for behind them
        return sum(work() for _ in range(calls))

    steps = rate(some, device, toy.seconds if toy else 10.0)
    yield Measure(case, f"{worlds} worlds; batch {work.batch}", steps, "env steps/s")
    yield Measure(case, f"{work.u} a vector step", steps / worlds * work.u, "updates/s")


def _training(case: str, toy: Toy | None, device: str) -> Iterator[Measure]:
    """Train by the preset until the last goal, or for `LIMIT` seconds; exploring returns."""
    work, goals, start = Many("SAC", toy, device), list(GOALS), time.monotonic()
    number, mean = 0.0, 0.0
    while goals and time.monotonic() - start < (0.1 if toy else LIMIT):
        for _ in range(2 if toy else 250):
            work()
        number, total, _ = work.returns.read().sum(1).tolist()
        mean = total / number if number else mean
        while goals and mean >= goals[0]:
            minutes = (time.monotonic() - start) / 60
            yield Measure(case, f"HalfCheetah at {goals.pop(0):,}", minutes, "min")
    yield Measure(case, "last mean return", mean, "")
    yield Measure(case, "env steps", work.steps, "")
