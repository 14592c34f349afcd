"""Whether a matrix has anything to select: structure of its rows, and luck of its seeds."""

from typing import NamedTuple

import torch
from torch import Tensor

from .scores import independent, oracle, random_performance


class Shares(NamedTuple):
    """Shares of a matrix's variance: of row means, of column means, of distance in the rest."""

    row: float
    column: float
    distance: float


def shares(values: Tensor, contexts: Tensor) -> Shares:
    """Return shares of the variance of returns [N, N] over sources and targets [N, d].

    Row and column: variance of their means. Distance: what a line in the L1 distance explains of
    what is left without both.
    """
    total = float(values.var(correction=0))
    if total == 0:
        return Shares(0.0, 0.0, 0.0)
    way = torch.cdist(contexts, contexts, p=1)
    left = values - values.mean(0) - values.mean(1, keepdim=True) + values.mean()
    together = float(((way - way.mean()) * left).mean())
    spread = float(way.var(correction=0))
    return Shares(
        float(values.mean(1).var(correction=0)) / total,
        float(values.mean(0).var(correction=0)) / total,
        together**2 / spread / total if spread else 0.0,
    )


class RowStructure(NamedTuple):
    """What the row-structure test of a matrix says; `flat` where contexts do nothing."""

    one_of_all: float  # the best single source by all sources together
    own_gain: float  # mean own-context return over that of one random source
    shares: Shares
    flat: bool


def row_structure(values: Tensor, contexts: Tensor, *, low: float, high: float) -> RowStructure:
    """Return the test of a matrix [N, N] whose returns count from `low` (0) to `high` (1).

    Flat: one source gives over .99 of what all give, and own training gains less than .01 over a
    random source. Then a speed-up over independent training is no selection.
    """
    if not high > low:
        raise ValueError(f"returns must count from low to a greater high, got {low} and {high}")
    unit = (values - low) / (high - low)
    everything = oracle(unit)
    one = float(unit.mean(1).max()) / everything if everything > 0 else 1.0
    gain = independent(unit) - random_performance(unit, 1)
    return RowStructure(one, gain, shares(values, contexts), one > 0.99 and gain < 0.01)


class SeedNoise(NamedTuple):
    """What the seed-noise test says; `luck` where gains of selection can be seeds'."""

    seed_sd: float  # standard deviation over seeds of own-context returns
    gap: float  # what the return falls by over the steps
    luck: bool


def seed_noise(values: Tensor, contexts: Tensor, *, steps: float = 10.0) -> SeedNoise:
    """Return the test of a matrix [N, N, S] of S seeds: their spread beside the gap.

    The gap is that of `steps` mean distances to the nearest context, by the slope of a line in the
    L1 distance. Luck: the spread is as large, so that best-of-k seeds has to stand beside.
    """
    n, _, seeds = values.shape
    if seeds < 2:
        raise ValueError(f"two seeds of a context at least, got {seeds}")
    own = values.diagonal().T  # [N, S]
    sd = float(own.var(1).mean().sqrt())
    way = torch.cdist(contexts, contexts, p=1)
    mean = values.mean(2)
    drop = mean.diagonal()[:, None] - mean
    off = ~torch.eye(n, dtype=torch.bool)
    slope = float((drop[off] * way[off]).sum() / way[off].square().sum())
    step = float(way.masked_fill(~off, torch.inf).amin(1).mean())
    gap = slope * step * steps
    return SeedNoise(sd, gap, sd >= gap)
