"""A Gaussian process over (source, target) pairs, of all returns observed."""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from .additive import fit_additive
from .gaps import Pairs
from .geometry import spread
from .improved import scaled
from .rules import least
from .scores import served
from .selector import Rule, Seen

TARGETS = 48  # that the process is of, evenly among all where there are more


class PairHyper(NamedTuple):
    """Length scales of sources and targets; variances of what is common and of noise, in units
    of the variance of what is a pair's own.
    """

    scale: float
    source: float
    target: float
    column: float  # of what all sources share: the target's own
    row: float  # of what all targets share: the source's own
    noise: float


def covariances(a: Tensor, b: Tensor, length: float, common: float) -> Tensor:
    """Return covariances [A, B]: of a bump, and of what all have in common."""
    return torch.exp(-0.5 * torch.cdist(a, b).square() / length**2) + common


class Fitted(NamedTuple):
    """A process k(x, y) = scale (bump(x) + column) x (bump(y) + row) of values on a grid [K, T]."""

    h: PairHyper
    sources: tuple[Tensor, Tensor]  # eigenvalues and vectors
    targets: tuple[Tensor, Tensor]
    weight: Tensor  # [K, T]: K^-1 y

    def at(self, x: Tensor, seen: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, noise included, [A, T] for sources [A, d]."""
        h, (lx, qx), (ly, qy) = self.h, self.sources, self.targets
        cross = h.scale * covariances(x, seen, h.source, h.column)  # [A, K]
        inner = covariances(y, y, h.target, h.row)
        mean = cross @ self.weight @ inner
        left, right = (cross @ qx).square(), (qy * ly).square()  # inner @ qy = qy * ly
        down = left @ (1 / (h.scale * lx[:, None] * ly + h.noise)) @ right.T
        prior = h.scale * (1 + h.column) * (1 + h.row)
        return mean, (prior - down).clamp(min=0).add(h.noise).sqrt()


def fit(x: Tensor, y: Tensor, values: Tensor) -> Fitted:
    """Return the process of the greatest posterior for values [K, T] of sources and targets.

    Both covariances have eigenvectors of their own (Kronecker), so that K T values cost K^3 + T^3.
    """
    start = np.log([1.0, 0.3, 0.3, 0.3, 0.3, 0.1])
    spreads = np.array([1.5, 0.7, 0.7, 1.5, 1.5, 1.5])

    def loss(log: np.ndarray) -> float:
        away = (log - start) / spreads
        return 0.5 * float(away @ away) - _evidence(x, y, values, PairHyper(*np.exp(log)))

    box = [(s - 4.0, s + 3.0) for s in start]
    found = minimize(loss, start, method="L-BFGS-B", bounds=box, options={"maxiter": 15})
    h = PairHyper(*np.exp(found.x).tolist())
    sources, targets, rotated = _rotated(x, y, values, h)
    inner = rotated / (h.scale * sources[0][:, None] * targets[0] + h.noise)
    return Fitted(h, sources, targets, sources[1] @ inner @ targets[1].T)


def _rotated(
    x: Tensor, y: Tensor, values: Tensor, h: PairHyper
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
    """Return eigenvalues and vectors of both covariances, and the values in their terms [K, T]."""
    lx, qx = torch.linalg.eigh(covariances(x, x, h.source, h.column))
    ly, qy = torch.linalg.eigh(covariances(y, y, h.target, h.row))
    return (lx.clamp(min=0), qx), (ly.clamp(min=0), qy), qx.T @ values @ qy


def _evidence(x: Tensor, y: Tensor, values: Tensor, h: PairHyper) -> float:
    (lx, _), (ly, _), rotated = _rotated(x, y, values, h)
    variance = h.scale * lx[:, None] * ly + h.noise
    size = variance.log().sum() + values.numel() * math.log(2 * math.pi)
    return -0.5 * float((rotated.square() / variance).sum() + size)


class PairProcess(Rule):
    """Expected improvement under a process over pairs, around what `fit_additive` finds linear."""

    def __init__(self, geometric: int = 3) -> None:
        self.geometric = geometric

    def predict(self, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """Return targets [T], and mean and standard deviation [N, T] of returns on them."""
        x, n = scaled(seen.contexts), len(seen.contexts)
        targets = torch.linspace(0, n - 1, min(n, TARGETS)).round().long()
        parts = fit_additive(x, seen.picks, seen.rows)
        slopes = torch.cat([-parts.way, parts.way])
        trend = Pairs(x, slopes).rows(torch.arange(n))[:, targets] + (x @ parts.target)[targets]
        left = seen.rows[:, targets] - trend[seen.picks]
        middle, unit = left.mean(), left.std(correction=0).clamp(min=1e-9)
        process = fit(x[seen.picks], x[targets], (left - middle) / unit)
        mean, sd = process.at(x, x[seen.picks], x[targets])
        return targets, trend + middle + unit * mean, unit * sd

    def choose(self, seen: Seen) -> int:
        """Return the next of a spread, then the greatest expected improvement."""
        if len(seen.taken) < self.geometric or not len(seen.rows):
            return spread(seen.contexts, seen.taken)
        targets, mean, sd = self.predict(seen)
        z = (mean - served(seen.rows)[targets]) / sd
        bump = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
        gain = sd * (bump + z * torch.special.ndtr(z))
        return least(seen, -gain.mean(1))
