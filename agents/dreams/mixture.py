"""A mixture of Gaussians for each dimension (Bishop 1994; Ha & Schmidhuber 2018: factored)."""

import math

import torch
from torch import Tensor


def nll(raw: Tensor, x: Tensor) -> Tensor:
    """Return the negative log likelihood [..., O] of x [..., O], in nats.

    `raw` [..., 3, O, K]: logits, means and log standard deviations of the mixtures.
    """
    logits, mean, log_std = raw.unbind(-3)
    error = (x[..., None] - mean) * (-log_std).exp()
    each = logits.log_softmax(-1) - log_std - 0.5 * error.square() - 0.5 * math.log(2 * math.pi)
    return -each.logsumexp(-1)


def means(raw: Tensor) -> Tensor:
    """Return the means [..., O] of mixtures [..., 3, O, K]."""
    return (raw[..., 0, :, :].softmax(-1) * raw[..., 1, :, :]).sum(-1)


def sampled(raw: Tensor, u: Tensor, noise: Tensor) -> Tensor:
    """Return draws [N, O] of mixtures [N, 3, O, K] for uniform u, which picks the component, and
    normal noise [N, O].

    The sums over K are a matrix product: a softmax over five numbers costs as much as the cell.
    """
    n, _, dims, k = raw.shape
    ones = torch.ones(k, k)
    upto = raw[:, 0].reshape(-1, k).clamp(-60, 60).exp() @ ones.triu()  # shares, not yet of one
    below = torch.empty_like(upto)
    torch.lt(upto, u.reshape(-1, 1) * upto[:, -1:], out=below)  # compares and casts at once
    pick = (below @ ones[:, :1]).long().view(n, dims, 1)
    mean, log_std = (raw[:, i].gather(-1, pick)[..., 0] for i in (1, 2))
    return torch.addcmul(mean, log_std.exp(), noise)
