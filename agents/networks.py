"""Actors and batched critic ensembles."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .norms import NORMS, EnsembleNorm
from .population import MembersLinear
from .seeding import Generators

Masks = tuple[Tensor, ...]  # dropout masks, one for each hidden layer
LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # Haarnoja et al. 2018, authors' code


def mlp(sizes: Sequence[int], members: int | None = None) -> nn.Sequential:
    """Return a ReLU multi-layer perceptron, or K as one; the last layer is linear."""
    linear: Any = nn.Linear if members is None else partial(MembersLinear, members)
    layers: list[nn.Module] = []
    for i, o in pairwise(sizes[:-1]):
        layers += [linear(i, o), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, linear(sizes[-2], sizes[-1]))


def initialise(module: nn.Module, generators: Generators) -> None:
    """Draw torch's default initial weights, U(+-1/sqrt(fan_in)), from generators of our own."""
    count = len(generators) if isinstance(generators, tuple) else 1
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, MembersLinear, EnsembleLinear, EnsembleHead)):
            bound = 1 / math.sqrt(layer.in_features)
            for parameter in (layer.weight, layer.bias):
                uniform = draw(torch.rand, generators, parameter.numel() // count)
                with torch.no_grad():
                    parameter.copy_((2 * uniform.view_as(parameter) - 1) * bound)


class GaussianActor(nn.Module):
    """A tanh-squashed diagonal Gaussian (SAC, Haarnoja et al. 2018, appendix C)."""

    def __init__(
        self, obs_dim: int, act_dim: int, hidden: Sequence[int], members: int | None = None
    ) -> None:
        super().__init__()
        self.net = mlp([obs_dim, *hidden, 2 * act_dim], members)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation before squashing, [B, A] each."""
        mean, log_std = self.net(obs).type_as(obs).chunk(2, dim=-1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def mode(self, obs: Tensor) -> Tensor:
        """Return the deterministic action [B, A]."""
        return torch.tanh(self(obs)[0])

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the action for standard normal noise [B, A], and its log density [B]."""
        mean, log_std = self(obs)
        raw = mean + log_std.exp() * noise
        gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(x)^2) without cancellation
        squash = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
        return torch.tanh(raw), (gaussian - squash).sum(-1)


class DeterministicActor(nn.Module):
    """A tanh-squashed deterministic policy (TD3, Fujimoto et al. 2018)."""

    def __init__(
        self, obs_dim: int, act_dim: int, hidden: Sequence[int], members: int | None = None
    ) -> None:
        super().__init__()
        self.net = mlp([obs_dim, *hidden, act_dim], members)

    def forward(self, obs: Tensor) -> Tensor:
        """Return the action [B, A]."""
        return torch.tanh(self.net(obs).type_as(obs))

    mode = forward


class EnsembleLinear(nn.Module):
    """E linear layers as one batched matrix product."""

    def __init__(self, members: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.weight = nn.Parameter(torch.empty(members, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(members, 1, out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map [E, B, in] to [E, B, out]."""
        return torch.baddbmm(self.bias, x, self.weight)


class EnsembleHead(nn.Module):
    """E scalar outputs by product and sum: a fifth of the time of a matrix-vector bmm."""

    def __init__(self, members: int, in_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.weight = nn.Parameter(torch.empty(members, 1, in_features))
        self.bias = nn.Parameter(torch.empty(members, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map [E, B, in] to [E, B], in full precision."""
        return (x.type_as(self.weight) * self.weight).sum(-1) + self.bias


class Critic(nn.Module):
    """E action-value functions, evaluated together; of a population of K, E for each member.

    `norm`: none, layer (RLPD, DroQ) or batch (CrossQ). `dropout`: after each hidden layer, with
    masks given by the caller (DroQ, Hiraoka et al. 2022, orders dropout before layer norm).
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden: Sequence[int],
        members: int = 2,
        norm: str = "none",
        dropout: float = 0.0,
        population: int | None = None,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"critic_norm must be one of {NORMS}, got {norm!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.members, self.hidden, self.dropout = members, tuple(hidden), dropout
        sizes, count = [obs_dim + act_dim, *hidden], members * (population or 1)
        self.layers = nn.ModuleList(EnsembleLinear(count, i, o) for i, o in pairwise(sizes))
        widths = sizes if norm == "batch" else sizes[1:]  # CrossQ also normalises the input
        self.norms = nn.ModuleList(
            [] if norm == "none" else [EnsembleNorm(norm, count, w) for w in widths]
        )
        self.norm_input = norm == "batch"
        self.head = EnsembleHead(count, sizes[-1])

    def forward(
        self, obs: Tensor, action: Tensor, masks: Masks = (), *, learn: bool = False
    ) -> Tensor:
        """Return values [E, B] of observations [B, O] and actions [B, A]; all with [K, ...]."""
        x, e, lead = torch.cat([obs, action], -1), self.members, obs.shape[:-2]
        x = x.repeat_interleave(e, 0) if lead else x.expand(e, -1, -1)
        norms = iter(self.norms)
        if self.norm_input:
            x = next(norms)(x, learn)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if masks:
                x = x * masks[i]
            if self.norms:
                x = next(norms)(x, learn)
            x = F.relu(x, inplace=True)
        values: Tensor = self.head(x)
        return values.view(*lead, e, -1) if lead else values

    def first(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the first one's values [B], at the cost of one network unless normalised."""
        if self.norms:
            return cast(Tensor, self(obs, action).select(-2, 0))
        x = torch.cat([obs, action], -1)
        pick: Any = slice(None, None, self.members) if x.dim() == 3 else 0  # [K, ...] or the one
        affine = torch.baddbmm if x.dim() == 3 else torch.addmm
        for layer in self.layers:
            one = cast(EnsembleLinear, layer)
            x = F.relu(affine(one.bias[pick], x, one.weight[pick]), inplace=True)
        values: Tensor = (x.type_as(obs) * self.head.weight[pick]).sum(-1) + self.head.bias[pick]
        return values

    def masks(self, batch: int, generators: Generators) -> Masks:
        """Draw scaled dropout masks [E, B, H] for one forward, [K E, B, H] of K; () without."""
        if not self.dropout:
            return ()
        keep, e = 1 - self.dropout, self.members
        uniform = (draw(torch.rand, generators, e, batch, h).flatten(0, -3) for h in self.hidden)
        return tuple((u < keep) / keep for u in uniform)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one optimiser step down the loss, or the sum of K; gradients keep their memory."""
    optimizer.zero_grad(set_to_none=False)
    ones = torch.ones_like(loss) if loss.dim() else None
    loss.backward(ones)  # type: ignore[no-untyped-call]
    optimizer.step()


def draw(kind: Callable[..., Tensor], generators: Generators, *size: int) -> Tensor:
    """Return `kind(*size)`, torch.randn say, of a generator; of K generators [K, *size]."""
    if isinstance(generators, torch.Generator):
        return kind(*size, generator=generators, device=generators.device)
    return torch.stack([draw(kind, g, *size) for g in generators])


@contextmanager
def frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let gradients flow through a network without computing those of its parameters."""
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
