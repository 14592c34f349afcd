"""Draws of many dreams at once that depend on (seed + stream, episode, purpose, step) alone.

The same splitmix64 counter stream as the simulators' start states (Steele, Lea & Flood 2014), in
numpy and in place: a dream draws hundreds of mask bits per world and step.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

Words = np.ndarray[Any, np.dtype[np.uint64]]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)
START, MASKS, NOISE = 0, 1, 2  # what an episode draws for: the streams below its key


def mixed(x: Words) -> Words:
    """Scramble x in place, by splitmix64's finaliser, and return it."""
    x ^= x >> np.uint64(30)
    x *= _M1
    x ^= x >> np.uint64(27)
    x *= _M2
    x ^= x >> np.uint64(31)
    return x


def episode_keys(seed: int, stream: np.ndarray[Any, Any], episode: np.ndarray[Any, Any]) -> Words:
    """Return the key [N] of each world's episode; streams and episodes are [N] int64."""
    first = mixed((stream.astype(np.uint64) + np.uint64(seed % 2**62)) * _GOLDEN + _M1)
    return mixed(first + (episode.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def child(keys: Words, number: int | np.ndarray[Any, Any]) -> Words:
    """Return the keys [N] of the streams of this number, one for all or one for each world."""
    counter = np.atleast_1d(np.asarray(number, np.uint64)) + np.uint64(1)  # arrays wrap around
    return mixed(keys + counter * _GOLDEN)


class Stream:
    """The next draws of N worlds, each from its own key [N]."""

    def __init__(self, keys: Words) -> None:
        self.keys, self.at = keys, 0

    def words(self, size: int) -> Words:
        """Return the next 64-bit words [N, size] of every world."""
        counter = np.arange(self.at + 1, self.at + size + 1, dtype=np.uint64) * _GOLDEN
        self.at += size
        return mixed(self.keys[:, None] + counter)

    def uniform(self, size: int) -> Tensor:
        """Return float32 [N, size] uniform in [0, 1)."""
        bits = self.words(size) >> np.uint64(40)  # as many as a float32 holds
        return torch.from_numpy(bits.astype(np.float32)) * 2.0**-24

    def normal(self, size: int) -> Tensor:
        """Return float32 [N, size] standard normal."""
        u, v = self.uniform(2 * size).chunk(2, 1)
        return (-2.0 * torch.log1p(-u)).sqrt() * torch.cos(2.0 * math.pi * v)  # Box-Muller
