"""Datasets of other packages: HDF5 as D4RL lays it out, and Minari's.

Their actions are in the environment's own units. `Actions` map them to [-1, 1] and back: those of
`reverie.envs.actions_of(ENV)`, or `Bounds(low, high)`.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .dataset import Card, Dataset, card_of
from .transitions import NEXT_KNOWN, Transitions, concatenate
from .untrusted import READING, hdf5_arrays, hdf5_text, require_room, told

log = logging.getLogger("reverie")
_NEEDED = ("observations", "actions", "rewards", "terminals")
_MORE = ("next_observations", "timeouts", "truncateds")
UNITS = "action_units"  # attribute of a file: "native", as D4RL has them, or "unit", in [-1, 1]

_SAY_UNIT = (
    "Where its actions are in [-1, 1] already, say so in it: "
    f"h5py.File(path, 'a').attrs[{UNITS!r}] = 'unit'"
)

Array = Any  # numpy


class Actions(Protocol):
    """How an environment's own actions [M, ...] and rows [M, A] in [-1, 1] become each other."""

    def to_unit(self, native: Array) -> Array:
        """Return rows in [-1, 1]."""
        ...

    def to_native(self, unit: Array) -> Array:
        """Return actions in the environment's units."""
        ...


class Bounds:
    """`Actions` of real numbers from `low` to `high`, each a number or [A]."""

    def __init__(self, low: Any, high: Any) -> None:
        low, high = np.broadcast_arrays(np.asarray(low, np.float64), np.asarray(high, np.float64))
        if low.ndim > 1 or not np.isfinite([low, high]).all() or (low >= high).any():
            raise ValueError(f"bounds must be finite numbers, low below high, got {low} and {high}")
        self.middle, self.half = (high + low) / 2, (high - low) / 2

    def to_unit(self, native: Array) -> Array:
        """Return rows [M, A] in [-1, 1]."""
        with np.errstate(over="ignore"):  # what is infinite is refused by the dataset
            rows = (np.asarray(native, np.float64) - self.middle) / self.half
            return rows.astype(np.float32)

    def to_native(self, unit: Array) -> Array:
        """Return rows [M, A] from low to high, float64: so that `to_unit` gives back every bit."""
        return np.asarray(unit, np.float64) * self.half + self.middle


def save_hdf5(data: Dataset, path: str | Path, actions: Actions | None = None) -> None:
    """Write D4RL's arrays with next_observations, the flags apart, and the card as JSON.

    `actions`: the environment's, in whose units D4RL's readers expect them; without it they are
    written in [-1, 1], and the attribute `action_units` says which. `timeouts` is `truncated`
    where the episode did not terminate; `truncateds` is the flag as it is; extra columns go to
    `extra/`.
    """
    import h5py

    batch = data.all
    terminated, truncated = (x > 0 for x in (batch.terminated, batch.truncated))
    played = batch.action.cpu().numpy()
    arrays: dict[str, Any] = {
        "observations": batch.obs,
        "actions": played if actions is None else actions.to_native(played),
        "rewards": batch.reward,
        "next_observations": batch.next_obs,
        "terminals": terminated,
        "timeouts": truncated & ~terminated,
        "truncateds": truncated,
    }
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file.create_dataset(name, data=_numpy(value), compression="gzip")
        for name, value in batch.extra.items():
            file.create_dataset(f"extra/{name}", data=_numpy(value), compression="gzip")
        file.attrs["reverie"] = json.dumps(asdict(data.card))
        file.attrs[UNITS] = "unit" if actions is None else "native"


def _numpy(x: Any) -> Array:
    return x.cpu().numpy() if isinstance(x, Tensor) else x


def load_hdf5(
    path: str | Path,
    env: str | None = None,
    *,
    actions: Actions | Callable[[Card], Actions] | None = None,
    seed: int = 0,
) -> Dataset:
    """Read an HDF5 file in D4RL's layout: ours, or one of D4RL's own.

    `env`: its environment, where the file has no card of ours. `actions`: of that environment,
    or a function of the card that returns them: needed unless the file says that its actions are
    in [-1, 1] already. Without `next_observations` a row's successor is the next row's
    observation; a row cut by a time limit then has none and is dropped, with its flag put on the
    row before; a row that terminated has none either and says so (`next_known` is 0). The log
    says how many.

    Raises FileNotFoundError, and ValueError for what is not such a file: links, arrays stored
    elsewhere, sizes that the file cannot hold. Arrays of other names are not read.
    """
    import h5py

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with h5py.File(path, "r") as file:
            text, units = hdf5_text(file, "reverie"), hdf5_text(file, UNITS)
            card = _card(None if text is None else card_of(json.loads(text)), env, path)
            extra = {}
            if text is not None and "extra" in file.keys():  # noqa: SIM118
                extra = _extra(file, path)
            found = hdf5_arrays(file, (*_NEEDED, *_MORE), path)
            _require_rows(found, extra)
            arrays = {name: part[()] for name, part in found.items()}
            columns = {name: _float(part[()]) for name, part in extra.items()}
        if units is None and text is not None:
            units = "unit"  # ours, of before the attribute
        rows = _unit_rows(arrays["actions"], units, actions, card)
        if rows.ndim != 2:
            raise ValueError(f"actions have shape {rows.shape}, expected [M, A]")
        return _from_arrays({**arrays, "actions": rows}, columns, card, seed, path)
    except OSError as error:
        raise ValueError(f"{path} is not a readable HDF5 file: {told(error)}") from error
    except READING as error:
        raise ValueError(f"{path}: {told(error)}") from error


def _card(card: Card | None, env: str | None, path: Path) -> Card:
    if card is None and env is None:
        raise ValueError("it does not say which environment it is of: give env (--env)")
    return card or Card(env=str(env), policy=path.stem)


