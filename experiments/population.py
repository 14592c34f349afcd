"""Many candidates in one batch of worlds: what a black-box search is told."""

import torch
from torch import Tensor

from ..agents.ncap import Controller
from ..envs import BatchEnv


@torch.no_grad()
def population_returns(
    env: BatchEnv, controller: Controller, parameters: Tensor, seed: int
) -> Tensor:
    """Return the returns [P, E] of candidates [P, D] over one episode in each of P x E worlds.

    World c E + e plays candidate c; give the worlds of one e the same stream of start states.
    A world that ends early, or goes bad, keeps what it has.
    """
    candidates = len(parameters)
    episodes, rest = divmod(env.num_envs, candidates)
    if rest:
        raise ValueError(f"{env.num_envs} worlds cannot be shared by {candidates} candidates")
    if env.max_episode_steps is None:
        raise ValueError("the environment has no time limit: returns would have no end")
    bound = controller.bind(parameters[:, None])
    obs = env.reset(seed).view(candidates, episodes, -1)
    total = torch.zeros(env.num_envs)
    alive = torch.ones(env.num_envs, dtype=torch.bool)
    for _ in range(env.max_episode_steps):
        action = controller.act(bound, obs)
        r = env.step(action.view(env.num_envs, -1))
        total += r.reward * alive
        alive &= ~(r.terminated | r.truncated)
        obs = r.obs.view(candidates, episodes, -1)
    return total.view(candidates, episodes)
