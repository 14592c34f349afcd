"""Merging experts of one initialisation: average, task arithmetic, Fisher, TIES.

`experts`: rows [T, P] of weights, trained apart from `start` [P]. Sources: Matena & Raffel 2022
(arXiv:2111.09832), Ilharco et al. 2023 (arXiv:2212.04089), Yadav et al. 2023 (arXiv:2306.01708).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..networks import DeterministicActor
from .fisher import fisher_of, trunk_of
from .policy import ContinualPolicy

WEIGHT = 0.4  # of task arithmetic
FLOOR = 1e-6  # of a Fisher: what no state depends on is averaged


def average(experts: Tensor, start: Tensor, fisher: Tensor) -> Tensor:
    """Return the mean of the experts."""
    return experts.mean(0)


def arithmetic(experts: Tensor, start: Tensor, fisher: Tensor, weight: float = WEIGHT) -> Tensor:
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


def flat_of(layers: Iterable[nn.Module]) -> Tensor:
    """Return the weights [P] of layers, one by one, each weight before its bias."""
    return torch.cat([p.detach().flatten() for layer in layers for p in layer.parameters()])


def running(how: str, both: Tensor, start: Tensor, importance: Tensor) -> Tensor:
    """Return what a merger and one more expert, `both` [2, P], make, where no other is left.

    `importance` [2, P]: of the merger the sum of the Fishers that went into it, or [2, 1] counts.
    By it, and by task arithmetic, one by one is all at once; TIES elects between two at a time.
    """
    if how == "arithmetic":
        return both[0] + WEIGHT * (both[1] - start)
    return ties(both, start, importance) if how == "ties" else by_fisher(both, start, importance)


class Merging:
    """Experts of the finished tasks, whose trunks are merged anew at each task's end.

    The first task's expert is what all start from. `one_by_one`: no expert is kept, but the merger
    (which is the policy), the first one, and by Fisher the sum of the Fishers.
    """

    def __init__(self, how: str, one_by_one: bool = False) -> None:
        self.how, self.one_by_one, self.count = how, one_by_one, 0
        self.experts: list[Tensor] = []  # [P] each
        self.fishers: list[Tensor] = []  # where the merger needs them

    @torch.no_grad()
    def add(
        self, task: int, actor: DeterministicActor, obs: Tensor, policy: ContinualPolicy
    ) -> None:
        """Add a task's expert, with z-scores [B, O] of its data, and give the policy the merger."""
        merged, expert = flat_of(policy.trunk), flat_of(trunk_of(actor))
        policy.take(task, actor)  # its head, and a trunk that the merger takes the place of
        if self.how == "fisher":
            with torch.enable_grad():
                self.fishers.append(fisher_of(actor, obs).clamp(min=FLOOR))
        if not self.count or not self.one_by_one:
            self.experts.append(expert)
        start, both = self.experts[0], torch.stack([merged, expert])
        counts = torch.tensor([[float(self.count)], [1.0]])
        importance = torch.stack(self.fishers) if self.fishers else counts
        if self.one_by_one and self.count:
            flat = running(self.how, both, start, importance)
            self.fishers = [importance.sum(0)] if self.fishers else []
        else:
            flat = MERGES[self.how](torch.stack(self.experts), start, importance)
        self.count += 1
        at = 0
        for p in policy.trunk.parameters():
            p.copy_(flat[at : at + p.numel()].view_as(p))
            at += p.numel()

    def state_dict(self) -> dict[str, Any]:
        """What is kept of the experts."""
        return {"experts": self.experts, "fishers": self.fishers, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.experts, self.fishers = list(state["experts"]), list(state["fishers"])
        self.count = int(state["count"])

    @property
    def numbers(self) -> int:
        """Numbers kept between tasks beside the merged policy: experts and Fishers."""
        return sum(x.numel() for x in (*self.experts, *self.fishers))
