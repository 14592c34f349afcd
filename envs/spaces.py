"""What an environment gives and takes: its observations as rows, actions in its own units."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .api import Array

LIMIT = 1e6  # a bound beyond it is "no bound" in disguise, as of float32's largest number
_DTYPES = "fiub"  # kinds of numbers that a Box may hold


@dataclass(frozen=True)
class Leaf:
    """A Box or a Discrete in an observation space, and the keys that lead to it in a Dict."""

    at: tuple[Any, ...] = ()
    shape: tuple[int, ...] = ()
    n: int = 0  # values of a Discrete, which become one-hot; 0 is a Box
    start: int = 0

    @property
    def width(self) -> int:
        """Columns of a row."""
        return self.n or math.prod(self.shape)

    def find(self, obs: Any) -> Array:
        """Return this part of an observation as it is given; ValueError where it is not there."""
        for key in self.at:
            if not isinstance(obs, Mapping) or key not in obs:
                raise ValueError(f"the observation has no {list(self.at)}: got {_told(obs)}")
            obs = obs[key]
        return np.asarray(obs)

    def fits(self, part: Array) -> bool:
        """Whether an array is this part, or a batch of it."""
        if self.n:
            return part.dtype.kind in "iu"
        end = part.shape[part.ndim - len(self.shape) :]
        return part.dtype.kind in _DTYPES and end == self.shape

    def rows(self, obs: Any) -> Array:
        """Return this part of observations [*lead] as float32 [*lead, width]."""
        part = self.find(obs)
        if not self.fits(part):
            want = f"integers {self.start} to {self.start + self.n - 1}" if self.n else self.shape
            place = f"{list(self.at)} of the observation" if self.at else "the observation"
            raise ValueError(f"{place} has shape {part.shape}, {part.dtype}: expected {want}")
        if not self.n:
            lead = part.shape[: part.ndim - len(self.shape)]
            return part.reshape(*lead, self.width).astype(np.float32, copy=False)
        at = part.astype(np.int64) - self.start
        if at.size and (at.min() < 0 or at.max() >= self.n):
            raise ValueError(f"{part} is not in {self.start} to {self.start + self.n - 1}")
        return np.eye(self.n, dtype=np.float32)[at]


def flatten(leaves: tuple[Leaf, ...], obs: Any) -> Array:
    """Return observations as fresh float32 rows [*lead, O]; lead is () for one of them."""
    parts = [leaf.rows(obs) for leaf in leaves]
    if len({p.shape[:-1] for p in parts}) > 1:
        raise ValueError(f"parts of the observation differ in their batch: {_told(obs)}")
    return np.concatenate(parts, axis=-1)


def _told(obs: Any) -> str:
    if isinstance(obs, Mapping):
        return str({k: _told(v) for k, v in obs.items()})
    return f"shape {np.shape(obs)}" if hasattr(obs, "shape") else type(obs).__name__


@dataclass(frozen=True)
class Actions:
    """An action space: between rows [*, A] in [-1, 1], or one-hot, and the environment's units.

    Real numbers are mapped linearly. Integers low..high take equal parts of [-1, 1] each, and go
    back to the middle of theirs. Raises ValueError for bounds that bound nothing.
    """

    shape: tuple[int, ...]
    dtype: str
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    n: int = 0  # actions of a Discrete; 0 is a Box
    start: int = 0

    def __post_init__(self) -> None:
        low, high = self._bounds
        width = math.prod(self.shape)
        if self.n == 0 and (not width or low.shape != (width,) or high.shape != (width,)):
            raise ValueError(f"bounds {self.low}, {self.high} do not fit the shape {self.shape}")
        if not (np.abs(low) <= LIMIT).all() or not (np.abs(high) <= LIMIT).all():
            meant = np.isfinite([low, high]).all() and not self.whole
            raise ValueError(
                f"an action space with bounds {_span(low)} to {_span(high)} is unbounded, so that "
                f"[-1, 1] cannot be mapped to it (a bound is {LIMIT:,.0f} at most). Give it the "
                "bounds that the environment means, where you register it: gymnasium.wrappers."
                "TransformAction(env, lambda action: action, gymnasium.spaces.Box(low, high, "
                f"{self.shape}, numpy.{self.dtype}))"
                + (", or where it means these: RescaleAction(env, -1.0, 1.0)" if meant else "")
            )
        if (low > high).any():
            raise ValueError(f"action bounds {_span(low)} to {_span(high)}: low is above high")

    @cached_property
    def _bounds(self) -> tuple[Array, Array]:
        return np.asarray(self.low, np.float64), np.asarray(self.high, np.float64)

    @property
    def whole(self) -> bool:
        """Whether the actions are integers of a Box."""
        return not self.n and np.dtype(self.dtype).kind in "iub"

    @property
    def width(self) -> int:
        """Columns of a row of actions."""
        return self.n or len(self.low)

    def to_native(self, unit: Array) -> Array:
        """Map rows [*lead, A] to the environment's own actions [*lead, *shape]."""
        unit = np.asarray(unit)
        if self.n:
            return (unit.argmax(-1) + self.start).astype(self.dtype)
        low, high = self._bounds
        if self.whole:
            parts = high - low + 1
            out = low + np.clip(np.floor((unit.astype(np.float64) + 1) / 2 * parts), 0, parts - 1)
        else:
            out = (high + low) / 2 + (high - low) / 2 * unit.astype(np.float64)
            out = np.where(np.abs(unit) < 1, np.clip(out, low, high), out)  # no ulp beyond, and
            out = np.where(unit == 1, high, np.where(unit == -1, low, out))  # the ends themselves
        return out.reshape(*unit.shape[:-1], *self.shape).astype(self.dtype)

    def to_unit(self, native: Array) -> Array:
        """Map the environment's own actions [*lead, *shape] to float32 rows [*lead, A].

        Raises ValueError for another shape, and for integers outside of the space.
        """
        native = np.asarray(native)
        if self.n:
            return Leaf(n=self.n, start=self.start).rows(native)
        if native.shape[native.ndim - len(self.shape) :] != self.shape:
            raise ValueError(f"actions have shape {native.shape}, expected {self.shape} at its end")
        low, high = self._bounds
        rows = native.reshape(*native.shape[: native.ndim - len(self.shape)], self.width)
        at = rows.astype(np.float64) - low
        if self.whole:
            parts = high - low + 1
            if at.size and not ((at >= 0) & (at < parts) & (at == np.floor(at))).all():
                raise ValueError(f"actions outside of the integers {_span(low)} to {_span(high)}")
            return ((at + 0.5) / parts * 2 - 1).astype(np.float32)
        half = (high - low) / 2
        middle = rows.astype(np.float64) - (high + low) / 2
        with np.errstate(over="ignore"):  # beyond float32 is infinite, which a dataset refuses
            unit = np.divide(middle, half, out=np.zeros_like(middle), where=half > 0)
            return unit.astype(np.float32)


