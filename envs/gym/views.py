"""Reverie's tasks as gymnasium sees them: one `Env`, or a `VectorEnv` in any autoreset mode."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.utils import EzPickle
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from ..api import Array
from ..contexts import Contexts
from ..native.env import TaskEnv
from ..tasks import TASKS


def _spaces(env: TaskEnv) -> tuple[Box, Box]:
    obs = Box(-np.inf, np.inf, (env.obs_dim,), np.float64)
    return obs, Box(env.low.astype(np.float32), env.high.astype(np.float32), dtype=np.float32)


def _bad_info(info: dict[str, Any], bad: Array) -> dict[str, Any]:
    return {**info, "bad_world": bad.copy()} if bad.any() else info


class SingleEnv(gymnasium.Env[Array, Array], EzPickle):  # type: ignore[misc]
    """One world of a task as a `gymnasium.Env`: float64, native action units, numpy only.

    The time limit is gymnasium's own TimeLimit wrapper, which `gymnasium.make` adds. `options`
    are the task's, e.g. `forward_reward_weight`; `rng="gymnasium"` gives gymnasium's resets.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        task: str,
        *,
        rng: str = "counter",
        render_mode: str | None = None,
        context: Contexts | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        EzPickle.__init__(self, task, rng=rng, render_mode=render_mode, context=context, **options)
        self.env = TaskEnv(
            TASKS[task],
            1,
            rng=rng,
            dtype=torch.float64,
            threads=1,
            context=context,
            options=options,
        )
        self.observation_space, self.action_space = _spaces(self.env)
        self.metadata = {**self.metadata, "render_fps": round(self.env.fps)}
        self.render_mode = render_mode
        self._renderer: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; a seed restarts the stream of episodes."""
        super().reset(seed=seed)
        starts = self.env.starts
        if seed is not None or self._np_random is None:
            _ = self.np_random  # seeds itself from entropy when no seed was ever given
            starts.reseed(int(self.np_random_seed))
        if hasattr(starts, "use"):
            starts.use([self.np_random])
        obs = self.env.restart(None)[0]
        self.env.terms = {}
        return obs, {k: v[0] for k, v in self.env.info().items()}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Step the world; a bad world is truncated and says so in its info."""
        action = np.asarray(action)
        if action.shape != (self.env.act_dim,):
            raise ValueError(f"action has shape {action.shape}, expected ({self.env.act_dim},)")
        obs, reward, terminated, truncated, bad = self.env.advance(action[None])
        info = {k: v[0] for k, v in _bad_info(self.env.info(), bad).items()}
        return obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> Array | None:
        """Return the world as an RGB image [H, W, 3], uint8."""
        if self.render_mode is None:
            return None
        if self._renderer is None:
            from ..native.render import WorldRenderer

            self._renderer = WorldRenderer(self.env, 480, 480)
        return self._renderer.frame(0)

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


