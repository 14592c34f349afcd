"""Many candidates in one batch of worlds: what a black-box search is told."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..envs import BatchEnv
from .controllers import Controller, to_numpy
from .playing import Stopped, never


def population_returns(
    env: BatchEnv,
    controller: Controller,
    parameters: Tensor,
    seed: int,
    stop: Callable[[], bool] = never,
) -> Tensor:
    """Return the returns [P, E] of candidates [P, D] over one episode in each of P x E worlds.

    World c E + e plays candidate c; give the worlds of one e the same stream of start states.
    A world counts until its episode ends; one that goes bad keeps what it has. Raises Stopped where
    `stop`, asked before every step, says so.
    """
    candidates = len(parameters)
    episodes, rest = divmod(env.num_envs, candidates)
    if rest:
        raise ValueError(f"{env.num_envs} worlds cannot be shared by {candidates} candidates")
    if env.max_episode_steps is None:
        raise ValueError("the environment has no time limit: returns would have no end")
    bound = to_numpy(controller.bind(parameters[:, None]))
    env.reset(seed)
    play = Play(env, controller, bound, (candidates, episodes))
    for _ in range(env.max_episode_steps):
        if stop():
            raise Stopped("a generation was told to stop")
        play.step()
        if not play.alive.any():
            break
    return torch.from_numpy(play.total.astype(np.float32)).view(candidates, episodes)


class Play:
    """All candidates' episodes, step by step; they act in numpy: small arrays are cheaper there."""

    def __init__(
        self, env: BatchEnv, controller: Controller, bound: object, shape: tuple[int, int]
    ) -> None:
        self.env, self.controller, self.bound, self.shape = env, controller, bound, (*shape, -1)
        self.obs = env.current_obs().cpu().numpy()
        self.total = np.zeros(env.num_envs)
        self.alive = np.ones(env.num_envs, bool)  # worlds in their first episode

    def step(self) -> None:
        """Act, step, and count the rewards of the worlds that are alive; others play on unheard."""
        env = self.env
        action = self.controller.act(self.bound, self.obs.reshape(self.shape))
        action = action.reshape(env.num_envs, env.act_dim).astype(np.float32)
        r = env.step(torch.from_numpy(action).to(env.device))
        self.obs = r.obs.cpu().numpy()
        self.alive &= r.valid.cpu().numpy()
        self.total[self.alive] += r.reward.cpu().numpy()[self.alive]
        self.alive &= ~(r.terminated | r.truncated).cpu().numpy()
