"""Any agent on standardised observations: z-scores by the data's own moments."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...buffers import Transitions
from ..api import Agent, Metrics, State


class Standardised:
    """An `Agent` that sees (obs - mean) / std (TD3+BC, section 5), moments [O], or [K, 1, O]."""

    def __init__(self, agent: Agent, mean: Tensor, std: Tensor) -> None:
        self.agent, self.mean, self.std = agent, mean, std
        self.columns = agent.columns

    def _scale(self, obs: Tensor) -> Tensor:
        lead, width = self.mean.shape[:-2], self.mean.shape[-1]
        return (obs.to(self.mean.device).view(*lead, -1, width) - self.mean) / self.std

    def initial_state(self, n: int) -> State:
        """Return the inner agent's memory at the start of n episodes."""
        return self.agent.initial_state(n)

    @torch.no_grad()
    def act(self, obs: Tensor, state: State = (), *, explore: bool = False) -> tuple[Tensor, State]:
        """Return the inner agent's action."""
        return self.agent.act(self._scale(obs), state, explore=explore)

    def update(self, batch: Transitions, **more: Transitions) -> Metrics:
        """Take one gradient step of the inner agent."""
        obs, next_obs = ((x - self.mean) / self.std for x in (batch.obs, batch.next_obs))
        return self.agent.update(batch._replace(obs=obs, next_obs=next_obs), **more)

    def state_dict(self) -> dict[str, Any]:
        """The inner agent's state, and the moments."""
        return {"inner": self.agent.state_dict(), "mean": self.mean, "std": self.std}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.agent.load_state_dict(state["inner"])
        self.mean, self.std = (state[k].to(self.mean.device) for k in ("mean", "std"))
