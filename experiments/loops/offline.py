"""The loop of every offline learner: draw, learn, and now and then look."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ...agents import Agent, Metrics, Policy
from ...agents.actors import deterministic_policy, go_on
from ...agents.offline.standardised import Standardised
from ...agents.playing import EVAL_SEED, Evaluation, evaluate
from ...buffers import Card, Dataset, ReplayBuffer, Source
from ...buffers.source import load_state, state_of
from ...envs import BatchEnv, make
from ...envs.contexts import parse_contexts
from ..runs.resources import check_device, use_threads
from ..runs.result import Result
from ..runs.run import Run
from .build import tell_if_endless
from .sources import Part, compose, open_datasets, parse_data, require_same

Build = Callable[..., Agent]  # (obs_dim, act_dim, config, *, device, seed)


def judged_as(config: Any, card: Card) -> Any:
    """Return a configuration in which what it leaves open is the data's: environment, context."""
    options = {"max_episode_steps": card.max_episode_steps, **card.env_options}
    own = tuple(
        f"{name}={','.join(map(repr, x if isinstance(x, Sequence) else [x]))}"
        for name, x in card.context.items()
    )
    return dataclasses.replace(
        config,
        env=config.env or card.env,
        context=config.context or own,
        env_options={**options, **config.env_options},
    )


class Session(NamedTuple):
    """What a run of an offline method is made of."""

    config: Any  # in which what was left open is the data's
    learner: Standardised
    parts: list[Part]
    given: list[Dataset]  # as they lie on the disk
    datasets: list[Dataset]  # as they are learned from
    judge: BatchEnv
    card: Card | None  # for scores; None where the judge plays something else than the data


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


def session(method: str, build: Build, config: Any, settings: Any) -> Session:
    """Return everything of a run but its source; `settings` are the learner's."""
    c = config
    check_device(c.run.device)
    threads = use_threads(c.run.threads)
    parts = parse_data(c.data)
    if not parts or any(p.path is None for p in parts):
        raise ValueError(
            f"{method} learns from data, not from a replay of its own: give --data dataset:PATH "
            "(`reverie collect` makes one)"
        )
    if not 0 < c.fraction <= 1:
        raise ValueError(f"fraction is of the data's rows, above 0 and up to 1: got {c.fraction}")
    given = open_datasets(parts, c.seed, c.env, c.env_options)
    card = given[0].card
    own = judged_as(dataclasses.replace(c, env=None, context=(), env_options={}), card)
    c = judged_as(c, card)
    alike = (c.env, c.context, c.env_options) == (own.env, own.context, own.env_options)
    worlds = {**c.env_options, "context": parse_contexts(c.context), "threads": threads}
    judge = make(c.env, c.run.eval_episodes, **worlds)
    tell_if_endless(c.env, judge, lambda: make(c.env, 1, **worlds))
    first = given[0].layout
    if (first.obs_dim, first.act_dim) != (judge.obs_dim, judge.act_dim):
        raise ValueError(
            f"the data has obs {first.obs_dim} and action {first.act_dim}, {c.env} has "
            f"{judge.obs_dim} and {judge.act_dim}"
        )
    agent = build(first.obs_dim, first.act_dim, settings, device=c.run.device, seed=c.seed)
    datasets = given
    if "next_action" in agent.columns:
        datasets = [d.with_next_action() for d in datasets]
    if c.fraction < 1:
        datasets = [d.share(c.fraction, seed=c.seed) for d in datasets]
    datasets = [d.to(c.run.device) for d in datasets]
    for d in datasets:
        d.layout.require(agent.columns, type(agent).__name__)
    mean, std = datasets[0].moments()
    if not c.standardise:
        mean, std = torch.zeros_like(mean), torch.ones_like(std)
    learner = Standardised(agent, mean, std)
    return Session(c, learner, parts, given, datasets, judge, card if alike else None)


def train(
    run: Run,
    s: Session,
    source: Source,
    *,
    stores: Mapping[str, ReplayBuffer] | None = None,
    more: Mapping[str, Any] | None = None,
    first: Callable[[Callable[[], dict[str, Any]]], None] | None = None,
) -> Evaluation:
    """Take `steps` gradient steps; return the last evaluation.

    `stores`: buffers of the source that lie in shards; `more`: further parts with a state; `first`:
    what comes before the first step, in phases, given what returns the state.

    Raises Interrupted after saving, Diverged after a dump when a metric is not finite.
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
        judged = evaluate(agent, s.judge, seed=EVAL_SEED, stop=lambda: run.stopping)
        return scored(judged, s.card)

    def row() -> Metrics:
        run.require_finite(metrics, saved)
        return metrics

    def saved() -> dict[str, Any]:
        return {
            "agent": agent.state_dict(),
            "source": state_of(source, kept.values()),
            "metrics": metrics,
            "more": {name: part.state_dict() for name, part in more.items()},
        }

    if first is not None and run.step == 0:
        first(saved)
    judged: Evaluation | None = None
    on_host = run.options.device == "cpu"  # reading a metric is a sync on a GPU
    while run.owed or run.step < s.config.steps:
        if not run.owed:  # else only what follows the step is left of it
            batch = source.sample(s.config.batch_size)
            metrics = agent.update(batch)
            run.tick(1)
            if on_host:
                run.require_finite(metrics, saved, batch)
        judged = run.after_step(judging, row, saved, kept)
    return run.final(judged, judging)


def scored(judged: Evaluation, card: Card | None) -> Evaluation:
    """Return an evaluation with its score, where the card has references."""
    if card is None or not card.has_references:
        return judged
    return judged._replace(extra={"score": card.normalised(judged.mean)})


def load(settings: Any, state: Mapping[str, Any]) -> tuple[Policy, int]:
    """Return the standardised policy of a checkpoint, and the width of its observations."""
    noise, inner = getattr(settings, "explore_noise", 0.0), state["inner"]
    moments = {"mean": state["mean"], "std": state["std"]}
    policy, obs_dim = deterministic_policy(inner["actor"], noise, **moments)
    return go_on(policy, inner.get("acting")), obs_dim
