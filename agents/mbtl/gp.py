"""A Gaussian process over contexts: exact, float64, small."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor


class Hyper(NamedTuple):
    """What a process is: variance and length scale of its kernel, noise variance, mean, and
    the variance of the slopes of a linear trend.
    """

    scale: float = 1.0
    length: float = 1.0
    noise: float = 1e-4
    mean: float = 0.0
    linear: float = 0.0


def kernel(a: Tensor, b: Tensor, h: Hyper) -> Tensor:
    """Return covariances [A, B] of the latent function between contexts [A, d] and [B, d]."""
    bump = torch.exp(-0.5 * torch.cdist(a, b).square() / h.length**2)
    return h.scale * bump + h.linear * (a @ b.T)


def _factor(x: Tensor, h: Hyper) -> Tensor:
    covariance = kernel(x, x, h)
    covariance.diagonal().add_(h.noise)
    factor: Tensor = torch.linalg.cholesky(covariance)
    return factor


def posterior(x: Tensor, y: Tensor, at: Tensor, h: Hyper) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation [A] of the latent function, given values [n] at [n, d]."""
    factor, cross = _factor(x, h), kernel(x, at, h)
    white = torch.linalg.solve_triangular(factor, cross, upper=False)
    mean = h.mean + torch.cholesky_solve((y - h.mean)[:, None], factor)[:, 0] @ cross
    prior = h.scale + h.linear * at.square().sum(1)
    return mean, (prior - white.square().sum(0)).clamp(min=0).sqrt()


def likelihood(x: Tensor, y: Tensor, h: Hyper) -> tuple[float, Hyper]:
    """Return the log marginal likelihood of values [n] at contexts [n, d], and its gradient.

    d log p / d theta = 1/2 tr((a a' - K^-1) dK / d theta), a = K^-1 (y - mean).
    """
    factor, square = _factor(x, h), torch.cdist(x, x).square()
    inverse = torch.cholesky_inverse(factor)
    weight = inverse @ (y - h.mean)
    value = -0.5 * float((y - h.mean) @ weight) - float(factor.diagonal().log().sum())
    pull = 0.5 * (torch.outer(weight, weight) - inverse)
    bump = pull * torch.exp(-0.5 * square / h.length**2)
    gradient = Hyper(
        scale=float(bump.sum()),
        length=float((bump * square).sum()) * h.scale / h.length**3,
        noise=float(pull.trace()),
        mean=float(weight.sum()),
        linear=float((pull * (x @ x.T)).sum()),
    )
    return value - 0.5 * len(y) * math.log(2 * math.pi), gradient


def softplus(raw: Sequence[float]) -> Hyper:
    """Return the process of four raw numbers: scale, length and noise by softplus, and the mean."""
    scale, length, noise = (math.log1p(math.exp(-abs(r))) + max(r, 0.0) for r in raw[:3])
    return Hyper(scale, length, noise + 1e-4, raw[3])


def by_adam(x: Tensor, y: Tensor, raw: Sequence[float], steps: int = 500) -> list[float]:
    """Return four raw numbers after ascending the mean log likelihood from `raw`, as SD-MBTL does.

    Adam at 0.1, until the mean moves by less than 1e-5 in a step.
    """
    at, first, second = np.array(raw), np.zeros(4), np.zeros(4)
    before = math.inf
    for i in range(1, steps + 1):
        value, g = likelihood(x, y, softplus(at.tolist()))
        slope = np.array([g.scale, g.length, g.noise, g.mean]) / len(y)
        slope[:3] /= 1 + np.exp(-at[:3])
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        step = first / (1 - 0.9**i) / (np.sqrt(second / (1 - 0.999**i)) + 1e-8)
        at += 0.1 * step
        if abs(before - value / len(y)) < 1e-5:
            break
        before = value / len(y)
    return [float(a) for a in at]


def by_search(
    x: Tensor,
    y: Tensor,
    starts: Sequence[Hyper],
    bounds: Mapping[str, tuple[float, float]],
    *,
    restarts: int = 0,
    seed: int = 0,
    prior: Mapping[str, tuple[float, float]] | None = None,
) -> Hyper:
    """Return the process of the greatest likelihood of those in `bounds`; what is not in it stays.

    L-BFGS-B on logarithms, from each of `starts` and from `restarts` uniform points. `prior`:
    log-normal, by median and standard deviation of the logarithm.
    """
    start = starts[0]
    names, prior = list(bounds), prior or {}
    box = np.log([bounds[n] for n in names])
    at = np.log([prior.get(n, (1.0, 1.0))[0] for n in names])
    precision = np.array([prior[n][1] ** -2.0 if n in prior else 0.0 for n in names])

    def loss(log: np.ndarray) -> tuple[float, np.ndarray]:
        h = start._replace(**dict(zip(names, np.exp(log).tolist(), strict=True)))
        value, gradient = likelihood(x, y, h)
        slope = np.array([getattr(gradient, n) * getattr(h, n) for n in names])
        pull = precision * (log - at)
        return 0.5 * float(pull @ (log - at)) - value, pull - slope

    draws = np.random.default_rng(seed).uniform(box[:, 0], box[:, 1], (restarts, len(names)))
    given = np.log([[getattr(h, n) for n in names] for h in starts])
    points = [*given.clip(box[:, 0], box[:, 1]), *draws]
    found = [minimize(loss, p, jac=True, method="L-BFGS-B", bounds=box) for p in points]
    least = min(f.fun for f in found)
    best = next(f for f in found if f.fun <= least + 1e-6)  # of equals the one nearest `starts`
    return start._replace(**dict(zip(names, np.exp(best.x).tolist(), strict=True)))
