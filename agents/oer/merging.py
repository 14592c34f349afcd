"""Merging experts of one initialisation: average, task arithmetic, Fisher, TIES.

`experts`: rows [T, P] of weights, trained apart from `start` [P]. Sources: Matena & Raffel 2022
(arXiv:2111.09832), Ilharco et al. 2023 (arXiv:2212.04089), Yadav et al. 2023 (arXiv:2306.01708).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks import DeterministicActor
from .policy import ContinualPolicy

FLOOR = 1e-6  # of a Fisher: what no state depends on is averaged


def average(experts: Tensor, start: Tensor, fisher: Tensor) -> Tensor:
    """Return the mean of the experts."""
    return experts.mean(0)


def arithmetic(experts: Tensor, start: Tensor, fisher: Tensor, weight: float = 0.4) -> Tensor:
    """Return start + weight times the sum of what each expert changed."""
    return start + weight * (experts - start).sum(0)


def by_fisher(experts: Tensor, start: Tensor, fisher: Tensor) -> Tensor:
    """Return sum F_t theta_t / sum F_t, by element; fisher [T, P], at least FLOOR."""
    importance = fisher.clamp(min=FLOOR)
    return (importance * experts).sum(0) / importance.sum(0)


def ties(
    experts: Tensor, start: Tensor, fisher: Tensor, keep: float = 0.2, weight: float = 1.0
) -> Tensor:
    """Return start + weight times the changes that agree: trimmed, a sign elected, then the mean.

    Of each expert's changes the share `keep` that is largest in size stays; the sign is that of
    their sum; the mean is over those that have it.
    """
    change = experts - start
    count = max(1, round(keep * change.shape[1]))
    largest = change.abs().topk(count, 1).indices
    trimmed = torch.zeros_like(change).scatter(1, largest, change.gather(1, largest))
    agree = (trimmed.sign() == trimmed.sum(0).sign()) & (trimmed != 0)
    merged = (trimmed * agree).sum(0) / agree.sum(0).clamp(min=1)
    return start + weight * merged


MERGES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "average": average,
    "arithmetic": arithmetic,
    "fisher": by_fisher,
    "ties": ties,
}


def trunk_of(actor: DeterministicActor) -> list[nn.Linear]:
    """Return an actor's layers but its last, which is its task's head."""
    return [m for m in actor.net if isinstance(m, nn.Linear)][:-1]


def flat_trunk(actor: DeterministicActor) -> Tensor:
    """Return the weights [P] of an actor's trunk, layer by layer, each weight before its bias."""
    return torch.cat([p.detach().flatten() for m in trunk_of(actor) for p in m.parameters()])


def fisher_of(actor: DeterministicActor, obs: Tensor) -> Tensor:
    """Return the diagonal Fisher [P] of a trunk at z-scores [B, O], of a policy of unit variance.

    Mean over states of sum_k (d mu_k / d theta)^2, exactly: of a layer y = W x + b the squares are
    (d mu_k / d y_i)^2 x_j^2.
    """
    layers, x = trunk_of(actor), obs
    inputs, outputs = [], []
    for layer in layers:
        inputs.append(x)
        outputs.append(layer(x))
        x = F.relu(outputs[-1])
    last = actor.net[-1]
    action = torch.tanh(last(x))
    weights = [torch.zeros_like(layer.weight) for layer in layers]
    biases = [torch.zeros_like(layer.bias) for layer in layers]
    for k in range(action.shape[1]):
        grads = torch.autograd.grad(action[:, k].sum(), outputs, retain_graph=True)
        for weight, bias, g, given in zip(weights, biases, grads, inputs, strict=True):
            squares = g.square()
            weight += squares.T @ given.detach().square() / len(obs)
            bias += squares.mean(0)
    pairs = zip(weights, biases, strict=True)
    return torch.cat([p.flatten() for pair in pairs for p in pair])


class Merging:
    """Experts of the finished tasks, whose trunks are merged anew at each task's end.

    The first task's expert is what all start from.
    """

    def __init__(self, how: str) -> None:
        self.merge = MERGES[how]
        self.experts: list[Tensor] = []  # [P] each
        self.fishers: list[Tensor] = []

    @torch.no_grad()
    def add(
        self, task: int, actor: DeterministicActor, obs: Tensor, policy: ContinualPolicy
    ) -> None:
        """Add a task's expert, with z-scores [B, O] of its data, and give the policy the merger."""
        policy.take(task, actor)  # its head, and a trunk that the merger takes the place of
        self.experts.append(flat_trunk(actor))
        with torch.enable_grad():
            self.fishers.append(fisher_of(actor, obs))
        start = self.experts[0]
        flat = self.merge(torch.stack(self.experts), start, torch.stack(self.fishers))
        at = 0
        for p in policy.trunk.parameters():
            p.copy_(flat[at : at + p.numel()].view_as(p))
            at += p.numel()

    def state_dict(self) -> dict[str, Any]:
        """Experts and Fishers."""
        return {"experts": self.experts, "fishers": self.fishers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.experts, self.fishers = list(state["experts"]), list(state["fishers"])

    @property
    def numbers(self) -> int:
        """Numbers kept between tasks beside the merged policy: experts and Fishers."""
        return sum(x.numel() for x in (*self.experts, *self.fishers))
