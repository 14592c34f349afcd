"""Our replay buffer inside Stable-Baselines3: `SAC(..., replay_buffer_class=SB3ReplayBuffer)`."""

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.buffers import ReplayBuffer as SB3Buffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from .replay import ReplayBuffer
from .transitions import Layout, Transitions


class SB3ReplayBuffer(SB3Buffer):  # type: ignore[misc]
    """SB3's interface over `ReplayBuffer`: Box spaces, no VecNormalize, draws from its own seed.

    SB3 hands it none: give `replay_buffer_kwargs={"seed": ...}`, or all seeds draw the same rows.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: Any,
        action_space: Any,
        device: Any = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        seed: int = 0,
    ) -> None:
        if not isinstance(observation_space, Box) or not isinstance(action_space, Box):
            raise ValueError(f"Box spaces only, got {observation_space} and {action_space}")
        if optimize_memory_usage:
            raise ValueError("optimize_memory_usage would store each observation once; use False")
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        self.layout = Layout(int(np.prod(observation_space.shape)), self.action_dim)
        capacity = max(buffer_size // n_envs, 1) * n_envs
        self.ours = ReplayBuffer(self.layout, capacity, n_envs, device=self.device, seed=seed)

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: Any,
        reward: Any,
        done: Any,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one vector step; `next_obs` is the true successor, as SB3 gives it."""

        def rows(x: Any, width: int) -> torch.Tensor:
            return torch.as_tensor(np.array(x, np.float32).reshape(self.n_envs, width))

        ended = torch.as_tensor(np.array(done, bool))
        cut = torch.tensor([bool(info.get("TimeLimit.truncated", False)) for info in infos])
        valid = torch.tensor([not info.get("bad_world", False) for info in infos])
        self.ours.add(
            Transitions(
                rows(obs, self.layout.obs_dim),
                rows(action, self.layout.act_dim),
                torch.as_tensor(np.array(reward, np.float32)),
                rows(next_obs, self.layout.obs_dim),
                (ended & ~cut).float(),
                (ended & cut).float(),
            ),
            valid,
        )

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        """Draw a batch; `dones` is 1 only where the episode terminated."""
        if env is not None:
            raise ValueError("VecNormalize is not supported; normalise in the environment")
        b = self.ours.sample(batch_size)
        columns = (b.terminated[:, None], b.reward[:, None])
        return ReplayBufferSamples(b.obs, b.action, b.next_obs, *columns)

    def size(self) -> int:
        """Number of transitions that can be sampled."""
        return len(self.ours)

    def reset(self) -> None:
        """Forget every transition."""
        self.ours.clear()
