"""How good is a policy? Fixed episodes, fixed start states, its own worlds."""

from typing import Any, NamedTuple

import numpy as np

from ..agents import Policy, reset_where
from ..envs import BatchEnv
from .rollout import Returns, advance, over


class Evaluation(NamedTuple):
    """Returns and lengths [N, E] of E episodes in each of N worlds."""

    returns: np.ndarray[Any, np.dtype[np.float64]]
    lengths: np.ndarray[Any, np.dtype[np.int64]]

    @property
    def mean(self) -> float:
        """Mean return over all episodes."""
        return float(self.returns.mean())

    def row(self) -> dict[str, float]:
        """Return what to log."""
        spread, length = float(self.returns.std()), float(self.lengths.mean())
        return {"return": self.mean, "std": spread, "length": length}


def evaluate(
    policy: Policy, env: BatchEnv, *, episodes: int = 1, seed: int = 0, explore: bool = False
) -> Evaluation:
    """Play a fixed number of episodes in every world, from the start states of `seed`.

    Every world counts its first `episodes` ones: taking the first to finish anywhere would
    favour short episodes. A bad world's episode counts with its return so far.
    """
    returns = np.full((env.num_envs, episodes), np.nan)
    lengths = np.zeros((env.num_envs, episodes), np.int64)
    played = np.zeros(env.num_envs, np.int64)
    running = Returns(env.num_envs)
    obs = env.reset(seed)
    state = initial = policy.initial_state(env.num_envs)
    while (played < episodes).any():
        action, state = policy.act(obs, state, explore=explore)
        batch, valid, obs = advance(env, obs, action.to(env.device))
        for world, total, length in running.add(batch, valid):
            if played[world] < episodes:
                returns[world, played[world]], lengths[world, played[world]] = total, length
            played[world] += 1
        state = reset_where(over(batch, valid), state, initial)
    return Evaluation(returns, lengths)
