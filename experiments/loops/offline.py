"""The loop of every offline learner: draw, learn, and now and then look."""

from collections.abc import Callable, Mapping
from typing import Any

from ...agents import Metrics
from ...agents.playing import EVAL_SEED, Evaluation, evaluate
from ...buffers import ReplayBuffer, Source, Transitions
from ...buffers.source import load_state, state_of
from ..runs.result import Result
from ..runs.run import Run
from .crew import Crew
from .offline_session import Build, Session, scored, session
from .sources import compose, require_same


def run_offline(method: str, build: Build, config: Any, resume: bool) -> Result:
    """Build what a run of an offline method needs, train, and return what came of it.

    The directory comes last: a configuration that cannot be built leaves none behind.
    """
    s = session(method, build, config, config.agent)
    source = compose(s.parts, s.datasets, None)
    with opened(method, s, resume) as run:
        judged = train(run, s, source)
    return Result(run.path, run.step, judged)


def opened(method: str, s: Session, resume: bool) -> Run:
    """Return the run of a session, not yet entered."""
    c = s.config
    label = f"{method}-{c.env.split('/')[-1]}-s{c.seed}"
    return Run(method, c, label=label, steps=c.steps, seed=c.seed, resume=resume)


def train(
    run: Run,
    s: Session,
    source: Source,
    *,
    stores: Mapping[str, ReplayBuffer] | None = None,
    more: Mapping[str, Any] | None = None,
    first: Callable[[Callable[[], dict[str, Any]]], None] | None = None,
    crew: Crew | None = None,
) -> Evaluation:
    """Take `steps` gradient steps; return the last evaluation.

    `stores`: buffers of the source that lie in shards; `more`: further parts with a state; `first`:
    what comes before the first step, in phases, given what returns the state; `crew`: the members
    of a population. Raises Interrupted after saving, Diverged when a metric is not finite.
    """
    agent, kept, more = s.learner, stores or {}, more or {}
    metrics: Metrics = {}
    run.home.note(**s.judge.notes)
    require_same(run.home, s.given)
    with run.restored(kept) as state:
        if state is not None:
            agent.load_state_dict(state["agent"])
            load_state(source, state["source"], kept.values())
            metrics = state["metrics"]
            for name, part in more.items():
                part.load_state_dict(state["more"][name])

    def judging() -> Evaluation:
        judged = evaluate(crew or agent, s.judge, seed=EVAL_SEED, stop=lambda: run.stopping)
        return scored(judged, s.card)

    def check(batch: Transitions | None = None) -> None:
        if crew is None:
            run.require_finite(metrics, saved, batch)
        else:
            crew.require_finite(metrics, batch)

    def row() -> Mapping[str, Any]:
        check()
        return metrics if crew is None else crew.write_rows(metrics)

    def saved() -> dict[str, Any]:
        return {
            "agent": agent.state_dict(),
            "source": state_of(source, kept.values()),
            "metrics": metrics,
            "more": {name: part.state_dict() for name, part in more.items()},
        }

    if crew is not None:
        crew.begin(run)
    if first is not None and run.step == 0:
        first(saved)
    told = Evaluation.row if crew is None else crew.write_judged
    judged: Evaluation | None = None
    on_host = run.options.device == "cpu"  # reading a metric is a sync on a GPU
    while run.owed or run.step < s.config.steps:
        if not run.owed:  # else only what follows the step is left of it
            batch = source.sample(s.config.batch_size)
            metrics = agent.update(batch)
            run.tick(1)
            if on_host:
                check(batch)
        judged = run.after_step(judging, row, saved, kept, told)
    return run.final(judged, judging)
