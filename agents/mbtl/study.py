"""Selectors on synthetic families: the cells of the published tables."""

from collections.abc import Iterable

import torch
from torch import Tensor

from . import scores
from .geometry import mountain
from .selector import replay
from .synthetic import Grid
from .table import selector_of

K = 50  # sources in the published tables
TRIALS = 100  # over which their returns are scaled to [0, 1]


def units(grid: Grid, trials: Iterable[int], of: int = TRIALS) -> list[Tensor]:
    """Return matrices [N, N] of trials, scaled by the least and greatest return of `of` trials."""
    low, high = grid.bounds(of)
    return [(grid.trial(t) - low) / (high - low) for t in trials]


def mountain_order(contexts: Tensor, k: int = K) -> list[int]:
    """Return the k sources of M-MBTL, which no matrix changes."""
    order: list[int] = []
    for _ in range(k):
        order.append(mountain(contexts, order))
    return order


def cell(name: str, contexts: Tensor, matrices: list[Tensor], k: int = K) -> float:
    """Return the mean generalised performance of k sources by a selector over trials.

    "random" is exact; "oracle" knows the family and takes one order for all trials.
    """
    if name == "random":
        return sum(scores.random_performance(m, k) for m in matrices) / len(matrices)
    if name == "oracle":
        return float(scores.myopic_oracle(matrices, k)[1][-1])
    if name == "mountain":
        order = mountain_order(contexts, k)
        return sum(scores.performance(m[order]) for m in matrices) / len(matrices)
    got = []
    for trial, m in enumerate(matrices):
        picks = replay(selector_of(name, contexts, k=k, seed=trial), m, k)
        got.append(scores.performance(m[picks]))
    return sum(got) / len(got)


def aggregate(cells: Iterable[tuple[float, float, float]]) -> float:
    """Return the mean place between random (0) and oracle (1), of (score, random, oracle)."""
    places = torch.tensor([scores.span(*c) for c in cells], dtype=torch.float64)
    return float(places.mean())
