"""The contract between simulation and everything that learns from it."""

import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

Array = Any  # numpy on the native engine, torch on a GPU engine: the Array-API subset of both


class StepResult(NamedTuple):
    """What one step of N worlds returned; fresh tensors that are never written again."""

    obs: Tensor  # [N, O] what to act on next: after a reset where an episode ended
    reward: Tensor  # [N] float32
    terminated: Tensor  # [N] bool: the task ended, do not bootstrap
    truncated: Tensor  # [N] bool: a time limit or a bad world cut the episode, bootstrap
    final_obs: Tensor  # [N, O] the true successor, equal to obs where no episode ended
    valid: Tensor  # [N] bool: False is no transition (a bad world, a foreign env's reset row)


@runtime_checkable
class BatchEnv(Protocol):
    """N worlds of one task, stepped together; episodes restart by themselves.

    Actions are in [-1, 1]. Worlds differ only in their random stream and their context.
    """

    num_envs: int
    obs_dim: int
    act_dim: int
    device: torch.device
    max_episode_steps: int | None
    discrete: bool  # actions are one-hot columns of a Discrete space
    restores: bool  # load_state_dict continues bit for bit; if not, a resumed run resets
    notes: dict[str, str]  # what a run's stamp should say of the engine
    context_id: Tensor  # [N] int64
    context: Tensor  # [N, d] float32

    def reset(self, seed: int | None = None) -> Tensor:
        """Start a new episode in every world, from the seed's first one if a seed is given."""
        ...

    def step(self, action: Tensor) -> StepResult:
        """Advance every world by one environment step."""
        ...

    def current_obs(self) -> Tensor:
        """Return the observations to act on next, without stepping."""
        ...

    def health(self) -> dict[str, int]:
        """Return counts for the log: bad worlds so far, and what else the engine noticed."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs, current observations included."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        ...

    def close(self) -> None:
        """Release what the worlds hold."""
        ...


class NotFiniteError(FloatingPointError, ValueError):
    """An action, an observation or a reward is NaN or infinite."""


def check_action(action: Tensor, num_envs: int, act_dim: int) -> "np.ndarray[Any, Any]":
    """Return the action as a numpy array, or say what is wrong with it."""
    if action.shape != (num_envs, act_dim):
        raise ValueError(
            f"action has shape {tuple(action.shape)}, expected ({num_envs}, {act_dim}): one row "
            f"for each of the {num_envs} worlds"
        )
    values: np.ndarray[Any, Any] = (action.detach() if action.requires_grad else action).numpy()
    # One sum is the cheapest test for all; sums of actions in [-1, 1] cannot overflow.
    if not math.isfinite(np.add.reduce(values, axis=None)):
        world = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[:1].sum())
        raise NotFiniteError(
            f"action of world {world} is not finite: {values[world].tolist()}. A diverged policy "
            "is the usual cause: look at its losses."
        )
    return values
