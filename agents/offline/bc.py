"""Behaviour cloning: do what the data did."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...buffers import Transitions
from .. import cloning
from ..api import Metrics, State, within
from ..networks import DeterministicActor, flatten, initialise, step
from ..seeding import generator


@dataclass(frozen=True)
class BCConfig:
    """Settings of the learner."""

    lr: float = 3e-4
    """Adam learning rate"""
    hidden: tuple[int, ...] = (256, 256)
    """hidden layer widths"""


class BC:
    """Regress the data's actions by a deterministic actor; an `Agent`."""

    columns: tuple[str, ...] = ()

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        config: BCConfig | None = None,
        *,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        self.config = c = config or BCConfig()
        within(c, lr=(0, 1))
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws from the global generator
            self.actor = DeterministicActor(obs_dim, act_dim, c.hidden)
        initialise(self.actor, generator(seed, "weights"))
        self.actor.to(self.device)
        self.optimizer = torch.optim.Adam([flatten(self.actor)], lr=c.lr, fused=True)

    def initial_state(self, n: int) -> State:
        """Return (): no memory."""
        return ()

    @torch.no_grad()
    def act(self, obs: Tensor, state: State, *, explore: bool) -> tuple[Tensor, State]:
        """Return the actor's action, the same whether exploring or not."""
        return self.actor(obs.to(self.device)), state

    def update(self, batch: Transitions, **more: Transitions) -> Metrics:
        """Take one gradient step."""
        loss = cloning.cloning_loss(self.actor(batch.obs), batch.action)
        step(self.optimizer, loss)
        return {"actor_loss": loss.detach()}

    def state_dict(self) -> dict[str, Any]:
        """Network and optimiser."""
        return {"actor": self.actor.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.actor.load_state_dict(state["actor"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # it keeps its tensors
