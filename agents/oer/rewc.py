"""R-EWC: elastic weight consolidation in coordinates in which the Fisher is nearly diagonal."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..networks import DeterministicActor
from .fisher import affine, sides, squared
from .packnet import heads_of, step_within
from .policy import ContinualPolicy


class Anchor(NamedTuple):
    """What holds a layer (W, b) [H, I + 1] where a task left it."""

    left: Tensor  # [H, H], columns are eigenvectors of E[g g^T]
    right: Tensor  # [I + 1, I + 1], of E[x x^T]
    fisher: Tensor  # [H, I + 1], in their coordinates
    at: Tensor  # [H, I + 1]

    def cost(self, weight: Tensor) -> Tensor:
        """Return sum F (U2^T (W - W*) U1)^2."""
        moved = self.left.T @ (weight - self.at) @ self.right
        return (self.fisher * moved.square()).sum()


def rotations(given: Tensor, grads: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvectors of E[g g^T] and of E[x x^T], as columns."""
    g = grads.flatten(0, 1)
    # Contiguous, as what is read from a checkpoint: products round by the layout.
    left, right = (torch.linalg.eigh(x.T @ x / len(given)).eigenvectors for x in (g, given))
    return left.contiguous(), right.contiguous()


class REWC:
    """Liu et al. 2018 (arXiv:1802.02950, "Rotate your networks") on pi; a `Rival`.

    Adds weight / 2 sum F' (U2^T (W - W*) U1)^2 for each old task, each in the coordinates of its
    own inputs and gradients, a bias as the weight of an input 1. The paper trains in these
    coordinates; here the loss is that and the steps are of the weights as they are: the same for
    plain gradients, which an orthogonal change of coordinates does not change, not for Adam's.
    """

    from_scratch = retrains = False

    def __init__(self, policy: ContinualPolicy, weight: float, seed: int = 0) -> None:
        self.policy, self.weight, self.task = policy, weight, 0
        self.mine = heads_of(policy, 0, trunk=True)
        self.anchors: list[list[Anchor]] = []  # of each old task, of each layer

    @property
    def numbers(self) -> float:
        """Numbers kept beside the policy: rotations, Fishers and weights of each task."""
        return sum(x.numel() for task in self.anchors for anchor in task for x in anchor)

    def begin(self, task: int) -> None:
        """Start a task, in which other heads stand still."""
        self.task, self.mine = task, heads_of(self.policy, task, trunk=True)

    def meet(self, obs: Tensor, action: Tensor) -> None:
        """Nothing is asked of the data."""

    def penalty(self) -> Tensor:
        """Return what the old tasks add to the loss."""
        layers = affine(self.policy.trunk)
        pairs = [(a, w) for task in self.anchors for a, w in zip(task, layers, strict=True)]
        return 0.5 * self.weight * torch.stack([anchor.cost(w) for anchor, w in pairs]).sum()

    def step(self, optimizer: Optimizer, loss: Tensor, obs: Tensor) -> None:
        """Step down the task's loss and the penalty."""
        step_within(optimizer, loss + self.penalty() if self.anchors else loss, self.mine)

    def end(self, obs: Tensor) -> None:
        """Anchor the trunk as it is, by the Fisher of a policy of unit variance."""
        p = self.policy
        with torch.random.fork_rng(devices=[]):
            actor = DeterministicActor(obs.shape[1], p.head_bias.shape[1], p.hidden)
        p.give(self.task, actor)
        anchors = []
        for (given, grads), at in zip(sides(actor, obs), affine(p.trunk), strict=True):
            left, right = rotations(given, grads)
            fisher = squared(given @ right, grads @ left)
            anchors.append(Anchor(left, right, fisher, at.detach()))
        self.anchors.append(anchors)

    def row(self) -> dict[str, float]:
        """Nothing is to be told."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """All anchors."""
        return {"anchors": [[tuple(anchor) for anchor in task] for task in self.anchors]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.anchors = [[Anchor(*anchor) for anchor in task] for task in state["anchors"]]