class VectorView(gymnasium.vector.VectorEnv[Array, Array, Array]):  # type: ignore[misc]
    """N worlds of a task as a `gymnasium.vector.VectorEnv`: float64, native action units.

    `autoreset_mode` is gymnasium's: SAME_STEP (default; the true successor in
    `infos["final_obs"]`), NEXT_STEP or DISABLED.
    """

    def __init__(
        self,
        task: str,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        rng: str = "counter",
        threads: int | None = None,
        render_mode: str | None = None,
        context: Contexts | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.env = TaskEnv(
            TASKS[task],
            num_envs,
            rng=rng,
            dtype=torch.float64,
            threads=threads,
            max_episode_steps=max_episode_steps,
            context=context,
            options=options,
        )
        self.num_envs = num_envs
        self.mode = AutoresetMode(autoreset_mode)
        self.metadata = {
            "render_modes": ["rgb_array"],
            "render_fps": round(self.env.fps),
            "autoreset_mode": self.mode,
        }
        self.render_mode = render_mode
        self.single_observation_space, self.single_action_space = _spaces(self.env)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._ended = np.zeros(num_envs, bool)
        self._last: Array = None
        self._seeded = False
        self._renderer: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Begin an episode in every world, or in those of `options["reset_mask"]`."""
        mask = None if options is None else options.get("reset_mask")
        if mask is not None:
            mask = np.asarray(mask)
            if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
                raise ValueError(
                    f"options['reset_mask'] must be a bool array of shape ({self.num_envs},) with "
                    f"a True in it, got {mask!r}"
                )
            ids = np.flatnonzero(mask)
            obs = self._last.copy()
            obs[ids] = self.env.restart(ids)
            self._ended[ids] = False
        else:
            if seed is None and not self._seeded:
                seed = int(np.random.SeedSequence().generate_state(1)[0])
            if seed is not None:
                if not isinstance(seed, (int, np.integer)):
                    raise ValueError(f"seed must be one int (world i gets seed + i), got {seed!r}")
                self.env.starts.reseed(int(seed))
                self._seeded = True
            obs = self.env.restart(None)
            self._ended[:] = False
        self._last = obs
        self.env.terms = {}
        return obs.copy(), self._infos(np.ones(self.num_envs, bool) if mask is None else mask)

    def _infos(self, mask: Array) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        for key, value in self.env.info().items():
            infos[key], infos["_" + key] = value, mask.copy()
        return infos

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Step every world and reset the finished ones as the autoreset mode says."""
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs, self.env.act_dim):
            raise ValueError(
                f"actions have shape {actions.shape}, expected {self.action_space.shape}"
            )
        if self.mode is AutoresetMode.DISABLED and self._ended.any():
            raise RuntimeError(
                f"worlds {np.flatnonzero(self._ended).tolist()} have ended and autoreset is "
                "disabled: call reset(options={'reset_mask': terminated | truncated}) first"
            )
        restarted = self._ended if self.mode is AutoresetMode.NEXT_STEP else None
        if restarted is not None and not restarted.any():
            restarted = None
        obs, reward, terminated, truncated, bad = self.env.advance(actions)
        infos = _bad_info(self._infos(np.ones(self.num_envs, bool)), bad)
        if restarted is not None:
            # The worlds that ended a step ago ignore this action: they show their first
            # observation. They are stepped with the rest and then restarted.
            ids = np.flatnonzero(restarted)
            obs[ids] = self.env.restart(ids)
            reward = np.where(restarted, 0.0, reward)
            terminated, truncated = terminated & ~restarted, truncated & ~restarted
            for key in self.env.terms:
                infos["_" + key] = ~restarted
        self._ended = terminated | truncated
        if self.mode is AutoresetMode.SAME_STEP and self._ended.any():
            obs = self._restart_same_step(obs, infos)
        self._last = obs
        return obs.copy(), reward, terminated.copy(), truncated.copy(), infos

    def _restart_same_step(self, obs: Array, infos: dict[str, Any]) -> Array:
        ids = np.flatnonzero(self._ended)
        final = np.full(self.num_envs, None, dtype=object)
        for i in ids:
            final[i] = obs[i].copy()
        final_info = {}
        for key in [k for k in infos if not k.startswith("_")]:
            final_info[key], final_info["_" + key] = infos[key], self._ended.copy()
        infos["final_obs"], infos["_final_obs"] = final, self._ended.copy()
        infos["final_info"], infos["_final_info"] = final_info, self._ended.copy()
        out = obs.copy()
        out[ids] = self.env.restart(ids)
        return out

    def render(self) -> Any:
        """Return an RGB image [H, W, 3] of every world."""
        if self.render_mode is None:
            return None
        if self._renderer is None:
            from ..native.render import WorldRenderer

            self._renderer = WorldRenderer(self.env, 240, 240)
        return tuple(self._renderer.frame(i) for i in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
