"""Policies that learn nothing."""

import torch
from torch import Tensor

from .api import State


class RandomPolicy:
    """Uniform actions in [-1, 1]; one-hot ones for a discrete space."""

    def __init__(self, act_dim: int, *, discrete: bool = False, seed: int = 0) -> None:
        self.act_dim, self.discrete = act_dim, discrete
        self.generator = torch.Generator().manual_seed(seed)

    def initial_state(self, n: int) -> State:
        """Return (): no memory."""
        return ()

    def act(self, obs: Tensor, state: State, *, explore: bool) -> tuple[Tensor, State]:
        """Return actions [N, A], whatever the observation."""
        draw = torch.rand(len(obs), self.act_dim, generator=self.generator)
        if self.discrete:
            return torch.nn.functional.one_hot(draw.argmax(1), self.act_dim).float(), state
        return 2 * draw - 1, state
