"""The loop of every off-policy agent: act, store, learn, and now and then look."""

import math
from collections import deque
from typing import Any, NoReturn

import torch

from ...agents import Agent, Metrics, RandomPolicy, reset_where
from ...agents.acting import EVAL_SEED, SEED_STRIDE, Evaluation, Returns, advance, evaluate, over
from ...agents.seeding import stream_seed
from ...buffers import ReplayBuffer, Source, Transitions
from ...envs import BatchEnv
from ..runs.resources import check_device, use_threads
from ..runs.result import Result
from ..runs.run import Run
from ..runs.stopping import Interrupted
from .build import make_worlds
from .sources import compose, open_datasets, parse_data, require_same


def run_agent(method: str, agent_class: Any, config: Any, resume: bool) -> Result:
    """Build what a run of an off-policy method needs, train, and return what came of it.

    The directory comes last: a configuration that cannot be built leaves none behind.
    """
    c = config
    check_device(c.run.device)
    env, judge, buffer = make_worlds(c, use_threads(c.run.threads))
    agent = agent_class(
        env.obs_dim,
        env.act_dim,
        c.agent,
        device=c.run.device,
        seed=c.seed,
        compile=c.compile,
        bfloat16=c.bfloat16,
    )
    buffer.layout.require(agent.columns, agent_class.__name__)
    parts = parse_data(getattr(c, "data", ("replay",)))
    datasets = [d.to(c.run.device) for d in open_datasets(parts, c.seed, c.env)]
    source = compose(parts, datasets, buffer)
    label = f"{method}-{c.env.split('/')[-1]}-s{c.seed}"
    with Run(method, c, label=label, steps=c.steps, seed=c.seed, resume=resume) as run:
        require_same(run, datasets)
        judged = train(run, agent, env, judge, buffer, source, c)
    return Result(run.path, run.step, judged)


class Session:
    """All that a run changes outside its directory, as one state."""

    def __init__(
        self, agent: Agent, env: BatchEnv, buffer: ReplayBuffer, source: Source, seed: int
    ) -> None:
        self.agent, self.env, self.buffer, self.seed = agent, env, buffer, seed
        # Beside the replay buffer, whose rows lie in shards: datasets, of which the draws go on.
        parts: list[Any] = getattr(source, "sources", [source])
        self.data = [s for s in parts if s is not buffer]
        self.warmup = RandomPolicy(env.act_dim, seed=stream_seed(seed, "warmup"))
        self.returns = Returns(env.num_envs)
        self.recent: list[tuple[float, int]] = []  # returns and lengths since the last log row
        self.debt = 0.0  # updates owed
        self.metrics: Metrics = {}
        self.trail: deque[Any] = deque(maxlen=16)  # the last physics states, for a dump
        self.initial = self.memory = agent.initial_state(env.num_envs)

    def begin(self, run: Run) -> torch.Tensor:
        """Return the first observations, or those at which the newest checkpoint left off."""
        run.note(**self.env.notes)
        state = run.restore(self.buffer)
        if state is None:
            return self.env.reset()
        self.agent.load_state_dict(state["agent"])
        self.env.load_state_dict(state["env"])
        self.returns.load_state_dict(state["returns"])
        self.warmup.generator.set_state(state["warmup"])
        for source, kept in zip(self.data, state["data"], strict=True):
            source.load_state_dict(kept)
        self.recent, self.debt, self.metrics = state["recent"], state["debt"], state["metrics"]
        self.memory = state["memory"]
        if self.env.restores:
            return self.env.current_obs()
        run.note(resume="the environment has no saved state: restarted at a reset")
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
            "recent": self.recent,
            "debt": self.debt,
            "metrics": self.metrics,
            "memory": self.memory,
            "data": [source.state_dict() for source in self.data],
        }

    def count(self, batch: Transitions, valid: torch.Tensor) -> None:
        """Count one vector step's episodes, and begin the memory of those that start."""
        if (physics := getattr(self.env, "physics", None)) is not None:  # not a foreign one's
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

    def require_finite(self, run: Run, batch: Transitions | None = None) -> None:
        """Stop the run with a dump if a metric is not finite; reading one is a sync on a GPU."""
        bad = [name for name, value in self.metrics.items() if not math.isfinite(value)]
        if bad:
            self.dump(run, f"{', '.join(bad)} not finite", batch)

    def dump(self, run: Run, what: str, batch: Transitions | None = None) -> NoReturn:
        """Stop the run and write down its state, the batch and the last physics states."""
        fields = {} if batch is None else {**batch._asdict(), "extra": dict(batch.extra)}
        run.dump({**self.state_dict(), "batch": fields, "trail": list(self.trail)}, what)


def train(
    run: Run,
    agent: Agent,
    env: BatchEnv,
    judge: BatchEnv,
    buffer: ReplayBuffer,
    source: Source,
    config: Any,
) -> Evaluation:
    """Train `agent` until `config.steps` transitions; return its last evaluation.

    Raises Interrupted after saving when the run was told to stop, Diverged after a dump when a
    loss, a parameter or an observation is not finite.
    """
    s = Session(agent, env, buffer, source, config.seed)
    obs = s.begin(run)
    on_host = run.options.device == "cpu"
    judged: Evaluation | None = None
    while run.step < config.steps:
        policy = agent if run.step >= config.learning_starts else s.warmup
        action, s.memory = policy.act(obs, s.memory, explore=True)
        try:
            batch, valid, obs = advance(env, obs, action.to(env.device))
        except FloatingPointError as error:
            s.dump(run, str(error))
        buffer.add(batch, valid)
        s.count(batch, valid)
        run.tick(int(valid.sum()))

        if run.step > config.learning_starts:
            s.debt += config.utd * (run.step - max(run.previous, config.learning_starts))
            while s.debt >= 1:
                sampled = source.sample(config.batch_size)
                s.metrics = agent.update(sampled)
                s.debt -= 1
                if on_host:
                    s.require_finite(run, sampled)

        if run.due(run.options.log_every):
            s.require_finite(run)
            run.log(s.row())
            run.log_time()
        if run.due(run.options.eval_every):
            judged = evaluate(agent, judge, seed=EVAL_SEED)
            run.log(judged.row(), kind="eval")
        if run.due(run.options.checkpoint_every) or run.stopping:
            run.save(s.state_dict(), buffer)
            if run.stopping and run.step < config.steps:
                raise Interrupted(run.path)
    if judged is None:  # resumed at the end
        judged = evaluate(agent, judge, seed=EVAL_SEED)
    return judged
