"""Worlds whose observations also tell their context."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from .api import BatchEnv, StepResult
from .contexts import Contexts
from .errors import unknown

MODES = ("hidden", "raw", "normalised")


class ContextShown:
    """A `BatchEnv` whose observations end with the d columns of each world's context.

    `raw`: the values as they are; `normalised`: from -1 to 1 over the table's range, 0 where a
    feature does not vary; those in `logs` by their logarithm.
    """

    def __init__(
        self, env: BatchEnv, contexts: Contexts, mode: str, logs: Collection[str] = ()
    ) -> None:
        table = torch.from_numpy(contexts.table.copy()).to(env.context)
        shown = env.context
        if mode == "normalised":
            logged = torch.tensor([name in logs for name in contexts.names], device=table.device)
            table, shown = (torch.where(logged, x.log(), x) for x in (table, shown))
            low, high = table.min(0).values, table.max(0).values
            span = torch.where(high > low, high - low, torch.ones_like(high))
            shown = torch.where(high > low, 2 * (shown - low) / span - 1, torch.zeros_like(shown))
        self.env, self.columns = env, shown
        self.num_envs, self.act_dim, self.device = env.num_envs, env.act_dim, env.device
        self.obs_dim = env.obs_dim + shown.shape[1]
        self.max_episode_steps, self.discrete = env.max_episode_steps, env.discrete
        self.restores, self.notes = env.restores, env.notes
        self.context_id, self.context, self.contexts = env.context_id, env.context, contexts
        self.physics: Any = getattr(env, "physics", None)  # for a dump
        self.worlds: Any = getattr(env, "worlds", None)  # for its bounds

    def _with(self, obs: Tensor) -> Tensor:
        return torch.cat([obs, self.columns.to(obs)], 1)

    def reset(self, seed: int | None = None) -> Tensor:
        """Start a new episode in every world."""
        return self._with(self.env.reset(seed))

    def step(self, action: Tensor) -> StepResult:
        """Advance every world by one environment step."""
        r = self.env.step(action)
        obs = self._with(r.obs)
        return r._replace(
            obs=obs, final_obs=obs if r.final_obs is r.obs else self._with(r.final_obs)
        )

    @property
    def active(self) -> Any:
        """Ids of the worlds to simulate; None is all."""
        return getattr(self.env, "active", None)

    @active.setter
    def active(self, ids: Any) -> None:
        self.env.active = ids  # type: ignore[attr-defined]

    def current_obs(self) -> Tensor:
        """Return the observations to act on next."""
        return self._with(self.env.current_obs())

    def health(self) -> dict[str, int]:
        """Return counts for the log."""
        return self.env.health()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs."""
        return self.env.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.env.load_state_dict(state)

    def close(self) -> None:
        """Release what the worlds hold."""
        self.env.close()


def show_context(env: BatchEnv, mode: str) -> BatchEnv:
    """Return the worlds as they are, or with their context in the observation."""
    if mode not in MODES:
        raise unknown("context_in_obs", mode, MODES)
    if mode == "hidden":
        return env
    contexts: Contexts | None = getattr(env, "contexts", None)
    if contexts is None:
        raise ValueError(f"context_in_obs={mode!r}: these worlds have no context; give context=")
    return ContextShown(env, contexts, mode)
