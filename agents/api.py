"""What acts and what learns."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ..buffers import Transitions

State = tuple[Tensor, ...]  # a policy's memory: [N, ...] tensors, () if it has none
Metrics = dict[str, Tensor]  # 0-d tensors on the learner's device; reading one is a sync


@runtime_checkable
class Policy(Protocol):
    """Acts on batches of observations; owns the generator of its exploration noise."""

    def initial_state(self, n: int) -> State:
        """Return the memory at the start of n episodes."""
        ...

    def act(self, obs: Tensor, state: State, *, explore: bool) -> tuple[Tensor, State]:
        """Return actions [N, A] in [-1, 1] for observations [N, O], and the next memory."""
        ...


@runtime_checkable
class Agent(Policy, Protocol):
    """A policy that learns from batches."""

    columns: tuple[str, ...]  # extra replay columns that `update` reads; checked before a run

    def update(self, batch: Transitions, **more: Transitions) -> Metrics:
        """Take one gradient step; draws all its noise from the agent's generator first."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        ...


def reset_where(ended: Tensor, state: State, initial: State) -> State:
    """Return the memory with the rows of ended episodes [N] replaced by initial ones."""
    return tuple(
        i.where(ended.view(-1, *[1] * (s.dim() - 1)), s)
        for s, i in zip(state, initial, strict=True)
    )
