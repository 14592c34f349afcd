"""Where dreams begin: observations of the data, with the memory that led to them."""

from typing import NamedTuple

import torch
from torch import Tensor

from ...buffers import ReplayBuffer
from ..api import State
from .api import WorldModel


class Starts(NamedTuple):
    """A pool of M starts, from which every episode of a dream draws one."""

    obs: Tensor  # [M, O]
    state: State  # the model's memory there, [M, ...]


def initial(data: ReplayBuffer, model: WorldModel, n: int) -> Starts:
    """Draw n starts from those of the stored episodes, with an empty memory."""
    return Starts(data.initial_obs(n), model.initial_state(n))


def anywhere(data: ReplayBuffer, model: WorldModel, n: int, burn_in: int = 8) -> Starts:
    """Draw n starts from all rows; the memory is that of up to `burn_in` steps before each."""
    if not model.initial_state(1):
        return Starts(data.sample(n).obs, ())
    batch, mask = data.sample_windows(n, 1, burn_in)
    before = slice(0, burn_in)
    state = remembered(model, batch.obs[:, before], batch.action[:, before], mask[:, before])
    return Starts(batch.obs[:, burn_in].clone(), state)


def remembered(model: WorldModel, obs: Tensor, action: Tensor, mask: Tensor) -> State:
    """Return the memory after the steps obs, action [B, L, ...] where mask [B, L], unmasked."""
    state = model.initial_state(len(obs))
    for t in range(obs.shape[1]):
        there = mask[:, t, None]
        after = model.predict(obs[:, t], action[:, t], state, (), None).state
        state = tuple(torch.where(there, new, old) for new, old in zip(after, state, strict=True))
    return state
