"""A policy for many tasks: one trunk, and a head and a normaliser for each task."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..api import no_memory
from ..networks import DeterministicActor, initialise
from .supermasks import Supermasks

FREE = 1_000_000  # the owner of a weight that no task has


class ContinualPolicy(nn.Module):
    """Shared ReLU layers and T linear tanh heads; task t sees z-scores of its own data.

    Head t alone is the last layer of a `DeterministicActor`, whose first layers are the trunk. With
    `one_head` all tasks have one, told apart by a goal in the observation, and one normaliser: the
    moments of all data of the tasks met so far, each with the same weight. Of `kind` packnet each
    weight of the trunk has an owner, and a task plays with those of tasks up to itself; of kind
    exssnet each task has a mask of the weights that it plays with.
    """

    mean: Tensor
    std: Tensor
    own: Tensor
    trunk: Any

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden: Sequence[int],
        tasks: int,
        *,
        one_head: bool = False,
        kind: str = "none",
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws from the global generator
            layers = [nn.Linear(i, o) for i, o in zip([obs_dim, *hidden], hidden, strict=False)]
        self.hidden = tuple(hidden)
        self.trunk = nn.ModuleList(layers)
        self.one_head = one_head
        heads = 1 if one_head else tasks
        self.head_weight = nn.Parameter(torch.zeros(heads, act_dim, hidden[-1]))
        self.head_bias = nn.Parameter(torch.zeros(heads, act_dim))
        self.register_buffer("mean", torch.zeros(tasks, obs_dim))
        self.register_buffer("std", torch.ones(tasks, obs_dim))
        self.owners: list[Tensor] = []
        for i, layer in enumerate(layers if kind == "packnet" else []):
            self.register_buffer(f"owner{i}", torch.full(layer.weight.shape, FREE))
            self.owners.append(getattr(self, f"owner{i}"))
        shapes = [layer.weight.shape for layer in layers]
        self.masks = Supermasks(shapes, tasks) if kind == "exssnet" else None
        if one_head:  # of the tasks met: the normaliser's sums
            self.register_buffer("own", torch.zeros(tasks, 2, obs_dim))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights from a generator of our own."""
        initialise(self.trunk, generator)
        bound = self.hidden[-1] ** -0.5
        for p in (self.head_weight, self.head_bias):
            with torch.no_grad():
                p.copy_((2 * torch.rand(p.shape, generator=generator) - 1) * bound)

    def scale(self, task: int, mean: Tensor, std: Tensor) -> None:
        """Keep the moments [O] of a task's observations."""
        if not self.one_head:
            self.mean[task], self.std[task] = mean, std
            return
        self.own[task, 0], self.own[task, 1] = mean, std.square() + mean.square()
        first, second = self.own[: task + 1].mean(0)
        self.mean[:], self.std[:] = first, (second - first.square()).clamp(min=1e-6).sqrt()

    def head(self, task: int) -> int:
        """Return which head a task has."""
        return 0 if self.one_head else task

    @property
    def numbers(self) -> tuple[int, int]:
        """Numbers of one head, and of one normaliser."""
        head = self.head_weight[0].numel() + self.head_bias[0].numel()
        return head, 2 * self.mean.shape[1]

    def features(self, x: Tensor, task: int = 0) -> Tensor:
        """Map standardised observations [..., O] to the last hidden layer [..., H]."""
        for i, layer in enumerate(self.trunk):
            x = F.relu(F.linear(x, self.weight(i, task), layer.bias))
        return x

    def weight(self, i: int, task: int) -> Tensor:
        """Return the weights of layer i that a task plays with, 0 for others."""
        weight: Tensor = self.trunk[i].weight
        if self.masks is not None:
            return weight * self.masks.of(i, task)
        return weight * (self.owners[i] <= task) if self.owners else weight

    def forward(self, obs: Tensor, task: int, *, raw: bool = True) -> Tensor:
        """Return task's actions [B, A]; `raw` observations are standardised first."""
        x = (obs - self.mean[task]) / self.std[task] if raw else obs
        h = self.head(task)
        return torch.tanh(F.linear(self.features(x, task), self.head_weight[h], self.head_bias[h]))

    def many(self, obs: Tensor) -> Tensor:
        """Return actions [n, B, A] of tasks 0..n-1 for raw observations [n, B, O], all at once."""
        n = len(obs)
        x = (obs - self.mean[:n, None]) / self.std[:n, None]
        weight, bias = self.head_weight[:n], self.head_bias[:n]
        if self.one_head:
            weight, bias = weight.expand(n, -1, -1), bias.expand(n, -1)
        return torch.tanh(torch.baddbmm(bias[:, None], self.features(x), weight.transpose(1, 2)))

    @torch.no_grad()
    def take(self, task: int, actor: DeterministicActor) -> None:
        """Become `actor` in trunk and head of this task, exactly."""
        *layers, last = [m for m in actor.net if isinstance(m, nn.Linear)]
        for mine, theirs in zip(self.trunk, layers, strict=True):
            mine.load_state_dict(theirs.state_dict())
        self.head_weight[self.head(task)].copy_(last.weight)
        self.head_bias[self.head(task)].copy_(last.bias)

    @torch.no_grad()
    def inherit(self, task: int) -> None:
        """Start a task's head as that of the task before; one head goes on as it is."""
        if self.one_head:
            return
        self.head_weight[task] = self.head_weight[task - 1]
        self.head_bias[task] = self.head_bias[task - 1]

    @torch.no_grad()
    def give(self, task: int, actor: DeterministicActor) -> None:
        """Make `actor` what this policy is on a task."""
        *layers, last = [m for m in actor.net if isinstance(m, nn.Linear)]
        for mine, theirs in zip(self.trunk, layers, strict=True):
            theirs.load_state_dict(mine.state_dict())
        last.weight.copy_(self.head_weight[self.head(task)])
        last.bias.copy_(self.head_bias[self.head(task)])


class Head(nn.Module):
    """One task of a `ContinualPolicy` as an actor: observations come standardised."""

    def __init__(self, policy: ContinualPolicy, task: int) -> None:
        super().__init__()
        self.policy, self.task = policy, task

    def forward(self, obs: Tensor) -> Tensor:
        """Return actions [B, A]."""
        out: Tensor = self.policy(obs, self.task, raw=False)
        return out

    mode = forward


class TaskPolicy:
    """A policy in worlds of one task; a `Policy`."""

    def __init__(self, policy: ContinualPolicy, task: int) -> None:
        self.policy, self.task = policy, task

    initial_state = no_memory

    @torch.no_grad()
    def act(self, obs: Tensor, state: Any = (), *, explore: bool = False) -> tuple[Tensor, Any]:
        """Return the task's actions."""
        return self.policy(obs, self.task), state
