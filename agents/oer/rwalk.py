"""R-Walk: Fisher information that follows the steps, and what each weight's way was good for."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .merging import flat_of
from .packnet import heads_of, step_within
from .policy import ContinualPolicy

NEW = 0.9  # alpha: what a step's squared gradient counts in the Fisher
EVERY = 10  # steps between scores
EPS = float(torch.finfo(torch.float32).eps)


class RWalk:
    """Chaudhry et al. 2018 (arXiv:1801.10112, eq. 6 to 8) on pi's trunk; a `Rival`.

    Adds weight sum (F / max F + max(s, 0) / max s) (theta - theta*)^2. F is a running mean of the
    squared gradient of the task's loss; s sums, over stretches of ten steps, what the loss fell by
    through a weight, over 1/2 F (its move)^2; with that of earlier tasks it is averaged.
    """

    from_scratch = True  # where pi is mu it has not walked
    retrains = False

    def __init__(self, policy: ContinualPolicy, weight: float, seed: int = 0) -> None:
        self.policy, self.weight = policy, weight
        self.mine = heads_of(policy, 0, trunk=True)
        now = flat_of(policy.trunk)
        self.anchor, self.cost, self.score = now, torch.zeros_like(now), torch.zeros_like(now)
        self.fisher, self.fell, self.walked = (torch.zeros_like(now) for _ in range(3))
        self.from_here, self.tasks, self.steps = now, 0, 0

    @property
    def numbers(self) -> float:
        """Numbers kept beside the policy: where it was, what moving costs, scores, the Fisher."""
        return 4 * self.anchor.numel()

    def begin(self, task: int) -> None:
        """Start a task's way."""
        self.mine = heads_of(self.policy, task, trunk=True)
        self.fell, self.walked = torch.zeros_like(self.fell), torch.zeros_like(self.fell)
        self.from_here, self.steps = flat_of(self.policy.trunk), 0

    def meet(self, obs: Tensor, action: Tensor) -> None:
        """Nothing is asked of the data."""

    def penalty(self) -> Tensor:
        """Return what old tasks add to the loss."""
        now = torch.cat([p.flatten() for p in self.policy.trunk.parameters()])
        return self.weight * (self.cost * (now - self.anchor).square()).sum()

    def step(self, optimizer: Optimizer, loss: Tensor, obs: Tensor) -> None:
        """Step down the loss and the penalty, and follow the way."""
        own = list(self.policy.trunk.parameters())
        grads = torch.autograd.grad(loss, own, retain_graph=True)
        g, before = torch.cat([x.flatten() for x in grads]), flat_of(self.policy.trunk)
        new = g.square()
        self.fisher = torch.lerp(self.fisher, new, NEW) if self.tasks or self.steps else new
        step_within(optimizer, loss + self.penalty() if self.tasks else loss, self.mine)
        now = flat_of(self.policy.trunk)
        self.fell = self.fell - g * (now - before)
        self.steps += 1
        if self.steps % EVERY == 0:
            way = 0.5 * self.fisher * (now - self.from_here).square()
            self.walked = self.walked + self.fell / (way + EPS)
            self.fell, self.from_here = torch.zeros_like(now), now

    def end(self, obs: Tensor) -> None:
        """Fix what moving costs from here on."""
        self.score = 0.5 * (self.score + self.walked) if self.tasks else self.walked
        gained = self.score.clamp(min=0)
        parts = [x / x.max().clamp(min=1e-30) for x in (self.fisher, gained)]
        self.cost, self.anchor = parts[0] + parts[1], flat_of(self.policy.trunk)
        self.tasks += 1

    def row(self) -> dict[str, float]:
        """Nothing is to be told."""
        return {}

    SAVED = ("anchor", "cost", "score", "fisher", "fell", "walked", "from_here", "tasks", "steps")

    def state_dict(self) -> dict[str, Any]:
        """The way so far, and what old tasks cost."""
        return {name: getattr(self, name) for name in self.SAVED}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        for name in self.SAVED:
            setattr(self, name, state[name])
