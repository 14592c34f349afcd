"""Acting in worlds: a step becomes transitions, an episode a return."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ..buffers import Transitions
from ..buffers.transitions import NO_EXTRA
from ..envs import BatchEnv


def advance(
    env: BatchEnv, obs: Tensor, action: Tensor, extra: Mapping[str, Tensor] = NO_EXTRA
) -> tuple[Transitions, Tensor, Tensor]:
    """Step the worlds once; return the transitions [N], their validity [N], the next obs [N, O].

    The one place that turns steps into (obs, next_obs): the successor is the true one, also
    where an episode ended and the returned observation begins the next. `extra`: further columns.
    """
    r = env.step(action)
    flags = r.terminated.float(), r.truncated.float()
    return Transitions(obs, action, r.reward, r.final_obs, *flags, extra), r.valid, r.obs


def over(batch: Transitions, valid: Tensor) -> Tensor:
    """Return the mask [N] of worlds whose next observation begins an episode, or may.

    An invalid row counts: a foreign env's reset row comes after the end, and the policy's memory
    must begin with what follows it.
    """
    return batch.ended | ~valid


class Returns:
    """Undiscounted return and length of each world's running episode, in float64."""

    def __init__(self, num_envs: int) -> None:
        self.sums, self.lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)

    def add(self, batch: Transitions, valid: Tensor) -> list[tuple[int, float, int]]:
        """Count one vector step; return (world, return, length) of the episodes that ended."""
        self.sums += batch.reward.cpu().numpy()
        self.lengths += valid.cpu().numpy()
        return self.take(batch.ended.cpu().numpy())

    def take(self, ended: np.ndarray[Any, Any]) -> list[tuple[int, float, int]]:
        """Return (world, return, length) of these worlds [N], and begin their next episodes."""
        if not ended.any():
            return []
        done = [(int(i), float(self.sums[i]), int(self.lengths[i])) for i in np.flatnonzero(ended)]
        self.sums[ended], self.lengths[ended] = 0.0, 0
        return done

    def state_dict(self) -> dict[str, Any]:
        """Return the running sums."""
        return {"sums": self.sums.copy(), "lengths": self.lengths.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.sums, self.lengths = np.array(state["sums"]), np.array(state["lengths"])
