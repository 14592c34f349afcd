"""Simulation: batched environments on MuJoCo, and gymnasium's through an adapter.

Importing this package registers the tasks with gymnasium as `reverie/<id>`.
"""

from typing import Any

from .api import BatchEnv, StepResult
from .contexts import Contexts
from .make import known_ids, make, register_all, register_task
from .task import Task
from .warp import WarpSettings

register_all()


def to_sb3(env: BatchEnv) -> Any:
    """Return the environment as a Stable-Baselines3 `VecEnv`."""
    from .gym.sb3 import BatchVecEnv

    return BatchVecEnv(env)


__all__ = [
    "BatchEnv",
    "Contexts",
    "StepResult",
    "Task",
    "WarpSettings",
    "known_ids",
    "make",
    "register_task",
    "to_sb3",
]
