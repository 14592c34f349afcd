"""Inputs and gradients of a trunk's layers, and the Fisher information that they make."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks import DeterministicActor


def trunk_of(actor: DeterministicActor) -> list[nn.Linear]:
    """Return an actor's layers but its last, which is its task's head."""
    return [m for m in actor.net if isinstance(m, nn.Linear)][:-1]


def affine(layers: Iterable[nn.Module]) -> list[Tensor]:
    """Return (W, b) [H, I + 1] of each linear layer."""
    each: Any = layers
    return [torch.cat([m.weight, m.bias[:, None]], 1) for m in each]


def with_one(x: Tensor) -> Tensor:
    """Return rows [B, I] with a 1 behind them: what a bias is multiplied by."""
    return torch.cat([x, torch.ones(len(x), 1)], 1)


def sides(actor: DeterministicActor, obs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return of each layer y = W x + b of a trunk, at z-scores [B, O], its two sides.

    Inputs (x, 1) [B, I + 1], and the gradients d mu_k / d y of all actions k [A, B, H].
    """
    layers, x = trunk_of(actor), obs
    inputs, outputs = [], []
    for layer in layers:
        inputs.append(with_one(x.detach()))
        outputs.append(layer(x))
        x = F.relu(outputs[-1])
    last = actor.net[-1]
    action = torch.tanh(last(x))
    grads = [
        torch.autograd.grad(action[:, k].sum(), outputs, retain_graph=True)
        for k in range(action.shape[1])
    ]
    return [
        (given, torch.stack(g)) for given, g in zip(inputs, zip(*grads, strict=True), strict=True)
    ]


def squared(given: Tensor, grads: Tensor) -> Tensor:
    """Return the mean over rows of sum_k (d mu_k / d y_i)^2 x_j^2 [H, I + 1]."""
    return torch.einsum("kbo,bi->oi", grads.square(), given.square()) / len(given)


def fisher_of(actor: DeterministicActor, obs: Tensor) -> Tensor:
    """Return the diagonal Fisher [P] of a trunk at z-scores [B, O], of a policy of unit variance.

    Mean over states of sum_k (d mu_k / d theta)^2, exactly; layer by layer, each weight before its
    bias.
    """
    both = [squared(*side) for side in sides(actor, obs)]
    return torch.cat([part.flatten() for f in both for part in (f[:, :-1], f[:, -1])])
