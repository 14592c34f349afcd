"""Rivals of a replay: other ways in which pi, cloning mu, is kept from forgetting."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer

from .lwf import LwF
from .packnet import PackNet
from .policy import ContinualPolicy


class Rival(Protocol):
    """Takes pi's steps in mu's cloning, in each task from `begin` to `end`."""

    from_scratch: bool
    """pi clones mu in the first task too, from weights of its own; else it becomes mu there"""
    retrains: bool
    """after `end` pi clones on for `clone_finish` steps"""

    @property
    def numbers(self) -> float:
        """Numbers (of 4 bytes) kept between tasks, beside the policy."""

    def begin(self, task: int) -> None:
        """Start a task."""

    def step(self, optimizer: Optimizer, loss: Tensor, obs: Tensor) -> None:
        """Take pi's step for its cloning loss at z-scores [B, O]."""

    def end(self) -> None:
        """End the task: before what `retrains` asks for."""

    def state_dict(self) -> dict[str, Any]:
        """What a continuation inside a task needs beside the policy."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""


RIVALS: dict[str, Callable[[ContinualPolicy, float], Rival]] = {"lwf": LwF, "packnet": PackNet}
