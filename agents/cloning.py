"""Losses that keep actions near those of the data."""

from torch import Tensor

from ..buffers import Transitions


def cloning_loss(action: Tensor, data: Tensor) -> Tensor:
    """Return the squared distance of actions [B, A], averaged over both (behaviour cloning)."""
    return (action - data).square().mean((-2, -1))


def td3_bc_loss(q: Tensor, action: Tensor, data: Tensor, alpha: float | Tensor) -> Tensor:
    """Return -lambda mean Q + cloning, lambda = alpha / mean |Q| without gradient.

    TD3+BC, Fujimoto & Gu 2021 (arXiv:2106.06860), eq. 3 and 5. ReBRAC's actor loss
    (arXiv:2305.09836, eq. 5) is this one times beta_1 A for alpha = 1 / (beta_1 A). `alpha` may be
    [K], of the members of a population.
    """
    return -alpha * q.mean(-1) / q.detach().abs().mean(-1) + cloning_loss(action, data)


def advantage_weights(advantage: Tensor, temperature: float | Tensor) -> Tensor:
    """Return exp(beta A), at most 100 as in the authors' code (IQL, eq. 7)."""
    return (temperature * advantage).exp().clamp(max=100.0)


def weighted_cloning_loss(action: Tensor, data: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of weight [B] times the squared distance of actions [B, A] (IQL, eq. 7)."""
    return (weight * (action - data).square().sum(-1)).mean(-1)


def next_action_gap(next_action: Tensor, batch: Transitions) -> Tensor:
    """Return |a' - a'_data|^2 [B] (ReBRAC, eq. 4); 0 where the recording was cut."""
    data = batch.extra["next_action"].view_as(next_action)
    gap = (next_action - data).square().sum(-1)
    return gap * (1 - batch.truncated)
