"""Simulation: batched environments on MuJoCo, and gymnasium's through an adapter.

Importing this package registers the tasks with gymnasium as `reverie/<id>`.
"""

from .api import BatchEnv, StepResult
from .make import known_ids, make, register_all, register_task
from .task import Task

register_all()

__all__ = [
    "BatchEnv",
    "StepResult",
    "Task",
    "known_ids",
    "make",
    "register_task",
]
