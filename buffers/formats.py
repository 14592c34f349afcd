"""Datasets of other packages: HDF5 as D4RL lays it out, and Minari's."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .dataset import Card, Dataset
from .transitions import Transitions, concatenate

_NEEDED = ("observations", "actions", "rewards", "terminals")


def save_hdf5(data: Dataset, path: str | Path) -> None:
    """Write D4RL's arrays with next_observations, the flags apart, and the card as JSON.

    `timeouts` is `truncated` where the episode did not terminate, as D4RL's readers expect;
    `truncateds` holds the flag as it is. Extra columns go to `extra/`.
    """
    import h5py

    batch = data.all
    terminated, truncated = (x > 0 for x in (batch.terminated, batch.truncated))
    arrays: dict[str, Tensor] = {
        "observations": batch.obs,
        "actions": batch.action,
        "rewards": batch.reward,
        "next_observations": batch.next_obs,
        "terminals": terminated,
        "timeouts": truncated & ~terminated,
        "truncateds": truncated,
    }
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file.create_dataset(name, data=value.cpu().numpy(), compression="gzip")
        for name, value in batch.extra.items():
            file.create_dataset(f"extra/{name}", data=value.cpu().numpy(), compression="gzip")
        file.attrs["reverie"] = json.dumps(asdict(data.card))


def load_hdf5(path: str | Path, env: str | None = None, *, seed: int = 0) -> Dataset:
    """Read an HDF5 file in D4RL's layout: ours, or one of D4RL's own.

    Without `next_observations` a row's successor is the next row's observation; a row that was
    cut by a time limit then has none and is dropped, with its flag put on the row before. `env`
    is needed where the file has no card of ours. Raises FileNotFoundError, and ValueError for
    what is not such a file.
    """
    import h5py

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with h5py.File(path, "r") as file:
            arrays = {k: np.asarray(v) for k, v in file.items() if isinstance(v, h5py.Dataset)}
            extra = {k: np.asarray(v) for k, v in file.get("extra", {}).items()}
            card = json.loads(file.attrs["reverie"]) if "reverie" in file.attrs else None
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"{path} is not a readable HDF5 file: {error}") from error
    try:
        return _from_arrays(arrays, extra, _card(card, env, path), seed)
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _card(values: Any, env: str | None, path: Path) -> Card:
    if isinstance(values, Mapping):
        known = {f.name for f in fields(Card)}
        card = Card(**{k: v for k, v in values.items() if k in known})
        return card
    if env is None:
        raise ValueError("the file does not say which environment it is of: give env=")
    return Card(env=env, policy=path.stem)


def _from_arrays(
    arrays: Mapping[str, Any], extra: Mapping[str, Any], card: Card, seed: int
) -> Dataset:
    missing = [k for k in _NEEDED if k not in arrays]
    if missing:
        raise ValueError(f"no {', '.join(missing)} in it; D4RL's layout has {', '.join(_NEEDED)}")
    n = len(arrays["observations"])
    uneven = {k: v.shape for k, v in {**arrays, **extra}.items() if v.ndim == 0 or len(v) != n}
    if uneven or arrays["observations"].ndim != 2 or arrays["actions"].ndim != 2:
        shapes = {k: v.shape for k, v in arrays.items()}
        raise ValueError(f"arrays do not fit together: {shapes}")
    obs, action, reward = (_float(arrays[k]) for k in _NEEDED[:3])
    terminated = _float(arrays["terminals"])
    timeouts = _float(arrays.get("timeouts", np.zeros(n)))
    truncated = _float(arrays["truncateds"]) if "truncateds" in arrays else timeouts.clone()
    if "next_observations" not in arrays and "timeouts" not in arrays:
        raise ValueError(
            "neither next_observations nor timeouts: where an episode was cut, the next row would "
            "be taken for its successor"
        )
    if "next_observations" in arrays:
        next_obs = _float(arrays["next_observations"])
        if next_obs.shape != obs.shape:
            raise ValueError(f"next_observations {tuple(next_obs.shape)}, obs {tuple(obs.shape)}")
        keep = torch.ones(n, dtype=torch.bool)
        broken = (next_obs[:-1] != obs[1:]).any(1) & (terminated[:-1] == 0)
        truncated[:-1][broken] = 1.0  # what does not continue was cut
    else:
        next_obs = torch.cat([obs[1:], obs[-1:]])
        open_end = (timeouts > 0) & (terminated == 0)
        keep = ~open_end
        truncated = torch.zeros(n)
        truncated[:-1] = torch.where(terminated[:-1] > 0, 0.0, open_end[1:].float())
        if terminated[-1] == 0:
            keep[-1] = False
            truncated[-2:-1] = torch.where(terminated[-2:-1] > 0, 0.0, 1.0)
    if bool(keep.any()) and terminated[keep][-1] == 0:
        truncated[keep.nonzero().flatten()[-1]] = 1.0
    columns = {k: _float(v) for k, v in extra.items()}
    batch = Transitions(
        obs, action, reward.view(n), next_obs, terminated.view(n), truncated.view(n), columns
    )
    return Dataset.of(batch.map(lambda x: x[keep]), card, seed=seed)


def _float(x: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))


def save_minari(data: Dataset, dataset_id: str, low: Any, high: Any) -> Any:
    """Write a Minari dataset (extra `[minari]`), e.g. `reverie/hopper-medium-v0`; return it.

    Actions are mapped from [-1, 1] to the native box `low`, `high` [A]. Minari keeps T + 1
    observations of an episode, so a row's successor is the next row's observation there.
    """
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    batch, low, high = data.all, np.asarray(low, np.float64), np.asarray(high, np.float64)
    episodes = []
    for first, last in data.episodes():
        part = batch.map(lambda x, a=first, b=last: x[a:b].cpu())  # type: ignore[misc]
        if not torch.equal(part.next_obs[:-1], part.obs[1:]):
            raise ValueError(f"rows {first} to {last} are no unbroken episode, which Minari needs")
        native = (part.action.double().numpy() + 1) / 2 * (high - low) + low
        episodes.append(
            EpisodeBuffer(
                observations=torch.cat([part.obs, part.next_obs[-1:]]).numpy(),
                actions=native,
                rewards=part.reward.numpy().astype(np.float64),
                terminations=part.terminated.bool().numpy(),
                truncations=part.truncated.bool().numpy(),
            )
        )
    box = gymnasium.spaces.Box
    return minari.create_dataset_from_buffers(
        dataset_id,
        buffer=episodes,
        observation_space=box(-np.inf, np.inf, (data.layout.obs_dim,), np.float32),
        action_space=box(low, high, dtype=np.float64),
        description=json.dumps(asdict(data.card)),
    )


def load_minari(dataset_id: str, *, seed: int = 0) -> Dataset:
    """Read a local Minari dataset of Box observations and actions; actions go to [-1, 1]."""
    import minari

    source = minari.load_dataset(dataset_id)
    space = source.spec.action_space
    low, high = np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(f"{dataset_id}: the action space {space} is unbounded")
    parts: list[Transitions] = []
    for episode in source.iterate_episodes():
        obs = _float(episode.observations)
        action = (np.asarray(episode.actions, np.float64) - low) / (high - low) * 2 - 1
        truncated = _float(episode.truncations)
        terminated = _float(episode.terminations)
        if terminated[-1] == 0:
            truncated[-1] = 1.0
        reward = _float(episode.rewards)
        parts.append(Transitions(obs[:-1], _float(action), reward, obs[1:], terminated, truncated))
    try:
        card = _card(json.loads(source.storage.metadata["description"]), None, Path(dataset_id))
    except (KeyError, TypeError, ValueError):  # no card of ours
        spec = source.spec.env_spec
        card = Card(env=spec.id if spec is not None else dataset_id, policy=dataset_id)
    return Dataset.of(concatenate(parts), card, seed=seed)
