"""What is kept of a task: rows that a policy clones later."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...buffers import Source, Transitions
from ...buffers.source import state_of
from ..seeding import generator


class Kept:
    """Observations [K, O] of a task with their labels [K, A] as actions; a `Source`.

    Nothing else is kept: the other columns of a batch are NaN, so that a learner that reads one
    is stopped at once.
    """

    def __init__(self, obs: Tensor, label: Tensor, seed: int) -> None:
        self.obs, self.label = obs.clone(), label.clone()
        self.generator = generator(seed, "memory")  # apart from all other draws

    @classmethod
    def empty(cls) -> "Kept":
        """Return one to load a state into."""
        return cls(torch.empty(0, 0), torch.empty(0, 0), 0)

    def __len__(self) -> int:
        return len(self.obs)

    def sample(self, n: int) -> Transitions:
        """Return n rows drawn with replacement."""
        rows = torch.randint(len(self), (n,), generator=self.generator)
        none = torch.full((n,), torch.nan)
        obs = self.obs[rows]
        return Transitions(obs, self.label[rows], none, torch.full_like(obs, torch.nan), none, none)

    def state_dict(self) -> dict[str, Any]:
        """Rows, labels and the generator."""
        return {"obs": self.obs, "label": self.label, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.obs, self.label = state["obs"], state["label"]
        self.generator.set_state(state["generator"])


def size_of(source: Source) -> int:
    """Return the bytes of numbers that a source keeps: the floats of its state."""
    return _floats(state_of(source))


def _floats(state: Any) -> int:
    if isinstance(state, Tensor):
        return state.numel() * state.element_size() if state.is_floating_point() else 0
    if isinstance(state, Mapping):
        return sum(_floats(x) for x in state.values())
    return sum(_floats(x) for x in state) if isinstance(state, list | tuple) else 0