def _extra(file: Any, path: Path) -> dict[str, Any]:
    import h5py

    link = isinstance(file.get("extra", getlink=True), h5py.HardLink)
    if not link or not isinstance(file["extra"], h5py.Group):
        raise ValueError("'extra' is a link or an array, expected a group of arrays")
    return hdf5_arrays(file["extra"], list(file["extra"].keys()), path)


def _require_rows(found: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    """Refuse arrays whose shapes do not fit together."""
    missing = [k for k in _NEEDED if k not in found]
    if missing:
        raise ValueError(f"no {', '.join(missing)} in it; D4RL's layout has {', '.join(_NEEDED)}")
    obs = found["observations"].shape
    n = obs[0] if obs else 0
    one = {k for k in found if k not in ("observations", "next_observations", "actions")}
    shapes = {k: tuple(v.shape) for k, v in {**found, **extra}.items()}
    uneven = [k for k, s in shapes.items() if not s or s[0] != n or (k in one and np.prod(s) != n)]
    if uneven or len(obs) != 2 or shapes.get("next_observations", obs) != obs or not n:
        raise ValueError(f"arrays do not fit together: {shapes}")
    if any(len(v.shape) > 2 for v in extra.values()):
        raise ValueError(f"extra columns are [M] or [M, k]: {shapes}")
    if "next_observations" not in found and "timeouts" not in found:
        raise ValueError(
            "neither next_observations nor timeouts: where an episode was cut, the next row would "
            "be taken for its successor"
        )


def _unit_rows(native: Array, units: str | None, actions: Any, card: Card) -> Array:
    """Return actions [M, A] in [-1, 1], whichever units the file has."""
    if units not in (None, "native", "unit"):
        raise ValueError(f"{UNITS} is {units!r}, expected 'native' or 'unit'")
    if units == "unit":
        return native
    if actions is None:
        says = "does not say in which units its actions are" if units is None else "is native"
        raise ValueError(
            f"it {says}: name its environment to the run that reads it (--env), or give "
            f"actions=reverie.envs.actions_of({card.env!r}). {_SAY_UNIT}"
        )
    space = actions(card) if callable(actions) else actions
    rows: Array = space.to_unit(native)
    if float(np.abs(rows).max(initial=0)) > 1 + 1e-5:
        most = float(np.abs(native).max())
        raise ValueError(f"an action of {most:.4g} is beyond the bounds of {card.env}. {_SAY_UNIT}")
    return rows


def _from_arrays(
    arrays: Mapping[str, Any], extra: Mapping[str, Tensor], card: Card, seed: int, path: Path
) -> Dataset:
    n = len(arrays["observations"])
    obs, action = _float(arrays["observations"]), _float(arrays["actions"])
    reward, terminated = (_float(arrays[k]).view(n) for k in ("rewards", "terminals"))
    timeouts = _float(arrays.get("timeouts", np.zeros(n))).view(n)
    truncated = _float(arrays["truncateds"]).view(n) if "truncateds" in arrays else timeouts.clone()
    columns = dict(extra)
    keep = torch.ones(n, dtype=torch.bool)
    if "next_observations" in arrays:
        next_obs = _float(arrays["next_observations"])
        broken = (next_obs[:-1] != obs[1:]).any(1) & (terminated[:-1] == 0)
        truncated[:-1][broken] = 1.0  # what does not continue was cut
    else:
        ended = terminated > 0
        next_obs = torch.where(ended[:, None], obs, torch.cat([obs[1:], obs[-1:]]))
        open_end = (timeouts > 0) & ~ended
        keep = ~open_end
        truncated = torch.zeros(n)
        truncated[:-1] = torch.where(ended[:-1], 0.0, open_end[1:].float())
        if not ended[-1]:
            keep[-1] = False
            truncated[-2:-1] = torch.where(ended[-2:-1], 0.0, 1.0)
        if bool(ended.any()):
            columns[NEXT_KNOWN] = (~ended).float()
        log.warning(
            "%s has no next_observations: of %d rows, %d cut by a limit or the file's end have no "
            "successor and are dropped; %d that terminated have none either: values are learned "
            "from them, models of the dynamics leave them out",
            path.name,
            n,
            int((~keep).sum()),
            int((ended & keep).sum()),
        )
    if bool(keep.any()) and terminated[keep][-1] == 0:
        truncated[keep.nonzero().flatten()[-1]] = 1.0
    batch = Transitions(obs, action, reward, next_obs, terminated, truncated, columns)
    return Dataset.of(batch.map(lambda x: x[keep]), card, seed=seed)


def _float(x: Any) -> Tensor:
    with np.errstate(over="ignore"):  # what is infinite is refused by the dataset
        return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))


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

    obs_dim: int
    action: Actions

    def rows(self, obs: Any) -> Array:
        """Return observations [T, ...] of any space as rows [T, O]."""
        ...


class _Boxes:
    """Flat Boxes, which need no description."""

    def __init__(self, observation: Any, action: Any) -> None:
        for space in (observation, action):
            if type(space).__name__ != "Box" or len(space.shape) != 1:
                raise ValueError(f"{space} is no flat Box: give describe=reverie.envs.describe")
        self.obs_dim, self.action = observation.shape[0], Bounds(action.low, action.high)

    def rows(self, obs: Any) -> Array:
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
            obs, action = _float(spaces.rows(episode.observations)), episode.actions
            truncated = _float(episode.truncations)
            terminated = _float(episode.terminations)
            if terminated[-1] == 0:
                truncated[-1] = 1.0
            ends = terminated, truncated
            played, reward = _float(spaces.action.to_unit(action)), _float(episode.rewards)
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
