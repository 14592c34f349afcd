"""Minari's datasets (extra [minari])."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
import torch

from .card import Card, card_of
from .dataset import Dataset
from .transitions import NEXT_KNOWN, Transitions, concatenate
from .units import Actions, Array, Bounds, as_float
from .untrusted import READING, require_room, told


def save_minari(data: Dataset, dataset_id: str, low: Any, high: Any) -> Any:
    """Write a Minari dataset (extra `[minari]`), e.g. `reverie/hopper-medium-v0`; return it.

    Actions are mapped from [-1, 1] to the native box `low`, `high` [A]. Minari keeps T + 1
    observations of an episode, so a row's successor is the next row's observation there.
    """
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    batch, bounds = data.all, Bounds(low, high)
    if NEXT_KNOWN in batch.extra and not bool(batch.extra[NEXT_KNOWN].all()):
        raise ValueError(
            f"{dataset_id}: Minari keeps the observation after the last action, and this data does "
            "not tell it (next_known is 0): read it from a file with next_observations"
        )
    episodes = []
    for first, last in data.episodes():
        part = batch.map(lambda x, a=first, b=last: x[a:b].cpu())  # type: ignore[misc]
        if not torch.equal(part.next_obs[:-1], part.obs[1:]):
            raise ValueError(f"rows {first} to {last} are no unbroken episode, which Minari needs")
        episodes.append(
            EpisodeBuffer(
                observations=torch.cat([part.obs, part.next_obs[-1:]]).numpy(),
                actions=bounds.to_native(part.action.numpy()),
                rewards=part.reward.numpy().astype(np.float64),
                terminations=part.terminated.bool().numpy(),
                truncations=part.truncated.bool().numpy(),
            )
        )
    box, shape = gymnasium.spaces.Box, (data.layout.act_dim,)
    ends = [np.broadcast_to(np.asarray(x, np.float64), shape) for x in (low, high)]
    return minari.create_dataset_from_buffers(
        dataset_id,
        buffer=episodes,
        observation_space=box(-np.inf, np.inf, (data.layout.obs_dim,), np.float32),
        action_space=box(*ends, dtype=np.float64),
        description=json.dumps(asdict(data.card)),
    )


class Spaces(Protocol):
    """What `reverie.envs.describe` returns of two gymnasium spaces."""

    @property
    def obs_dim(self) -> int:
        """Columns of a row."""
        ...

    @property
    def action(self) -> Actions:
        """Of the environment."""
        ...

    def rows(self, obs: Any) -> Array:
        """Return observations [T, ...] of any space as rows [T, O]."""
        ...


class _Boxes:
    """Flat Boxes, which need no description."""

    def __init__(self, observation: Any, action: Any) -> None:
        for space in (observation, action):
            if type(space).__name__ != "Box" or len(space.shape) != 1:
                raise ValueError(f"{space} is no flat Box: give describe=reverie.envs.describe")
        self.obs_dim = int(observation.shape[0])
        self.action: Actions = Bounds(action.low, action.high)

    def rows(self, obs: Any) -> Array:
        """Return them as they are."""
        return np.asarray(obs, np.float32)


def load_minari(
    dataset_id: str, describe: Callable[[Any, Any], Spaces] = _Boxes, *, seed: int = 0
) -> Dataset:
    """Read a local Minari dataset; observations become rows and actions go to [-1, 1].

    `describe` says how, of its observation and action space: `reverie.envs.describe`, as for
    environments that are trained in; without it they must be flat Boxes. Raises ValueError for
    spaces that it does not take, by name.
    """
    import minari

    source = minari.load_dataset(dataset_id)
    try:
        spaces = describe(source.spec.observation_space, source.spec.action_space)
        rows = int(source.total_steps) + int(source.total_episodes)
        require_room(size := 4 * 4 * rows * spaces.obs_dim, size)  # and twice as successors
        parts: list[Transitions] = []
        for episode in source.iterate_episodes():
            obs, action = as_float(spaces.rows(episode.observations)), episode.actions
            truncated = as_float(episode.truncations)
            terminated = as_float(episode.terminations)
            if terminated[-1] == 0:
                truncated[-1] = 1.0
            ends = terminated, truncated
            played, reward = as_float(spaces.action.to_unit(action)), as_float(episode.rewards)
            parts.append(Transitions(obs[:-1], played, reward, obs[1:], *ends))
        return Dataset.of(concatenate(parts), _minari_card(source, dataset_id), seed=seed)
    except READING as error:
        raise ValueError(f"minari:{dataset_id}: {told(error)}") from error


def _minari_card(source: Any, dataset_id: str) -> Card:
    try:
        return card_of(json.loads(source.storage.metadata["description"]))
    except (KeyError, TypeError, ValueError, RecursionError):  # no card of ours
        spec = source.spec.env_spec
        return Card(env=spec.id if spec is not None else dataset_id, policy=dataset_id)
