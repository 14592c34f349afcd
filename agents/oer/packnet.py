"""PackNet: each task trains the weights that no task before it owns, and frees a share again."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..networks import step
from .policy import FREE, ContinualPolicy


def step_within(optimizer: Optimizer, loss: Tensor, mine: Tensor) -> None:
    """Step down a loss in the numbers that `mine` [P] has: all others stay as they are, exactly."""
    (flat,) = optimizer.param_groups[0]["params"]
    before = flat.detach().clone()
    step(optimizer, loss)
    with torch.no_grad():
        flat.copy_(torch.where(mine, flat, before))


def heads_of(policy: ContinualPolicy, task: int, *, trunk: bool) -> Tensor:
    """Return which numbers [P] of a flat policy are a task's head, and its trunk's if told so."""
    parts = []
    for name, p in policy.named_parameters():
        mine = torch.full_like(p, trunk and name.startswith("trunk"), dtype=torch.bool)
        if name.startswith("head"):
            mine[task] = True
        parts.append(mine.flatten())
    return torch.cat(parts)


class PackNet:
    """Mallya & Lazebnik 2018 (arXiv:1711.05769) on pi; a `Rival`.

    A task trains all free weights of the trunk; at its end, layer by layer, the largest of them,
    1 / (tasks left, this one included) of what was free, are its own for ever, and the others are
    0 and free. A task plays with its own weights and those of tasks before. Biases are trained in
    the first task only, a head in its own task. The optimiser's step is masked, not the gradient:
    its momentum would move what is frozen.
    """

    from_scratch = retrains = True

    def __init__(self, policy: ContinualPolicy, weight: float = 0.0, seed: int = 0) -> None:
        self.policy, self.task = policy, 0
        self.mine = torch.empty(0)

    @property
    def numbers(self) -> float:
        """Numbers kept beside the policy: a byte for each weight says whose it is."""
        return sum(owner.numel() for owner in self.policy.owners) / 4

    def begin(self, task: int) -> None:
        """Give the task all weights that are free."""
        self.task = task
        for owner in self.policy.owners:
            owner[owner == FREE] = task
        self._see()

    def _see(self) -> None:
        """Note which numbers of the flat policy the task may move."""
        parts = []
        for name, p in self.policy.named_parameters():
            mine = torch.zeros_like(p, dtype=torch.bool)
            if name.startswith("head"):
                mine[self.task] = True
            elif name.endswith("weight"):
                mine = self.policy.owners[int(name.split(".")[1])] == self.task
            else:
                mine[:] = self.task == 0
            parts.append(mine.flatten())
        self.mine = torch.cat(parts)

    def step(self, optimizer: Optimizer, loss: Tensor, obs: Tensor) -> None:
        """Step down the loss, with the task's own numbers alone."""
        step_within(optimizer, loss, self.mine)

    def meet(self, obs: Tensor, action: Tensor) -> None:
        """Nothing is asked of the data."""

    @torch.no_grad()
    def end(self, obs: Tensor) -> None:
        """Keep the task's share of its weights, largest first, and free the others."""
        left = self.policy.mean.shape[0] - self.task
        trunk: Any = self.policy.trunk
        for layer, owner in zip(trunk, self.policy.owners, strict=True):
            own = (owner == self.task).flatten()
            size = layer.weight.abs().flatten().masked_fill(~own, -1.0)
            keep = size.topk(round(int(own.sum()) / left)).indices
            own[keep] = False
            freed = own.view_as(owner)
            owner[freed] = FREE
            layer.weight[freed] = 0.0
        self._see()

    def row(self) -> dict[str, float]:
        """Return the share of the weights that no task owns."""
        owners = torch.cat([owner.flatten() for owner in self.policy.owners])
        return {"free": float((owners == FREE).float().mean())}

    def state_dict(self) -> dict[str, Any]:
        """Which numbers may move; who owns what, the policy saves."""
        return {"mine": self.mine}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.mine = state["mine"]
