"""A mixture of Gaussians for each dimension (Bishop 1994; Ha & Schmidhuber 2018: factored)."""

import math

from torch import Tensor


def mixture(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log weights, means and log standard deviations [..., K] of outputs [..., 3, K]."""
    logits, mean, log_std = raw.unbind(-2)
    return logits.log_softmax(-1), mean, log_std


def nll(raw: Tensor, x: Tensor) -> Tensor:
    """Return the negative log likelihood [...] of x [...] under mixtures [..., 3, K], in nats."""
    weights, mean, log_std = mixture(raw)
    error = (x[..., None] - mean) * (-log_std).exp()
    each = weights - log_std - 0.5 * error.square() - 0.5 * math.log(2 * math.pi)
    return -each.logsumexp(-1)


def sampled(weights: Tensor, mean: Tensor, log_std: Tensor, u: Tensor, noise: Tensor) -> Tensor:
    """Return draws [...] for uniform u [...], which picks the component, and normal noise [...]."""
    passed = weights.exp().cumsum(-1) <= u[..., None]
    pick = passed.sum(-1, keepdim=True).clamp(max=mean.shape[-1] - 1)
    return (mean.gather(-1, pick) + log_std.gather(-1, pick).exp() * noise[..., None])[..., 0]
