"""What a run of an offline method is made of: its learner, data and judge."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from ...agents import Agent
from ...agents.offline.standardised import Standardised
from ...buffers import Card, Dataset
from ...envs import BatchEnv, make
from ...envs.contexts import parse_contexts
from ..runs.resources import check_device, use_threads
from .build import tell_if_endless
from .sources import Part, open_datasets, parse_data

Build = Callable[..., Agent]  # (obs_dim, act_dim, config, *, device, seed)


class Session(NamedTuple):
    """What a run of an offline method is made of."""

    config: Any  # in which what was left open is the data's
    learner: Standardised
    parts: list[Part]
    given: list[Dataset]  # as they lie on the disk
    datasets: list[Dataset]  # as they are learned from
    judge: BatchEnv
    card: Card | None  # for scores; None where the judge plays something else than the data


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
