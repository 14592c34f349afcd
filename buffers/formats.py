"""Datasets of other packages: HDF5 as D4RL lays it out, and Minari's.

Their actions are in the environment's own units. `Actions` map them to [-1, 1] and back: those of
`reverie.envs.actions_of(ENV)`, or `Bounds(low, high)`.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .aside import aside
from .card import Card, card_of
from .dataset import Dataset
from .minari import load_minari, save_minari
from .transitions import NEXT_KNOWN, Transitions
from .units import Actions, Array, Bounds, as_float
from .untrusted import READING, hdf5_arrays, hdf5_text, told

__all__ = ["Actions", "Bounds", "load_hdf5", "load_minari", "save_hdf5", "save_minari"]

log = logging.getLogger("reverie")
_NEEDED = ("observations", "actions", "rewards", "terminals")
_MORE = ("next_observations", "timeouts", "truncateds")
UNITS = "action_units"  # attribute of a file: "native", as D4RL has them, or "unit", in [-1, 1]

_SAY_UNIT = (
    "Where its actions are in [-1, 1] already, say so in it: "
    f"h5py.File(path, 'a').attrs[{UNITS!r}] = 'unit'"
)


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
    made = BytesIO()  # HDF5's own writing does not get over a full disk: the process crashes
    with h5py.File(made, "w") as file:
        for name, value in arrays.items():
            file.create_dataset(name, data=_numpy(value), compression="gzip")
        for name, value in batch.extra.items():
            file.create_dataset(f"extra/{name}", data=_numpy(value), compression="gzip")
        file.attrs["reverie"] = json.dumps(asdict(data.card))
        file.attrs[UNITS] = "unit" if actions is None else "native"
    with aside(Path(path)) as partial:
        partial.write_bytes(made.getbuffer())


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
            columns = {name: as_float(part[()]) for name, part in extra.items()}
        rows = _unit_rows(arrays["actions"], units, actions, card)
        if (
            units is None
            and text is not None
            and not np.array_equal(rows, as_float(arrays["actions"]))
        ):
            raise ValueError(
                "it has a card of ours and does not say in which units its actions are: an earlier "
                f"version wrote them in [-1, 1], and those of {card.env} are others. {_SAY_UNIT} "
                "(or 'native')"
            )
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
    obs, action = as_float(arrays["observations"]), as_float(arrays["actions"])
    reward, terminated = (as_float(arrays[k]).view(n) for k in ("rewards", "terminals"))
    timeouts = as_float(arrays.get("timeouts", np.zeros(n))).view(n)
    truncated = (
        as_float(arrays["truncateds"]).view(n) if "truncateds" in arrays else timeouts.clone()
    )
    columns = dict(extra)
    keep = torch.ones(n, dtype=torch.bool)
    if "next_observations" in arrays:
        next_obs = as_float(arrays["next_observations"])
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
