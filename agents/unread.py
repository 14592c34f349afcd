"""Returns of episodes where their worlds are: nothing is read until a log row asks."""

from typing import Any

import torch
from torch import Tensor

from ..buffers import Transitions


class UnreadReturns:
    """What `Returns` counts, as float64 sums on the worlds' device."""

    def __init__(self, num_envs: int, device: torch.device) -> None:
        zeros = torch.zeros(2, 3, num_envs, dtype=torch.float64, device=device)
        self.running, self.ended = zeros  # episodes (1 each), returns, lengths: [3, N] each
        self.running[0] = 1.0

    def add(self, batch: Transitions, valid: Tensor) -> list[tuple[int, float, int]]:
        """Count one vector step; return no episode: those that ended wait for `read`."""
        self.running[1] += batch.reward
        self.running[2] += valid
        ended = batch.ended
        self.ended += torch.where(ended, self.running, 0.0)
        self.running[1:].masked_fill_(ended, 0.0)
        return []

    def read(self) -> Tensor:
        """Return number, sum of returns and of lengths [3, N] of the episodes since the last call.

        Waits for the device.
        """
        ended: Tensor = self.ended.cpu().clone()
        self.ended.zero_()
        return ended

    def state_dict(self) -> dict[str, Any]:
        """Return the sums."""
        return {"running": self.running.clone(), "ended": self.ended.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.running.copy_(state["running"])
        self.ended.copy_(state["ended"])
