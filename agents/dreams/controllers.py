"""What is trained in a dream by a search: a tanh network of any depth."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..controllers import Array, namespace


class TanhNetwork:
    """A tanh network with tanh output, or tanh(W x + b) when `hidden` is empty.

    The controllers of World Models (linear, on [z ; h]) and of the dreams here.
    """

    def __init__(self, obs_dim: int, act_dim: int, hidden: Sequence[int] = ()) -> None:
        self.shapes = list(pairwise([obs_dim, *hidden, act_dim]))
        self.size = sum(a * b + b for a, b in self.shapes)

    def initial(self, generator: torch.Generator | None = None) -> Tensor:
        """Return zeros for a linear one, else uniform within 1 / sqrt(inputs)."""
        if len(self.shapes) == 1:
            return torch.zeros(self.size)
        draws = [2 * torch.rand(a * b + b, generator=generator) - 1 for a, b in self.shapes]
        return torch.cat([x / math.sqrt(a) for x, (a, _) in zip(draws, self.shapes, strict=True)])

    def bind(self, parameters: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """Return weights [..., in, out] and biases [..., 1, out] of every layer.

        Of parameters [D], or [P, 1, D] for P candidates: a matrix product each for all episodes.
        """
        flat = parameters if parameters.dim() == 1 else parameters.squeeze(-2)
        lead, layers, at = flat.shape[:-1], [], 0
        for a, b in self.shapes:
            weight = flat[..., at : at + a * b].reshape(*lead, a, b)
            at += a * b
            layers.append((weight, flat[..., at : at + b].reshape(*lead, 1, b)))
            at += b
        return tuple(layers)

    def act(self, bound: tuple[tuple[Array, Array], ...], obs: Array) -> Array:
        """Return actions [..., N]."""
        xp, x = namespace(obs), obs
        for weight, bias in bound:
            x = xp.tanh(x @ weight + bias)
        return x
