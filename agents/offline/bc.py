"""Behaviour cloning: do what the data did."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...buffers import Transitions
from .. import cloning
from ..api import Bounds, Metrics, State, no_memory, within
from ..networks import DeterministicActor, step
from ..seeding import generator
from ..training import pack, trained, unpack


@dataclass(frozen=True)
class BCConfig:
    """Settings of the learner."""

    lr: float = 3e-4
    """Adam learning rate"""
    hidden: tuple[int, ...] = (256, 256)
    """hidden layer widths"""
    bounds: ClassVar[Bounds] = {"lr": (0, 1), "hidden": (1, 16_384)}


class BC:
    """Regress the data's actions by a deterministic actor; an `Agent`."""

    columns: tuple[str, ...] = ()
    saved = ("actor", "optimizer")
    initial_state = no_memory

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
        within(c, **c.bounds)
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws from the global generator
            self.actor = DeterministicActor(obs_dim, act_dim, c.hidden)
        _, self.optimizer = trained(self.actor, c.lr, generator(seed, "weights"), device)

    @torch.no_grad()
    def act(self, obs: Tensor, state: State = (), *, explore: bool = False) -> tuple[Tensor, State]:
        """Return the actor's action, the same whether exploring or not."""
        return self.actor(obs.to(self.device)), state

    def update(self, batch: Transitions, **more: Transitions) -> Metrics:
        """Take one gradient step."""
        loss = cloning.cloning_loss(self.actor(batch.obs), batch.action)
        step(self.optimizer, loss)
        return {"actor_loss": loss.detach()}

    def state_dict(self) -> dict[str, Any]:
        """Network and optimiser."""
        return pack(self, self.saved)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        unpack(self, self.saved, state)