def _span(x: Array) -> str:
    """Return the values of an array, or its range where there are many."""
    values = sorted({float(v) for v in x.ravel()})
    return ", ".join(f"{v:g}" for v in (values if len(values) < 4 else [values[0], values[-1]]))


@dataclass(frozen=True)
class Spaces:
    """What must be known of an environment to act in it: how to read it, and what to give it."""

    observation: tuple[Leaf, ...]
    action: Actions

    @property
    def obs_dim(self) -> int:
        """Columns of an observation's row."""
        return sum(leaf.width for leaf in self.observation)

    def rows(self, obs: Any) -> Array:
        """Return observations [*lead, ...] as float32 rows [*lead, O]."""
        return flatten(self.observation, obs)

    def fits(self, obs: Array) -> bool:
        """Whether an array is a whole observation, or a batch of them."""
        first = self.observation[0]
        return len(self.observation) == 1 and not first.at and first.fits(obs)

    def to_json(self) -> str:
        """Return it as text, for a run's stamp."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Spaces":
        """Read `to_json` back; raises ValueError for text that is none."""
        try:
            given = json.loads(text)
            leaves = [_exact(Leaf, leaf) for leaf in given["observation"]]
            return cls(tuple(leaves), _exact(Actions, given["action"]))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"no description of an environment's spaces: {error}") from error


def _exact(kind: Any, values: Any) -> Any:
    """Return a Leaf or Actions of JSON values; TypeError for wrong ones: anybody may write them."""
    if not isinstance(values, dict):
        raise TypeError(f"{values!r} is not a mapping")
    out = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    whole = [out.get("n", 0), out.get("start", 0), *out.get("shape", ())]
    if not all(type(x) is int for x in whole) or min(whole[0], 0, *whole[2:]) < 0:
        raise TypeError(f"sizes must be integers, got {whole}")
    if not all(isinstance(x, (str, int)) for x in out.get("at", ())):
        raise TypeError(f"keys must be names, got {out['at']}")
    if not all(type(x) in (int, float) for k in ("low", "high") for x in out.get(k, ())):
        raise TypeError("bounds must be numbers")
    if "dtype" in out and np.dtype(out["dtype"]).kind not in _DTYPES:
        raise TypeError(f"{out['dtype']!r} is no kind of number")
    return kind(**out)


def spaces_of(env: Any) -> Spaces:
    """Return the spaces of an environment that `make` made, as gymnasium would see them."""
    if isinstance(own := getattr(env, "spaces", None), Spaces):
        return own
    worlds = getattr(env, "worlds", env)  # a task of ours, on either engine
    low, high = (np.asarray(x, np.float32).tolist() for x in (worlds.low, worlds.high))
    leaf = Leaf(shape=(int(env.obs_dim),))
    return Spaces((leaf,), Actions((len(low),), "float32", tuple(low), tuple(high)))
