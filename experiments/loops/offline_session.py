"""What a run of an offline method is made of: its learner, data and judge."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ...agents import Agent, Policy
from ...agents.actors import deterministic_policy, go_on
from ...agents.offline.standardised import Standardised
from ...agents.playing import Evaluation
from ...agents.seeding import stream_seed
from ...buffers import Card, Dataset
from ...envs import BatchEnv, make
from ...envs.contexts import parse_contexts
from ..runs.resources import check_device, use_threads
from .build import streams_of, tell_if_endless
from .sources import Part, open_datasets, parse_data

Build = Callable[..., Agent]  # (obs_dim, act_dim, config, *, device, seed)


class Session(NamedTuple):
    """What a run of an offline method is made of."""

    config: Any  # in which what was left open is the data's
    learner: Standardised
    parts: list[Part]
    given: list[Dataset]  # as they lie on the disk
    members: list[list[Dataset]]  # as each learner of a population, or the one, learns from them
    judge: BatchEnv
    card: Card | None  # for scores; None where the judge plays something else than the data

    @property
    def datasets(self) -> list[Dataset]:
        """The data as the learner, the first one of a population, learns from it."""
        return self.members[0]


def session(
    method: str, build: Build, config: Any, settings: Any, seeds: Sequence[int] | None = None
) -> Session:
    """Return everything of a run but its source; `settings` are the learner's.

    `seeds`: of the members of a population, which has settings for each of them.
    """
    c, k = config, len(seeds or (0,))
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
    contexts = parse_contexts(c.context)
    worlds = {**c.env_options, "context": contexts, "threads": threads}
    side_by_side: dict[str, Any] = {}
    if seeds is not None:
        own = streams_of("eval_episodes", c.run.eval_episodes, contexts)
        side_by_side["streams"] = k * own
    judge = make(c.env, k * c.run.eval_episodes, **side_by_side, **worlds)
    tell_if_endless(c.env, judge, lambda: make(c.env, 1, **worlds))
    first = given[0].layout
    if (first.obs_dim, first.act_dim) != (judge.obs_dim, judge.act_dim):
        raise ValueError(
            f"the data has obs {first.obs_dim} and action {first.act_dim}, {c.env} has "
            f"{judge.obs_dim} and {judge.act_dim}"
        )
    seed = c.seed if seeds is None else tuple(seeds)
    agent = build(first.obs_dim, first.act_dim, settings, device=c.run.device, seed=seed)
    datasets = given
    if "next_action" in agent.columns:
        datasets = [d.with_next_action() for d in datasets]
    datasets = [d.to(c.run.device) for d in datasets]
    for d in datasets:
        d.layout.require(agent.columns, type(agent).__name__)
    members = [_of_member(c, datasets, s) for s in seeds or (c.seed,)]
    mean, std = (torch.stack(x) for x in zip(*(m[0].moments() for m in members), strict=True))
    mean, std = (x[0] if seeds is None else x.unsqueeze(1) for x in (mean, std))
    if not c.standardise:
        mean, std = torch.zeros_like(mean), torch.ones_like(std)
    learner = Standardised(agent, mean, std)
    return Session(c, learner, parts, given, members, judge, card if alike else None)


def _of_member(config: Any, datasets: Sequence[Dataset], seed: int) -> list[Dataset]:
    """Return the data as a run of this seed draws from it; whole data shares its rows."""
    own = []
    for i, data in enumerate(datasets):
        mine = copy.copy(data)
        mine.generator = torch.Generator(data.device).manual_seed(stream_seed(seed, f"data {i}"))
        own.append(mine.share(config.fraction, seed=seed) if config.fraction < 1 else mine)
    return own


def scored(judged: Evaluation, card: Card | None) -> Evaluation:
    """Return an evaluation with its score, where the card has references."""
    if card is None or not card.has_references:
        return judged
    return judged._replace(extra={"score": card.normalised(judged.mean)})


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


def load(settings: Any, state: Mapping[str, Any]) -> tuple[Policy, int]:
    """Return the standardised policy of a checkpoint, and the width of its observations."""
    noise, inner = getattr(settings, "explore_noise", 0.0), state["inner"]
    moments = {"mean": state["mean"], "std": state["std"]}
    policy, obs_dim = deterministic_policy(inner["actor"], noise, **moments)
    return go_on(policy, inner.get("acting")), obs_dim
