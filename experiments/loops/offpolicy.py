"""The loop of every off-policy agent: act, store, learn, and now and then look."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch

from ...agents import Agent, Metrics, RandomPolicy, reset_where
from ...agents.acting import Returns, advance, over
from ...agents.playing import EVAL_SEED, SEED_STRIDE, Evaluation, Stopped, evaluate
from ...agents.seeding import stream_seed
from ...buffers import ReplayBuffer, Source, Transitions
from ...buffers.source import leaves, load_state, state_of
from ...envs import BatchEnv
from ..runs.result import Result
from ..runs.run import Run
from .build import replay_for, worlds_for
from .sources import compose, open_datasets, parse_data, require_same

TRAIL = 8  # steps between the physics states that a dump shows


def run_agent(method: str, agent_class: Any, config: Any, resume: bool) -> Result:
    """Build what a run of an off-policy method needs, train, and return what came of it.

    The directory comes last: a configuration that cannot be built leaves none behind.
    """
    s = build(agent_class, config)
    label = f"{method}-{config.env.split('/')[-1]}-s{config.seed}"
    with Run(
        method, config, label=label, steps=config.steps, seed=config.seed, resume=resume
    ) as run:
        judged = train(run, s, config)
    return Result(run.path, run.step, judged)


def build(
    agent_class: Any,
    config: Any,
    *,
    env: BatchEnv | None = None,
    judge: BatchEnv | None = None,
    source: Source | None = None,
) -> "Session":
    """Return everything that a run changes, from a configuration or from finished parts."""
    c = config
    env, judge = worlds_for(c, env, judge)
    buffer = replay_for(c, env)
    more = {"device": c.run.device, "seed": c.seed, "compile": c.compile, "bfloat16": c.bfloat16}
    agent = agent_class(env.obs_dim, env.act_dim, c.agent, **more)
    buffer.layout.require(agent.columns, agent_class.__name__)
    datasets = []
    if source is None:
        parts = parse_data(getattr(c, "data", ("replay",)))
        datasets = [d.to(c.run.device) for d in open_datasets(parts, c.seed, c.env, c.env_options)]
        source = compose(parts, datasets, buffer)
    return Session(agent, env, judge, buffer, source, c.seed, datasets)


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
        self.warmup = RandomPolicy(env.act_dim, seed=stream_seed(seed, "warmup"))
        self.returns = Returns(env.num_envs)
        self.recent: list[tuple[float, int]] = []  # returns and lengths since the last log row
        self.debt = 0.0  # updates owed
        self.metrics: Metrics = {}
        self.trail: deque[Any] = deque(maxlen=16)  # physics states, for a dump
        self.initial = self.memory = agent.initial_state(env.num_envs)

    def draw_from(self, source: Source) -> None:
        """Learn from this source from now on; buffers in it lie in shards, as the replay does."""
        found = [x for x in leaves(source) if isinstance(x, ReplayBuffer)]
        others = [x for x in found if x is not self.buffer]
        self.source = source
        self.stores = {"replay": self.buffer} | {f"replay-{i}": x for i, x in enumerate(others, 2)}

    def begin(self, run: Run) -> torch.Tensor:
        """Return the first observations, or those at which the newest checkpoint left off."""
        run.home.note(**self.env.notes)
        require_same(run.home, self.datasets)
        with run.restored(self.stores) as state:
            if state is None:
                return self.env.reset()
            self.load_state_dict(state)
            if self.env.restores:
                return self.env.current_obs()
            run.home.note(resume="the environment has no saved state: restarted at a reset")
            self.buffer.break_episodes()
            self.returns, self.memory = Returns(self.env.num_envs), self.initial
            return self.env.reset(self.seed * SEED_STRIDE + run.step)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the buffer, whose rows lie in shards."""
        return {
            "agent": self.agent.state_dict(),
            "env": self.env.state_dict(),
            "returns": self.returns.state_dict(),
            "warmup": self.warmup.generator.get_state(),
            "session": (self.recent, self.debt, self.metrics, self.memory),
            "source": state_of(self.source, self.stores.values()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.agent.load_state_dict(state["agent"])
        self.env.load_state_dict(state["env"])
        self.returns.load_state_dict(state["returns"])
        self.warmup.generator.set_state(state["warmup"])
        self.recent, self.debt, self.metrics, self.memory = state["session"]
        load_state(self.source, state["source"], self.stores.values())

    def count(self, run: Run, batch: Transitions, valid: torch.Tensor) -> None:
        """Count one vector step's episodes, and begin the memory of those that start."""
        physics = getattr(self.env, "physics", None)  # not a foreign environment's
        if physics is not None and run.due(TRAIL * self.env.num_envs):
            self.trail.append(physics.get_state())
        self.recent += [(total, n) for _, total, n in self.returns.add(batch, valid)]
        if self.memory:
            self.memory = reset_where(over(batch, valid), self.memory, self.initial)

    def row(self) -> dict[str, Any]:
        """Return what to log, and forget the episodes in it."""
        row: dict[str, Any] = {**self.metrics, **self.env.health()}
        if self.recent:
            row["return"] = sum(r for r, _ in self.recent) / len(self.recent)
            row["length"] = sum(n for _, n in self.recent) / len(self.recent)
        self.recent = []
        return row

    def dumped(self) -> dict[str, Any]:
        """Return what a dump holds: the state, and physics states up to now."""
        now = getattr(self.env, "physics", None)
        trail = [*self.trail, *([] if now is None else [now.get_state()])]
        return {**self.state_dict(), "trail": trail}


def steps(run: Run, s: Session, config: Any) -> Iterator[None]:
    """Act, store and learn until `config.steps` transitions; yield after each vector step.

    What stands in the body of `for _ in steps(...)` comes between two steps. Raises Diverged after
    a dump when a loss, a parameter or an observation is not finite.
    """
    obs = s.begin(run)
    if run.owed:  # the run was stopped between two updates of a step, or in that body
        learn(run, s, config)
        yield
    while run.step < config.steps:
        policy = s.agent if run.step >= config.learning_starts else s.warmup
        action, s.memory = policy.act(obs, s.memory, explore=True)
        try:
            batch, valid, obs = advance(s.env, obs, action.to(s.env.device))
        except FloatingPointError as error:
            run.dump(s.dumped(), str(error))
        s.buffer.add(batch, valid)
        run.tick(int(valid.sum()))
        s.count(run, batch, valid)
        if run.step > config.learning_starts:
            s.debt += config.utd * (run.step - max(run.previous, config.learning_starts))
            learn(run, s, config)
        yield


def learn(run: Run, s: Session, config: Any) -> None:
    """Take the updates that are owed; those that a stop leaves stay owed in the checkpoint."""
    on_host = run.options.device == "cpu"
    with run.interruptible(s.state_dict, s.stores):
        while s.debt >= 1:
            if run.stopping:
                raise Stopped("updates were told to stop")
            sampled = s.source.sample(config.batch_size)
            s.metrics = s.agent.update(sampled)
            s.debt -= 1
            if on_host:
                run.require_finite(s.metrics, s.dumped, sampled)


def train(run: Run, s: Session, config: Any) -> Evaluation:
    """Train until `config.steps` transitions; return the last evaluation.

    Raises Interrupted after saving when the run was told to stop, and what `steps` raises.
    """

    def judge() -> Evaluation:
        return evaluate(s.agent, s.judge, seed=EVAL_SEED, stop=lambda: run.stopping)

    def row() -> dict[str, Any]:
        run.require_finite(s.metrics, s.dumped)
        return s.row()

    judged: Evaluation | None = None
    for _ in steps(run, s, config):
        judged = run.after_step(judge, row, s.state_dict, s.stores)
    return run.final(judged, judge)
