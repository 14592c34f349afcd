"""A controller on what a recurrent model remembers, in the real environment."""

import torch
from torch import Tensor

from ..api import Policy, State
from .api import WorldModel


class Featured:
    """Acts on [obs ; h] with h from a world model that is told every step, without dropout.

    The h that it acts on at t has heard of (obs, action) up to t - 1, as in a dream and as in the
    fit (the authors' CarRacing wrapper was a step late: methods sheet, A9). Its memory is the
    model's; the policy itself has none.
    """

    def __init__(self, policy: Policy, model: WorldModel) -> None:
        self.policy, self.model = policy, model
        if not model.initial_state(1):
            raise ValueError("the model has no memory: its policy acts on observations as they are")

    def initial_state(self, n: int) -> State:
        """Return the model's memory at the start of n episodes."""
        return self.model.initial_state(n)

    def act(self, obs: Tensor, state: State = (), *, explore: bool = False) -> tuple[Tensor, State]:
        """Return actions [N, A], and the model's memory of this step."""
        memory = state or self.initial_state(len(obs))
        action, _ = self.policy.act(torch.cat([obs, memory[0]], 1), (), explore=explore)
        return action, self.model.predict(obs, action, memory, (), None).state
