"""Rivals of a replay: other ways in which pi, cloning mu, is kept from forgetting."""

from collections.abc import Callable
from typing import Any, Literal, Protocol

from torch import Tensor
from torch.optim import Optimizer

from .cuber import CUBER
from .exssnet import ExSSNeT
from .lwf import LwF
from .packnet import PackNet
from .policy import ContinualPolicy
from .rewc import REWC
from .rwalk import RWalk

Penalty = Literal[
    "none", "ewc", "si", "agem", "gem", "lwf", "packnet", "exssnet", "r-ewc", "cuber", "r-walk"
]


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

    def meet(self, obs: Tensor, action: Tensor) -> None:
        """Look at the begun task's data, z-scores [B, O] and actions [B, A], before any step."""

    def step(self, optimizer: Optimizer, loss: Tensor, obs: Tensor) -> None:
        """Take pi's step for its cloning loss at z-scores [B, O]."""

    def end(self, obs: Tensor) -> None:
        """End the task, with z-scores [B, O] of its data: before what `retrains` asks for."""

    def row(self) -> dict[str, float]:
        """Return what to log of the task that ended."""

    def state_dict(self) -> dict[str, Any]:
        """What a continuation inside a task needs beside the policy."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""


RIVALS: dict[str, Callable[[ContinualPolicy, float, int], Rival]] = {
    "lwf": LwF,
    "packnet": PackNet,
    "exssnet": ExSSNeT,
    "r-ewc": REWC,
    "cuber": CUBER,
    "r-walk": RWalk,
}


def refuse(penalty: str, mu_init: str) -> None:
    """Raise ValueError where mu cannot begin as a rival's pi."""
    if penalty == "exssnet" and mu_init == "pi":
        raise ValueError(
            "penalty='exssnet' with mu_init='pi': pi has no mask yet where mu would begin from it: "
            "set agent.mu_init to previous, fresh or first"
        )


def rival_of(
    penalty: str, mu_init: str, policy: ContinualPolicy, weight: float, seed: int
) -> Rival | None:
    """Return the rival of a name, None where it is none of them."""
    refuse(penalty, mu_init)
    make = RIVALS.get(penalty)
    return None if make is None else make(policy, weight, seed)
