"""A trained policy as it is handed to people."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...agents import Policy, State


class LoadedPolicy:
    """A trained policy: `act(obs)` takes one observation or a batch, numpy or torch."""

    def __init__(self, policy: Policy, obs_dim: int, config: dict[str, Any]) -> None:
        self.policy, self.obs_dim, self.config = policy, obs_dim, config

    def initial_state(self, n: int) -> State:
        """Return the wrapped policy's memory at the start of n episodes."""
        return self.policy.initial_state(n)

    def act(self, obs: Any, state: State = (), *, explore: bool = False) -> Any:
        """Return actions in [-1, 1]; with a torch batch also the next memory, as `Policy` does."""
        if isinstance(obs, Tensor):
            return self.policy.act(obs, state, explore=explore)
        rows = torch.as_tensor(np.asarray(obs, np.float32))
        if rows.shape[-1] != self.obs_dim:
            raise ValueError(f"obs has {rows.shape[-1]} columns, this policy takes {self.obs_dim}")
        action, _ = self.policy.act(rows.reshape(-1, self.obs_dim), state, explore=explore)
        return action.cpu().numpy().reshape(*rows.shape[:-1], -1)
