"""Playing whole episodes: to collect what happens, and to judge a policy by fixed ones."""

import functools
import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from ..buffers import Transitions, concatenate
from ..envs import BatchEnv
from .acting import Returns, advance, over
from .api import Holds, Policy, bare, reset_where

# Environment seeds of runs s and s + 1 are far apart: world i of seed s is world 0 of s + i.
SEED_STRIDE = 1_000_003
EVAL_SEED = 987_654_321  # start states of every evaluation
LIMIT = 1000  # steps: the usual time limit, where an environment has none
log = logging.getLogger("reverie")


class Stopped(Exception):
    """Somebody asked to stop, and what was being played is not whole."""


def never() -> bool:
    """Return False: go on."""
    return False


def cap_of(env: BatchEnv) -> int:
    """Return the steps after which an evaluation cuts an episode: ten times the time limit."""
    return 10 * (env.max_episode_steps or LIMIT)


@functools.cache  # a run evaluates often: told once
def _tell_cut(cap: int) -> None:
    log.warning(
        "an evaluation cut episodes that had not ended after %s steps, and counts what they had; "
        "--max-episode-steps gives the environment a limit",
        f"{cap:,}",
    )


def collect(env: BatchEnv, policy: Policy | Holds, n: int, *, explore: bool = True) -> Transitions:
    """Play `policy` from a reset until n valid transitions are there; return those n, step by step.

    Rows are in the order of time, worlds side by side; `extra["world"]` tells them apart.
    """
    policy, obs = bare(policy), env.reset()
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


class Evaluation(NamedTuple):
    """Returns and lengths [N, E] of E episodes in each of N worlds."""

    returns: np.ndarray[Any, np.dtype[np.float64]]
    lengths: np.ndarray[Any, np.dtype[np.int64]]
    extra: Mapping[str, float] = MappingProxyType({})  # what else there is to say of it
    cut: int = 0  # episodes that had not ended, and count with what they had

    @property
    def mean(self) -> float:
        """Mean return over all episodes."""
        return float(self.returns.mean())

    def row(self) -> dict[str, float]:
        """Return what to log."""
        spread, length = float(self.returns.std()), float(self.lengths.mean())
        cut = {"cut": self.cut} if self.cut else {}
        return {"return": self.mean, "std": spread, "length": length, **cut, **self.extra}


def evaluate(
    policy: Policy | Holds,
    env: BatchEnv,
    *,
    episodes: int = 1,
    seed: int = 0,
    explore: bool = False,
    stop: Callable[[], bool] = never,
) -> Evaluation:
    """Play a fixed number of episodes in every world, from the start states of `seed`.

    Every world counts its first `episodes` ones: taking the first to finish anywhere would
    favour short episodes. A bad world's episode counts with its return so far, and so does one
    that is `cap_of(env)` steps long, whose world then plays on: a warning, and `cut` counts them.
    A world that has played them is not simulated further, where the engine can leave it out, so
    that the lengths are the steps that it cost. `stop` is asked before every step: Stopped, if so.
    """
    returns = np.full((env.num_envs, episodes), np.nan)
    lengths = np.zeros((env.num_envs, episodes), np.int64)
    played = np.zeros(env.num_envs, np.int64)
    running, cap, cut = Returns(env.num_envs), cap_of(env), 0
    policy, obs = bare(policy), env.reset(seed)
    state = initial = policy.initial_state(env.num_envs)
    try:
        while (played < episodes).any():
            if stop():
                raise Stopped("an evaluation was told to stop")
            action, state = policy.act(obs, state, explore=explore)
            batch, valid, obs = advance(env, obs, action.to(env.device))
            ended = running.add(batch, valid)
            whole = len(ended)
            ended += running.take(running.lengths >= cap)
            for i, (world, total, length) in enumerate(ended):
                if played[world] < episodes:
                    returns[world, played[world]], lengths[world, played[world]] = total, length
                    cut += i >= whole
                played[world] += 1
            if ended and hasattr(env, "active"):
                env.active = np.flatnonzero(played < episodes)
            state = reset_where(over(batch, valid), state, initial)
    finally:
        if hasattr(env, "active"):  # whoever steps it next has all worlds
            env.active = None
    if cut:
        _tell_cut(cap)
    return Evaluation(returns, lengths, cut=cut)
