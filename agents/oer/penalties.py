"""Regularisation baselines of continual learning: EWC, SI, and A-GEM's projection."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..networks import step


class EWC:
    """Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv:1612.00796), online.

    Penalty weight / 2 * sum F (theta - theta*)^2, Fishers merged with a decay (Schwarz et al.
    2018, arXiv:1805.06370).
    """

    def __init__(self, parameters: Sequence[Tensor], weight: float, decay: float = 0.5) -> None:
        self.parameters, self.weight, self.decay = list(parameters), weight, decay
        self.fisher = [torch.zeros_like(p) for p in self.parameters]
        self.anchor = [p.detach().clone() for p in self.parameters]
        self.tasks = 0

    @property
    def numbers(self) -> int:
        """Numbers kept beside the policy."""
        return sum(x.numel() for x in (*self.fisher, *self.anchor))

    def loss(self) -> Tensor:
        """Return the penalty; 0 before the first task is over."""
        if not self.tasks:
            return torch.zeros(())
        rows = zip(self.parameters, self.anchor, self.fisher, strict=True)
        parts = [(f * (p - a).square()).sum() for p, a, f in rows]
        return 0.5 * self.weight * torch.stack(parts).sum()

    def end_task(self, output: Callable[[Tensor], Tensor], obs: Tensor, chunk: int = 1) -> None:
        """Add the Fisher of a policy of unit variance at observations [B, O], and anchor here.

        For a Gaussian of mean f(s) and unit variance it is the mean of J^T J; its diagonal is
        estimated by squared gradients of the sum of outputs with random signs.
        """
        generator = torch.Generator().manual_seed(self.tasks)
        new = [torch.zeros_like(p) for p in self.parameters]
        for rows in torch.split(obs, chunk):
            action = output(rows)
            signs = (torch.rand(action.shape, generator=generator) < 0.5).float() * 2 - 1
            grads = torch.autograd.grad((signs * action).sum(), self.parameters, allow_unused=True)
            for total, g in zip(new, grads, strict=True):
                if g is not None:
                    total += g.square() / (len(obs) / chunk)
        keep = self.decay if self.tasks else 0.0
        for old, fresh in zip(self.fisher, new, strict=True):
            old.mul_(keep).add_(fresh)
        self.anchor = [p.detach().clone() for p in self.parameters]
        self.tasks += 1


class SI:
    """Synaptic intelligence (Zenke et al. 2017, arXiv:1703.04200): importance along the path."""

    def __init__(self, parameters: Sequence[Tensor], weight: float, damping: float = 0.1) -> None:
        self.parameters, self.weight, self.damping = list(parameters), weight, damping
        self.omega = [torch.zeros_like(p) for p in self.parameters]
        self.path = [torch.zeros_like(p) for p in self.parameters]
        self.anchor = [p.detach().clone() for p in self.parameters]
        self.tasks = 0

    @property
    def numbers(self) -> int:
        """Numbers kept beside the policy."""
        return sum(x.numel() for x in (*self.omega, *self.path, *self.anchor))

    def loss(self) -> Tensor:
        """Return the penalty; 0 before the first task is over."""
        if not self.tasks:
            return torch.zeros(())
        rows = zip(self.parameters, self.anchor, self.omega, strict=True)
        parts = [(o * (p - a).square()).sum() for p, a, o in rows]
        return self.weight * torch.stack(parts).sum()

    def step(self, optimizer: Optimizer, loss: Tensor) -> None:
        """Take a step of the policy, and follow it."""
        before = [p.detach().clone() for p in self.parameters]
        step(optimizer, loss)
        self.follow(before, [p.grad for p in self.parameters if p.grad is not None])

    @torch.no_grad()
    def follow(self, before: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        """Add what a step from `before` lowered the task's loss by; `grads` hold the penalty."""
        for i, (g, b, p) in enumerate(zip(grads, before, self.parameters, strict=True)):
            own = g - 2 * self.weight * self.omega[i] * (b - self.anchor[i]) if self.tasks else g
            self.path[i] -= own * (p - b)

    @torch.no_grad()
    def end_task(self) -> None:
        """Turn the path into importance, and anchor here."""
        for o, path, p, a in zip(self.omega, self.path, self.parameters, self.anchor, strict=True):
            o += (path / ((p - a).square() + self.damping)).clamp(min=0)
            path.zero_()
        self.anchor = [p.detach().clone() for p in self.parameters]
        self.tasks += 1


def project(gradient: Tensor, reference: Tensor) -> Tensor:
    """Return the gradient without what points against `reference` (A-GEM, arXiv:1812.00420)."""
    dot = gradient @ reference
    rest = gradient - dot / (reference @ reference) * reference
    return torch.where(dot >= 0, gradient, rest)


def along(memories: Callable[[], Tensor]) -> Callable[[Optimizer, Tensor], None]:
    """Return a step along the loss's gradient without what points against the memories' loss."""

    def take(optimizer: Optimizer, loss: Tensor) -> None:
        (flat,) = optimizer.param_groups[0]["params"]
        gradients = []
        for each in (loss, memories()):
            optimizer.zero_grad(set_to_none=False)
            each.backward()  # type: ignore[no-untyped-call]
            gradients.append(flat.grad.clone())
        flat.grad.copy_(project(*gradients))
        optimizer.step()

    return take
