"""The loop of every off-policy agent: act, store, learn, and now and then look."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from ...agents import reset_where
from ...agents.acting import advance, over
from ...agents.graphs import drawn
from ...agents.playing import EVAL_SEED, Evaluation, Stopped, evaluate, never
from ...buffers import Transitions
from ..runs.result import Result
from ..runs.run import Run
from .session import Session, build

TRAIL = 8  # steps between the physics states that a dump shows


def run_agent(method: str, agent_class: Any, c: Any, resume: bool) -> Result:
    """Build what a run of an off-policy method needs, train, and return what came of it.

    The directory comes last: a configuration that cannot be built leaves none behind.
    """
    s = build(agent_class, c)
    label = f"{method}-{c.env.split('/')[-1]}-s{c.seed}"
    with Run(method, c, label=label, steps=c.steps, seed=c.seed, resume=resume) as run:
        judged = train(run, s, c)
    return Result(run.path, run.step, judged)


def steps(run: Run, s: Session, config: Any, first: Callable[[], Any] = never) -> Iterator[None]:
    """Act, store and learn until `config.steps` transitions; yield after each vector step.

    A step on a device counts bad rows too. What a `for` over it does comes between two steps,
    `first` before any; both may restart `s`. Raises Diverged after a dump when a loss, a parameter
    or an observation is not finite.
    """
    obs = s.begin(run)
    first()
    if run.owed:  # the run was stopped between two updates of a step, or in that body
        learn(run, s, config)
        yield
    while run.step < config.steps:
        obs, s.restarted = (obs if s.restarted is None else s.restarted), None
        policy = s.agent if run.step >= config.learning_starts else s.warmup
        action, s.memory = policy.act(obs, s.memory, explore=True)
        try:
            batch, valid, obs = advance(s.env, obs, action.to(s.env.device), s.columns)
        except FloatingPointError as error:
            run.dump(s.dumped(), str(error))
        s.buffer.add(batch, valid)
        run.tick(int(valid.sum()) if s.on_host else len(valid))
        count(run, s, batch, valid)
        if run.step > config.learning_starts:
            s.debt += config.utd * (run.step - max(run.previous, config.learning_starts))
            learn(run, s, config)
        yield


def learn(run: Run, s: Session, config: Any, finite: Callable[..., None] | None = None) -> None:
    """Take the updates that are owed, also after a stop; `finite` judges each, else the run."""
    check = finite or (lambda metrics, batch: run.require_finite(metrics, s.dumped, batch))
    with run.interruptible(s.state_dict, s.stores):
        while s.debt >= 1:
            if run.stopping:
                raise Stopped("updates were told to stop")
            n, size = min(int(s.debt), s.at_once), config.batch_size
            sampled = s.source.sample(size) if n == 1 else drawn(s.source, size, n)
            s.metrics = s.agent.update(sampled)
            s.debt -= n
            if run.options.device == "cpu":
                check(s.metrics, sampled if n == 1 else sampled.map(lambda x: x[-1]))


def train(run: Run, s: Session, config: Any) -> Evaluation:
    """Train until `config.steps` transitions; return the last evaluation.

    Raises Interrupted after saving when the run was told to stop, and what `steps` raises.
    """
    judge, row = looks(run, s)
    judged: Evaluation | None = None
    for _ in steps(run, s, config):
        judged = run.after_step(judge, row, s.state_dict, s.stores)
    return run.final(judged, judge)


def looks(run: Run, s: Session) -> tuple[Callable[[], Evaluation], Callable[[], dict[str, Any]]]:
    """Return how the agent is judged, and what a row of the log says."""

    def judge() -> Evaluation:
        return evaluate(s.agent, s.judge, seed=EVAL_SEED, stop=lambda: run.stopping)

    def row() -> dict[str, Any]:
        run.require_finite(s.metrics, s.dumped)
        return row_of(s)

    return judge, row


def count(run: Run, s: Session, batch: Transitions, valid: torch.Tensor) -> None:
    """Count one vector step's episodes, and begin the memory of those that start."""
    physics = getattr(s.env, "physics", None)  # not a foreign environment's
    if physics is not None and run.due(TRAIL * s.env.num_envs):
        s.trail.append(physics.get_state())
    s.recent += [(total, n) for _, total, n in s.returns.add(batch, valid)]
    if s.memory:
        s.memory = reset_where(over(batch, valid), s.memory, s.initial)


def row_of(s: Session) -> dict[str, Any]:
    """Return what to log, and forget the episodes in it."""
    return {**s.metrics, **s.env.health(), **s.played()}
