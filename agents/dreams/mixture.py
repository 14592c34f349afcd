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

    Fast where the memory of `raw` runs along N: few operations on long rows. A softmax over five
    numbers costs as much as the cell.
    """
    logits, mean, log_std = raw.permute(1, 2, 3, 0)
    upto = logits.clamp(-60, 60).exp_()  # shares, not yet of one, and soon their sums
    for k in range(1, upto.shape[1]):
        upto[:, k] += upto[:, k - 1]
    pick = (upto < (u.T * upto[:, -1])[:, None]).sum(1, keepdim=True)
    chosen, spread = (x.gather(1, pick)[:, 0] for x in (mean, log_std))
    return torch.addcmul(chosen, spread.exp_(), noise.T).T
