"""Returns over n steps, drawn as plain transitions."""

from typing import Any

import torch
from torch import Tensor

from .replay import ReplayBuffer
from .transitions import Transitions


class NStep:
    """Transitions over up to n steps of a replay buffer's episodes; a `Source`.

    From a drawn row on, as many of the n next ones as its episode has: k + 1 in all. `reward` is
    r_0 + gamma r_1 + ... + gamma^k r_k, and what follows is what followed the last. A learner's
    target is r + gamma (1 - terminated) V', so `terminated` is 1 - gamma^k (1 - terminated_k): less
    than 1 where the value behind counts by gamma^(k + 1). Nothing corrects for the other policy
    that took the steps. Extra columns are the first row's. Raises ValueError for n below 1.
    """

    def __init__(self, buffer: ReplayBuffer, n: int, gamma: float) -> None:
        if n < 1:
            raise ValueError(f"n_step must be at least 1, got {n}")
        self.buffer, self.layout = buffer, buffer.layout
        self.n, self.gamma = n, gamma
        self._powers = gamma ** torch.arange(n, device=buffer.device)

    def sample(self, size: int) -> Transitions:
        """Draw `size` first rows uniformly with replacement, in fresh memory."""
        batch, mask = self.buffer.sample_windows(size, self.n)
        k = mask.sum(1) - 1  # of the last row that is one, -1 where a device drew none

        def last(x: Tensor) -> Tensor:
            at: Any = k.clamp(min=0).view(-1, *[1] * (x.dim() - 1))
            return x.take_along_dim(at, 1).squeeze(1)

        reward = (batch.reward * self._powers).sum(1)  # rows behind the end are 0
        go_on = self._powers[k.clamp(min=0)] * (1 - last(batch.terminated))
        return Transitions(
            batch.obs[:, 0],
            batch.action[:, 0],
            torch.where(k < 0, torch.nan, reward),
            last(batch.next_obs),
            1 - go_on,
            last(batch.truncated),
            {name: value[:, 0] for name, value in batch.extra.items()},
        )
