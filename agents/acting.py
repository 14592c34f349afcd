"""Acting in worlds: steps become transitions, episodes returns, and a policy is judged."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..buffers import Transitions, concatenate
from ..envs import BatchEnv
from .api import Policy, reset_where

# Environment seeds of runs s and s + 1 are far apart: world i of seed s is world 0 of s + i.
SEED_STRIDE = 1_000_003
EVAL_SEED = 987_654_321  # start states of every evaluation


def advance(env: BatchEnv, obs: Tensor, action: Tensor) -> tuple[Transitions, Tensor, Tensor]:
    """Step the worlds once; return the transitions [N], their validity [N], the next obs [N, O].

    The one place that turns steps into (obs, next_obs): the successor is the true one, also
    where an episode ended and the returned observation begins the next.
    """
    r = env.step(action)
    transitions = Transitions(
        obs, action, r.reward, r.final_obs, r.terminated.float(), r.truncated.float()
    )
    return transitions, r.valid, r.obs


def over(batch: Transitions, valid: Tensor) -> Tensor:
    """Return the mask [N] of worlds whose next observation begins an episode, or may.

    An invalid row counts: a foreign env's reset row comes after the end, and the policy's memory
    must begin with what follows it.
    """
    return ((batch.terminated + batch.truncated) > 0) | ~valid


def collect(env: BatchEnv, policy: Policy, n: int, *, explore: bool = True) -> Transitions:
    """Play `policy` from a reset until n valid transitions are there; return those n, step by step.

    Rows are in the order of time, worlds side by side; `extra["world"]` tells them apart.
    """
    obs = env.reset()
    state = initial = policy.initial_state(env.num_envs)
    steps: list[Transitions] = []
    got = 0
    while got < n:
        action, state = policy.act(obs, state, explore=explore)
        batch, valid, obs = advance(env, obs, action.to(env.device))
        state = reset_where(over(batch, valid), state, initial)
        world = {"world": torch.arange(env.num_envs, device=env.device).float()}
        steps.append(batch._replace(extra=world).map(lambda x, keep=valid: x[keep]))  # type: ignore[misc]
        got += len(steps[-1].reward)
    return concatenate(steps).map(lambda x: x[:n])


class Returns:
    """Undiscounted return and length of each world's running episode, in float64."""

    def __init__(self, num_envs: int) -> None:
        self.sums, self.lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)

    def add(self, batch: Transitions, valid: Tensor) -> list[tuple[int, float, int]]:
        """Count one vector step; return (world, return, length) of the episodes that ended."""
        self.sums += batch.reward.cpu().numpy()
        self.lengths += valid.cpu().numpy()
        ended = ((batch.terminated + batch.truncated) > 0).cpu().numpy()
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
