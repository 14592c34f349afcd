"""What a run of an off-policy method is made of, and how it is saved."""

from collections import deque
from typing import Any

import torch

from ...agents import Agent, Metrics, RandomPolicy
from ...agents.acting import Returns
from ...agents.graphs import most
from ...agents.playing import SEED_STRIDE
from ...agents.seeding import stream_seed
from ...agents.unread import UnreadReturns
from ...buffers import ReplayBuffer, Source
from ...buffers.nstep import NStep
from ...buffers.source import leaves, load_state, state_of
from ...envs import BatchEnv
from ..runs.run import Run
from .build import context_values, replay_for, worlds_for
from .sources import compose, open_branches, open_datasets, parse_data, require_same


def build(
    agent_class: Any,
    config: Any,
    *,
    env: BatchEnv | None = None,
    judge: BatchEnv | None = None,
) -> "Session":
    """Return everything that a run changes, from a configuration or from finished parts."""
    c = config
    env, judge = worlds_for(c, env, judge)
    buffer = replay_for(c, env)
    more = {"device": c.run.device, "seed": c.seed, "compile": c.compile, "bfloat16": c.bfloat16}
    agent = agent_class(env.obs_dim, env.act_dim, c.agent, **more)
    buffer.layout.require(agent.columns, agent_class.__name__)
    parts = parse_data(getattr(c, "data", ("replay",)))
    stored = [p for p in parts if not p.dreamt]
    datasets = [d.to(c.run.device) for d in open_datasets(stored, c.seed, c.env, c.env_options)]
    dreams = open_branches(parts, c, buffer, agent)
    for d in (*datasets, *dreams):
        d.layout.require(agent.columns, agent_class.__name__)
    source = compose(parts, datasets, buffer, dreams)
    if (n := getattr(c, "n_step", 1)) > 1:
        if source is not buffer:
            raise ValueError(f"n_step={n}: only --data replay has the steps that follow a row")
        source = NStep(buffer, n, c.agent.gamma)
    session = Session(agent, env, judge, buffer, source, c.seed, datasets)
    session.at_once = most(c.compile) if hasattr(agent, "steps") else 1  # an agent of yours: one
    return session


class Session:
    """All that a run changes outside its directory, as one state."""

    def __init__(
        self,
        agent: Agent,
        env: BatchEnv,
        judge: BatchEnv,
        buffer: ReplayBuffer,
        source: Source,
        seed: int,
        datasets: Any = (),
    ) -> None:
        self.agent, self.env, self.judge, self.buffer = agent, env, judge, buffer
        self.seed, self.datasets = seed, datasets
        self.draw_from(source)
        self.more: dict[str, Any] = {}  # further parts with a state, by name: a script's own
        self.on_host = env.device.type == "cpu"  # else nothing is read between two log rows
        device, warm = env.device, stream_seed(seed, "warmup")
        self.warmup = RandomPolicy(env.act_dim, seed=warm, device=device)
        self.columns = context_values(env, buffer.layout)
        self.returns = self.no_returns()
        self.recent: list[tuple[float, int]] = []  # returns and lengths since the last log row
        self.debt = 0.0  # updates owed
        self.at_once = 1  # of them in a call of `update`, at most
        self.metrics: Metrics = {}
        self.trail: deque[Any] = deque(maxlen=16)  # physics states, for a dump
        self.initial = self.memory = agent.initial_state(env.num_envs)
        self.restarted: torch.Tensor | None = None  # observations to act on, in place of the last

    def draw_from(self, source: Source, **named: ReplayBuffer) -> None:
        """Learn from this source from now on; each buffer in it lies in shards, under its name."""
        stores = {"replay": self.buffer, **named}
        for x in leaves(source):
            if isinstance(x, ReplayBuffer) and not any(x is known for known in stores.values()):
                stores[f"replay-{len(stores) + 1}"] = x
        self.source, self.stores = source, stores

    def begin(self, run: Run) -> torch.Tensor:
        """Return the first observations, or those at which the newest checkpoint left off."""
        run.home.note(**self.env.notes)
        require_same(run.home, self.datasets, leaves(self.source))
        with run.restored(self.stores) as state:
            if state is None:
                return self.env.reset()
            self.load_state_dict(state)
            if self.env.restores:
                return self.env.current_obs()
            run.home.note(resume="the environment has no saved state: restarted at a reset")
            self.buffer.break_episodes()
            self.returns, self.memory = self.no_returns(), self.initial
            return self.env.reset(self.seed * SEED_STRIDE + run.step)

    def restart(self) -> None:
        """Begin an episode in every world, whatever was played in them."""
        self.buffer.break_episodes()
        self.returns, self.memory = self.no_returns(), self.initial
        self.restarted = self.env.reset()

    def no_returns(self) -> Returns | UnreadReturns:
        """Return what counts the worlds' episodes from their starts on."""
        n, device = self.env.num_envs, self.env.device
        if self.on_host:
            return Returns(n)
        counted = UnreadReturns(n, device)
        if isinstance(before := getattr(self, "returns", None), UnreadReturns):
            counted.ended.copy_(before.ended)  # not read yet
        return counted

    def played(self) -> dict[str, float]:
        """Return mean return and length of the episodes since the last call, and forget them."""
        if isinstance(self.returns, UnreadReturns):
            number, total, length = self.returns.read().sum(1).tolist()
        else:
            number, total = len(self.recent), sum(r for r, _ in self.recent)
            length, self.recent = sum(n for _, n in self.recent), []
        return {"return": total / number, "length": length / number} if number else {}

    def state_dict(self) -> dict[str, Any]:
        """Everything but the buffer, whose rows lie in shards."""
        return {
            "agent": self.agent.state_dict(),
            "env": self.env.state_dict(),
            "returns": self.returns.state_dict(),
            "warmup": self.warmup.generator.get_state(),
            "session": (self.recent, self.debt, self.metrics, self.memory),
            "source": state_of(self.source, self.stores.values()),
            "more": {name: part.state_dict() for name, part in self.more.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.agent.load_state_dict(state["agent"])
        self.env.load_state_dict(state["env"])
        self.returns.load_state_dict(state["returns"])
        self.warmup.generator.set_state(state["warmup"])
        self.recent, self.debt, self.metrics, self.memory = state["session"]
        load_state(self.source, state["source"], self.stores.values())
        for name, part in self.more.items():
            part.load_state_dict(state["more"][name])

    def dumped(self) -> dict[str, Any]:
        """Return what a dump holds: the state, and physics states up to now."""
        now = getattr(self.env, "physics", None)
        trail = [*self.trail, *([] if now is None else [now.get_state()])]
        return {**self.state_dict(), "trail": trail}
