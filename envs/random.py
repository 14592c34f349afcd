"""Random draws that depend on (seed + world, episode, draw) and on nothing else.

World i of seed s is world 0 of seed s + i, as in gymnasium's vector envs. The stream is counter-
based (splitmix64: Steele, Lea & Flood 2014) and written in int64 array operations, so that numpy
and torch give the same bits, and a world starts the same episodes whatever the number of worlds,
their order and the resets of the others.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from .api import Array

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_M1 = 0xBF58476D1CE4E5B9 - 2**64
_M2 = 0x94D049BB133111EB - 2**64


class Draws(Protocol):
    """Reset noise for n worlds at once; every call takes the next draws of each world's stream."""

    def uniform(self, low: float, high: float, size: int) -> Array:
        """Return [n, size] uniform in [low, high)."""
        ...

    def normal(self, size: int) -> Array:
        """Return [n, size] standard normal."""
        ...

    def accept(self, low: Sequence[float], high: Sequence[float], inside: Any) -> Array:
        """Return [n, k] uniform in the box, given that `inside(xp, points [..., k])` holds."""
        ...


def _shift(x: Array, k: int) -> Array:
    return (x >> k) & ((1 << (64 - k)) - 1)  # logical: >> keeps the sign of an int64


def _mix(x: Array) -> Array:
    x = (x ^ _shift(x, 30)) * _M1
    x = (x ^ _shift(x, 27)) * _M2
    return x ^ _shift(x, 31)


def uniforms(xp: Any, seed: int, world: Array, episode: Array, first: int, size: int) -> Array:
    """Return [n, size] float64 in [0, 1): draws first..first+size-1 of each (world, episode).

    `world`, `episode`: [n] int64 arrays of namespace `xp`; bit-equal in numpy and torch.
    """
    # Products wrap around on purpose.
    key = _mix((world + seed % 2**62) * _GOLDEN + _M1)
    key = _mix(key + (episode + 1) * _GOLDEN)
    draw = (xp.arange(size, dtype=xp.int64) + (first + 1)) * _GOLDEN
    bits = _mix(key[:, None] + draw[None, :])
    return xp.astype(_shift(bits, 11), xp.float64) * 2.0**-53


class CounterDraws:
    """`Draws` from the counter-based stream, rounded to float32 so that engines agree."""

    candidates = 32  # of `accept`: the tasks' regions are missed by all 32 with p < 1e-13

    def __init__(self, xp: Any, seed: int, world: Array, episode: Array) -> None:
        self.xp, self.seed, self.world, self.episode = xp, seed, world, episode
        self.at = 0

    def _next(self, size: int) -> Array:
        out = uniforms(self.xp, self.seed, self.world, self.episode, self.at, size)
        self.at += size
        return out

    def _round(self, x: Array) -> Array:
        return self.xp.astype(self.xp.astype(x, self.xp.float32), self.xp.float64)

    def uniform(self, low: float, high: float, size: int) -> Array:
        """Return [n, size] uniform in [low, high)."""
        return self._round(low + (high - low) * self._next(size))

    def normal(self, size: int) -> Array:
        """Return [n, size] standard normal."""
        u, v = self._next(size), self._next(size)
        radius = self.xp.sqrt(-2.0 * self.xp.log(1.0 - u))  # Box-Muller; 1 - u is never 0
        return self._round(radius * self.xp.cos(2.0 * math.pi * v))

    def accept(self, low: Sequence[float], high: Sequence[float], inside: Any) -> Array:
        """Return [n, k] uniform in the box where `inside` holds."""
        xp, k = self.xp, len(low)
        u = xp.reshape(self._next(self.candidates * k), (-1, self.candidates, k))
        box = zip(low, high, range(k), strict=True)  # numbers, not arrays: nothing to copy to a GPU
        points = xp.stack([self._round(a + (b - a) * u[..., i]) for a, b, i in box], axis=-1)
        first = xp.argmax(xp.astype(inside(xp, points), xp.int64), axis=1)
        return xp.take_along_axis(points, first[:, None, None], axis=1)[:, 0]


class GymnasiumDraws:
    """`Draws` in gymnasium's own order from one PCG64 generator per world (seed + world)."""

    def __init__(self, generators: Sequence[np.random.Generator]) -> None:
        self.generators = generators

    def uniform(self, low: float, high: float, size: int) -> Array:
        """Return [n, size] uniform in [low, high)."""
        return np.stack([g.uniform(low, high, size) for g in self.generators])

    def normal(self, size: int) -> Array:
        """Return [n, size] standard normal."""
        return np.stack([g.standard_normal(size) for g in self.generators])

    def accept(self, low: Sequence[float], high: Sequence[float], inside: Any) -> Array:
        """Return [n, k] uniform in the box where `inside` holds."""
        out = np.empty((len(self.generators), len(low)))
        for i, g in enumerate(self.generators):
            while True:
                out[i] = [g.uniform(a, b) for a, b in zip(low, high, strict=True)]
                if inside(np, out[i : i + 1])[0]:
                    break
        return out
