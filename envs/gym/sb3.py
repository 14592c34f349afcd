"""Any `BatchEnv` as a Stable-Baselines3 `VecEnv`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3.common.vec_env import VecEnv

from ..api import Array, BatchEnv


class BatchVecEnv(VecEnv):  # type: ignore[misc]
    """N worlds for SB3's learners: float32 observations, actions in [-1, 1], its autoreset.

    `infos[i]["terminal_observation"]` is the true successor where an episode ended, and
    `infos[i]["TimeLimit.truncated"]` says that it was cut rather than terminated. Raises
    ValueError for discrete actions and for a row that is no transition, which a VecEnv cannot say.
    """

    def __init__(self, env: BatchEnv) -> None:
        if env.discrete:
            raise ValueError("discrete actions: give SB3 the gymnasium environment itself")
        if env.device.type != "cpu":
            raise ValueError(f"SB3 steps worlds on the CPU, these are on {env.device}")
        self.env = env
        space = Box(-np.inf, np.inf, (env.obs_dim,), np.float32)
        self.render_mode = None
        super().__init__(env.num_envs, space, Box(-1, 1, (env.act_dim,), np.float32))
        self._actions: Array = None

    def reset(self) -> Array:
        """Start a new episode in every world, from the first ones of the seed if one was set."""
        seed = self._seeds[0]
        self._reset_seeds()
        return self.env.reset(seed).numpy().copy()

    def step_async(self, actions: Array) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        """Step every world; finished ones have restarted."""
        r = self.env.step(torch.from_numpy(np.asarray(self._actions, np.float32)))
        done = (r.terminated | r.truncated).numpy()
        if not bool((r.valid | r.truncated).all()):
            raise ValueError(
                "the environment returned its reset as a step of its own (NEXT_STEP autoreset), "
                "which SB3 would learn from; make it as reverie.envs.gym.foreign.ForeignEnv("
                "gymnasium.make_vec(ID, num_envs, vectorization_mode='sync', vector_kwargs="
                "{'autoreset_mode': gymnasium.vector.AutoresetMode.SAME_STEP}))"
            )
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(done):
            infos[i]["terminal_observation"] = r.final_obs[i].numpy().copy()
            infos[i]["TimeLimit.truncated"] = bool(r.truncated[i] & ~r.terminated[i])
            if not r.valid[i]:
                infos[i]["bad_world"] = True
        return r.obs.numpy().copy(), r.reward.numpy().copy(), done, infos

    def close(self) -> None:
        """Close the worlds."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the batched environment, once for each world asked for."""
        if attr_name == "render_mode":
            value: Any = None
        else:
            value = getattr(self.env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the batched environment, for all worlds."""
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kw: Any) -> list[Any]:
        """Call a method of the batched environment once; return its result for each world."""
        value = getattr(self.env, method_name)(*args, **kw)
        return [value for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Worlds of a batch have no wrappers."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[Array | None]:
        """No pictures through this door; see `reverie watch`."""
        return [None] * self.num_envs
