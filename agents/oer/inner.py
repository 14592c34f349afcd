"""What learns the current task: TD3+BC, or IQL, behind one face."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...buffers import Transitions
from ..api import Metrics, State
from ..networks import Critic
from ..offline.iql import IQL, IQLConfig
from ..td3 import TD3, TD3Config


class Inner(Protocol):
    """An agent on standardised observations whose actor and its step can be reached."""

    config: Any
    actor: nn.Module
    critic: Critic
    regulariser: Callable[[], Tensor] | None
    actor_step: Callable[[Optimizer, Tensor], None]

    def act(self, obs: Tensor, state: State = ..., *, explore: bool = ...) -> tuple[Tensor, State]:
        """Return actions."""

    def update(self, batch: Transitions, **more: Transitions) -> Metrics:
        """Take a gradient step."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continuation needs."""

    def load_state_dict(self, state: Any) -> None:
        """Continue from `state_dict`."""


Learns = Callable[[int, nn.Module | None], Inner]  # by a seed, with an actor that goes on or none


def by_td3(obs_dim: int, act_dim: int, config: TD3Config) -> Learns:
    """Return what begins a task by TD3+BC."""
    return lambda seed, actor: TD3(obs_dim, act_dim, config, seed=seed, actor=actor)


def by_iql(obs_dim: int, act_dim: int, config: IQLConfig) -> Learns:
    """Return what begins a task by IQL, whose actor clones the data by advantage."""
    return lambda seed, actor: IQL(obs_dim, act_dim, config, seed=seed, actor=actor)


@torch.no_grad()
def td_error(inner: Any, batch: Transitions) -> Tensor:
    """Return |r + gamma V(s') - Q_1(s, a)| [B] of standardised rows.

    V is IQL's value, or min Q'(s', mu'(s')) over TD3's target networks.
    """
    if isinstance(inner, IQL):
        value = inner.value(batch.next_obs)
    else:
        value = (
            inner.target_critic(batch.next_obs, inner.target_actor(batch.next_obs)).min(0).values
        )
    target = batch.reward + inner.config.gamma * (1 - batch.terminated) * value
    error: Tensor = (target - inner.critic(batch.obs, batch.action)[0]).abs()
    return error
