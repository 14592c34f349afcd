"""The diffusion of Karras et al. (2022), pure functions, of features with unit variance."""

from collections.abc import Callable

import torch
from torch import Tensor

P_MEAN, P_STD = -1.2, 1.2  # of the logarithm of the training noise
S_CHURN, S_MIN, S_MAX, S_NOISE = 80.0, 0.05, 50.0, 1.003  # of the stochastic sampler

Network = Callable[[Tensor, Tensor], Tensor]  # F(c_in x [B, d], c_noise [B] or []) -> [B, d]


def coefficients(sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return c_skip, c_out, c_in and c_noise of noise levels, in their shape (table 1)."""
    total = sigma.square() + 1
    return 1 / total, sigma / total.sqrt(), 1 / total.sqrt(), sigma.log() / 4


def weight(sigma: Tensor) -> Tensor:
    """Return the weight of a squared error at noise levels: weight * c_out^2 = 1."""
    return (sigma.square() + 1) / sigma.square()


def denoise(network: Network, x: Tensor, sigma: Tensor) -> Tensor:
    """Return D(x; sigma) [B, d] of noisy features x [B, d] at levels [B], or at one level []."""
    c_skip, c_out, c_in, c_noise = coefficients(sigma)
    if sigma.ndim:
        c_skip, c_out, c_in = c_skip[:, None], c_out[:, None], c_in[:, None]
    return c_skip * x + c_out * network(c_in * x, c_noise)


def noise_levels(n: int, generator: torch.Generator) -> Tensor:
    """Draw n training noise levels [n], ln sigma ~ N(-1.2, 1.2^2)."""
    normal = torch.randn(n, generator=generator, device=generator.device)
    return (P_MEAN + P_STD * normal).exp()


def errors(network: Network, x: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """Return each row's weighted squared error [B], a mean over features.

    `x` [B, d] clean, `sigma` [B], `noise` [B, d] standard normal. It is 1 in expectation for a
    network that returns 0, whatever the level, as features have unit variance.
    """
    out = denoise(network, x + sigma[:, None] * noise, sigma)
    return weight(sigma) * (out - x).square().mean(1)


def grid(levels: int, low: float = 0.002, high: float = 80.0, rho: float = 7.0) -> Tensor:
    """Return the noise levels of a sampler [levels + 1], from `high` down to `low`, then 0."""
    ramp = torch.linspace(0, 1, levels, dtype=torch.float64)
    ends = high ** (1 / rho), low ** (1 / rho)
    sigmas = (ends[0] + ramp * (ends[1] - ends[0])) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()


def churn(sigmas: Tensor) -> Tensor:
    """Return gamma [levels]: by how much each level of a grid is raised before its step."""
    levels = sigmas[:-1]
    gamma = min(S_CHURN / len(levels), 2**0.5 - 1)
    return torch.where((levels >= S_MIN) & (levels <= S_MAX), gamma, 0.0)


def ema_decay(updates: int) -> float | None:
    """Return how much an average keeps after `updates` earlier ones; None: it copies the weights.

    The warm-up of lucidrains/ema-pytorch; it is applied every `EMA_EVERY` updates.
    """
    since = updates - 100
    return None if since <= 0 else min(0.995, 1 - (1 + since) ** (-2 / 3))


EMA_EVERY = 10
