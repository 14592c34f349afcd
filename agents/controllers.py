"""Controllers that a search can try many of at once: [P candidates, E episodes] in one batch.

Each has `size` parameters, `initial()` ones, `bind(parameters [P, 1, D])` once for an episode and
`act(bound, obs [P, E, O])` for every step.
"""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .api import State

Array = Any  # a torch tensor (learners, policies) or a numpy array (populations): same code


class Controller(Protocol):
    """Maps parameters and observations to actions in [-1, 1], batched over both."""

    size: int

    def initial(self, generator: torch.Generator | None = None) -> Tensor:
        """Return parameters [D] to start from."""
        ...

    def bind(self, parameters: Tensor) -> Any:
        """Prepare parameters [..., D] for `act`: a tuple of tensors."""
        ...

    def act(self, bound: Any, obs: Array) -> Array:
        """Return actions [..., N] for observations [..., O], all tensors or all numpy arrays."""
        ...


def to_numpy(bound: Any) -> Any:
    """Return what `bind` gave with numpy arrays for tensors: a batch of small arrays is faster."""
    if isinstance(bound, Tensor):
        return bound.numpy()
    if hasattr(bound, "numpy"):
        return bound.numpy()
    return tuple(to_numpy(x) for x in bound)


class ControllerPolicy:
    """A controller with its parameters [D] as a `Policy`: deterministic, without memory."""

    def __init__(self, controller: Controller, parameters: Tensor) -> None:
        self.controller, self.parameters = controller, parameters
        self._bound = controller.bind(parameters)

    def __reduce__(self) -> tuple[Any, ...]:
        """Send the parameters alone: what they are bound to may hold them several times."""
        return ControllerPolicy, (self.controller, self.parameters)

    def initial_state(self, n: int) -> State:
        """Return (): the clock is in the observation."""
        return ()

    @torch.no_grad()
    def act(self, obs: Tensor, state: State = (), *, explore: bool = False) -> tuple[Tensor, State]:
        """Return the controller's actions; exploring is the search's business."""
        return self.controller.act(self._bound, obs), state


def namespace(x: Array) -> Any:
    """Return torch or numpy, whichever has the functions for x."""
    return torch if isinstance(x, Tensor) else np
