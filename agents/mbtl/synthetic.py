"""Transfer matrices made by formula, of which the best order is known."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """A synthetic family of SD-MBTL: U = 500 + f(x) + g(x') - h(x - x') + noise N(0, 1).

    f = source sum x, g = target sum x', h = `right` per step of the way where x > x' and `left`
    (negative: it falls) where x < x'. Source: gen_synthetic_data.ipynb of its repository.
    """

    sizes: tuple[int, ...] = (8, 8, 8)
    source: float = 0.0
    target: float = 0.0
    left: tuple[float, ...] = (-3.0, -3.0, -3.0)
    right: float = 3.0
    noise: float = 0.0

    @property
    def contexts(self) -> Tensor:
        """The grid [N, d], last dimension fastest, float64."""
        axes = [torch.arange(n, dtype=torch.float64) for n in self.sizes]
        return torch.cartesian_prod(*axes).reshape(-1, len(self.sizes))

    def mean(self) -> Tensor:
        """Return the matrix [N, N] without noise: row source, column target."""
        x = self.contexts
        out = 500 + self.source * x.sum(1)[:, None] + self.target * x.sum(1)[None]
        for column, left in zip(x.T, self.left, strict=True):
            way = column[:, None] - column[None]
            out = out - torch.where(way < 0, left, self.right) * way
        return out

    def trial(self, trial: int) -> Tensor:
        """Return the matrix [N, N] of a trial: noise of NumPy's old generator, seeded by it."""
        mean = self.mean()
        if self.noise == 0:
            return mean
        noise = np.random.RandomState(trial).normal(size=mean.shape)
        return mean + self.noise * torch.from_numpy(noise)

    def bounds(self, trials: int) -> tuple[float, float]:
        """Return the least and the greatest return of all trials, which are 0 and 1 afterwards."""
        ends = [m.aminmax() for m in map(self.trial, range(trials if self.noise else 1))]
        return float(min(e.min for e in ends)), float(max(e.max for e in ends))


L1, SIDED = (-3.0, -3.0, -3.0), (1.0, 1.0, -3.0)


def grids(noise: float) -> dict[str, Grid]:
    """Return the eight 3-D families of a noise, by f, g, h as the paper's tables name them."""
    return {
        f"{f},{g},{h}": Grid(source=source, target=target, left=left, noise=noise)
        for f, source in (("const", 0.0), ("linear", 4.0))
        for g, target in (("linear", 3.0), ("none", 0.0))
        for h, left in (("nd", SIDED), ("L1", L1))
    }


def grids_5d() -> dict[str, Grid]:
    """Return the twelve 5-D families: 5^5 contexts, noise 5, 5 trials."""
    lefts = {"L1": (-3.0,) * 5, "nd1": (1.0, 1.0, 1.0, -3.0, -3.0), "nd2": (1.0,) * 4 + (-3.0,)}
    return {
        f"{f},{g},{h}": Grid((5,) * 5, source, target, left, noise=5.0)
        for f, source in (("linear", 2.0), ("const", 0.0))
        for g, target in (("linear", 2.0), ("none", 0.0))
        for h, left in lefts.items()
    }


def line_contexts(n: int = 100) -> Tensor:
    """Return the contexts [n, 1] of `flat` and `hill`: their indices."""
    return torch.arange(n, dtype=torch.float64)[:, None]


def flat(n: int = 100, peak: float = 0.9, slope: float = 0.005) -> Tensor:
    """Return peak - slope |i - j| [n, n]: every source as good, the return falls with the way."""
    x = line_contexts(n)
    return peak - slope * (x - x.T).abs()


def hill(seed: int, n: int = 100, left: float = 0.005, right: float = 0.005) -> Tensor:
    """Return a matrix [n, n] of sources that are best near one place, drawn in the middle 60 %.

    f(x) = .5 + .4 exp(-((x - c) / 15)^2 / 2), falling by `left` a step where the target is above
    the source and by `right` where it is below, noise of .02, clipped to [0, 1].
    """
    rng = np.random.default_rng(seed)
    peak, x = rng.uniform(0.2 * n, 0.8 * n), line_contexts(n)
    way = x - x.T
    own = 0.5 + 0.4 * torch.exp(-0.5 * ((x - peak) / 15) ** 2)
    gap = torch.where(way < 0, -left * way, right * way)
    noise = 0.02 * torch.from_numpy(rng.normal(size=(n, n)))
    return (own - gap + noise).clamp(0, 1)
