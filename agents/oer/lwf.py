"""Learning without forgetting: what the old heads said, on the new task's states."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..networks import step
from .policy import ContinualPolicy


class LwF:
    """Li & Hoiem 2016 (arXiv:1606.09282) on pi; a `Rival`. It keeps nothing between tasks.

    Adds weight * mean over old heads i of |pi_old,i(s) - pi_i(s)|^2 (mean over rows and actions) at
    the current task's states s; pi_old is pi as the task began.
    """

    from_scratch = retrains = False
    numbers = 0.0

    def __init__(self, policy: ContinualPolicy, weight: float, seed: int = 0) -> None:
        self.policy, self.weight, self.task = policy, weight, 0
        self.old = copy.deepcopy(policy).requires_grad_(False)

    def begin(self, task: int) -> None:
        """Take pi as it is for the old one."""
        self.task = task
        self.old.load_state_dict(self.policy.state_dict())

    def meet(self, obs: Tensor, action: Tensor) -> None:
        """Nothing is asked of the data."""

    def step(self, optimizer: Optimizer, loss: Tensor, obs: Tensor) -> None:
        """Step down the task's loss and what the old heads add, at z-scores [B, O]."""
        p, t = self.policy, self.task
        raw = obs * p.std[t] + p.mean[t]
        gaps = [(p(raw, i) - self.old(raw, i)).square().mean() for i in range(t)]
        step(optimizer, loss + self.weight * torch.stack(gaps).mean() if gaps else loss)

    def end(self, obs: Tensor) -> None:
        """Nothing is kept of a task."""

    def row(self) -> dict[str, float]:
        """Nothing is to be told."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The old pi."""
        return {"old": self.old.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.old.load_state_dict(state["old"])
