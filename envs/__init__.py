"""Simulation: batched environments on MuJoCo, and gymnasium's through an adapter.

Importing this package registers the tasks with gymnasium as `reverie/<id>`.
"""

from typing import Any

from .api import BatchEnv, StepResult
from .contexts import Contexts
from .make import actions_of, known_ids, make, register_all, register_task
from .spaces import Actions, Spaces, spaces_of
from .task import Task
from .warp import WarpSettings

register_all()


def describe(observation: Any, action: Any) -> Spaces:
    """Return how observations of these gymnasium spaces become rows, and rows actions."""
    from .gym.foreign import describe as of_gymnasium

    return of_gymnasium(observation, action)


def to_sb3(env: BatchEnv) -> Any:
    """Return the environment as a Stable-Baselines3 `VecEnv`."""
    from .gym.sb3 import BatchVecEnv

    return BatchVecEnv(env)


__all__ = [
    "Actions",
    "BatchEnv",
    "Contexts",
    "Spaces",
    "StepResult",
    "Task",
    "WarpSettings",
    "actions_of",
    "describe",
    "known_ids",
    "make",
    "register_task",
    "spaces_of",
    "to_sb3",
]
