"""What acts and what learns."""

from collections.abc import Mapping
from numbers import Real
from typing import Any, Literal, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

import torch
from torch import Tensor

from ..buffers import Transitions

State = tuple[Tensor, ...]  # a policy's memory: [N, ...] tensors, () if it has none
Bounds = Mapping[str, tuple[float, float]]  # of a learner's settings: what `within` takes
Metrics = dict[str, Tensor]  # 0-d tensors on the learner's device; reading one is a sync


@runtime_checkable
class Policy(Protocol):
    """Acts on batches of observations; owns the generator of its exploration noise."""

    def initial_state(self, n: int) -> State:
        """Return the memory at the start of n episodes."""
        ...

    def act(self, obs: Tensor, state: State = (), *, explore: bool = False) -> tuple[Tensor, State]:
        """Return actions [N, A] in [-1, 1] for observations [N, O], and the next memory.

        One without memory needs the observations only: `action, _ = policy.act(obs)`.
        """
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


class Holds(Protocol):
    """What holds a policy and is none: a loaded one, which takes observations of any kind."""

    policy: Policy


def bare(policy: Policy | Holds) -> Policy:
    """Return what acts on rows: the policy, or the one that is held."""
    return policy if isinstance(policy, Policy) else policy.policy


def reset_where(ended: Tensor, state: State, initial: State) -> State:
    """Return the memory with the rows of ended episodes [N] replaced by initial ones."""
    return tuple(
        i.where(ended.view(-1, *[1] * (s.dim() - 1)), s)
        for s, i in zip(state, initial, strict=True)
    )


def no_memory(policy: object, n: int) -> State:
    """Return (): the `initial_state` of a policy without memory."""
    return ()


def within(config: Any, **bounds: tuple[float, float]) -> None:
    """Raise ValueError unless each named setting lies within its bounds, ends included.

    A list lies within them if each of its numbers does; None passes where it is the default. Where
    a setting is one of some words (`Literal`) it must be one of them.
    """
    for name, kind in get_type_hints(type(config)).items():
        value, choices = getattr(config, name), get_args(kind)
        if get_origin(kind) is Literal and value not in choices:
            raise ValueError(
                f"{type(config).__name__}: {name} must be one of {choices}, got {value!r}"
            )
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if value is None and getattr(type(config), name, 0) is None:
            continue
        for number in value if isinstance(value, tuple | list) else (value,):
            real = isinstance(number, Real) and not isinstance(number, bool)
            if not (real and low <= number <= high):
                kind = type(config).__name__
                raise ValueError(f"{kind}: {name} must be in [{low}, {high}], got {value!r}")


class RandomPolicy:
    """Uniform actions in [-1, 1]; one-hot ones for a discrete space."""

    def __init__(
        self,
        act_dim: int,
        *,
        discrete: bool = False,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        self.act_dim, self.discrete, self.device = act_dim, discrete, device
        self.generator = torch.Generator(device).manual_seed(seed)

    initial_state = no_memory

    def act(self, obs: Tensor, state: State = (), *, explore: bool = False) -> tuple[Tensor, State]:
        """Return actions [N, A], whatever the observation."""
        size = len(obs), self.act_dim
        draw = torch.rand(size, generator=self.generator, device=self.device)
        if self.discrete:
            return torch.nn.functional.one_hot(draw.argmax(1), self.act_dim).float(), state
        return 2 * draw - 1, state
