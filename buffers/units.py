"""An environment's own actions and those in [-1, 1]."""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

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


def as_float(x: Any) -> Tensor:
    """Return numbers of any kind as a float32 tensor."""
    with np.errstate(over="ignore"):  # what is infinite is refused by the dataset
        return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
