"""The control that cannot forget: a small frozen policy for each finished task."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...buffers import Dataset
from ..networks import DeterministicActor, flatten, initialise, step
from ..seeding import generator
from .learner import OER


class Distilled:
    """Small policies, one for each finished task, that nothing changes any more."""

    def __init__(self, obs_dim: int, act_dim: int, hidden: tuple[int, ...], tasks: int) -> None:
        self.hidden = hidden
        with torch.random.fork_rng(devices=[]):
            self.nets = [DeterministicActor(obs_dim, act_dim, hidden) for _ in range(tasks)]
        for net in self.nets:
            initialise(net, generator(0, "distilled"))
        self.mean, self.std = torch.zeros(tasks, obs_dim), torch.ones(tasks, obs_dim)
        self.done = 0

    def distil(self, task: int, data: Dataset, learner: OER, steps: int, seed: int) -> None:
        """Clone the task's learner on its data's states."""
        net, states = self.nets[task], data.all.obs
        self.mean[task], self.std[task] = data.moments()
        initialise(net, generator(seed, f"distilled {task}"))
        optimizer = torch.optim.Adam([flatten(net)], lr=1e-3, fused=True)
        draws = generator(seed, f"distilled draws {task}")
        for _ in range(steps):
            obs = states[torch.randint(len(states), (256,), generator=draws)]
            target = learner.act(obs)
            loss = (net((obs - self.mean[task]) / self.std[task]) - target).square().mean()
            step(optimizer, loss)
        self.done = task + 1

    @property
    def bytes(self) -> int:
        """Size of what is kept."""
        one = sum(p.numel() for p in self.nets[0].parameters()) + 2 * self.mean.shape[1]
        return 4 * one * self.done

    def state_dict(self) -> dict[str, Any]:
        """Networks and scales."""
        nets = [net.state_dict() for net in self.nets]
        return {"nets": nets, "mean": self.mean, "std": self.std, "done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        for net, kept in zip(self.nets, state["nets"], strict=True):
            net.load_state_dict(kept)
        self.mean, self.std, self.done = state["mean"], state["std"], int(state["done"])


class Actor:
    """A network on standardised observations; a `Policy`."""

    def __init__(self, net: nn.Module, mean: Tensor, std: Tensor) -> None:
        self.net, self.mean, self.std = net, mean, std

    def initial_state(self, n: int) -> tuple[Any, ...]:
        """Return (): no memory."""
        return ()

    @torch.no_grad()
    def act(self, obs: Tensor, state: Any, *, explore: bool) -> tuple[Tensor, Any]:
        """Return actions for raw observations."""
        return self.net((obs - self.mean) / self.std), state
