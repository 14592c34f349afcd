"""The control that cannot forget: a small frozen policy for each finished task."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...buffers import Dataset
from ..networks import DeterministicActor, initialise, step
from ..seeding import generator
from ..training import adam, flatten, trained


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
        self.optimizer: torch.optim.Adam | None = None  # of the one that is being distilled
        self.draws: torch.Generator | None = None

    def begin(self, task: int, data: Dataset, seed: int) -> None:
        """Start the policy of a task: its scale, weights, optimiser and draws."""
        net = self.nets[task]
        self.mean[task], self.std[task] = data.moments()
        _, self.optimizer = trained(net, 1e-3, generator(seed, f"distilled {task}"))
        self.draws = generator(seed, f"distilled draws {task}")

    def clone_step(self, task: int, data: Dataset, act: Callable[[Tensor], Tensor]) -> Tensor:
        """Take one gradient step towards `act` on the data's states; return the loss."""
        assert self.optimizer is not None and self.draws is not None
        states = data.all.obs
        obs = states[torch.randint(len(states), (256,), generator=self.draws)]
        out = self.nets[task]((obs - self.mean[task]) / self.std[task])
        loss: Tensor = (out - act(obs)).square().mean()
        step(self.optimizer, loss)
        return loss.detach()

    def finish(self, task: int) -> None:
        """Freeze the policy of a task."""
        self.done, self.optimizer, self.draws = task + 1, None, None

    @property
    def bytes(self) -> int:
        """Size of what is kept."""
        one = sum(p.numel() for p in self.nets[0].parameters()) + 2 * self.mean.shape[1]
        return 4 * one * self.done

    def state_dict(self) -> dict[str, Any]:
        """Networks and scales."""
        nets = [net.state_dict() for net in self.nets]
        now = None
        if self.optimizer is not None and self.draws is not None:
            now = {"optimizer": self.optimizer.state_dict(), "draws": self.draws.get_state()}
        return {"nets": nets, "mean": self.mean, "std": self.std, "done": self.done, "now": now}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        for net, kept in zip(self.nets, state["nets"], strict=True):
            net.load_state_dict(kept)
        self.mean, self.std, self.done = state["mean"], state["std"], int(state["done"])
        if state["now"] is not None:
            self.optimizer = adam(flatten(self.nets[self.done]), 1e-3)
            self.optimizer.load_state_dict(copy.deepcopy(state["now"]["optimizer"]))
            self.draws = torch.Generator()
            self.draws.set_state(state["now"]["draws"])
