"""Environment steps per second of a row: one policy, all contexts, in one batch of worlds."""

import warnings
from typing import Any

import mujoco
import numpy as np
import torch

from ...agents.actors import ActorPolicy
from ...agents.mbtl.library import play_row
from ...agents.networks import GaussianActor
from ...envs import make
from ...envs.contexts import parse_contexts
from .report import OURS, BenchOptions, Peer, Report, Row, interleave, torch_threads, version

PLAIN, LOOP = "without contexts", "SB3 evaluate_policy, looped"
CASES = {  # task: its contexts, and the steps of an episode
    "CartPoleSwingUp-v0": (("length=log:0.3:3:20",), 50),
    "Hopper-v5": (("gravity=log:4:20:20",), 50),
}
EPISODES = 10  # of each context


def run(options: BenchOptions) -> Report:
    """Measure a row against our own batch without contexts, and SB3's evaluation of each context.

    All play one network; the loop has an environment of gymnasium's interface for each context, as
    a user of Stable-Baselines3 would evaluate. Steps are those of the episodes that count.
    """
    n = 20 * EPISODES
    own = f"{n} worlds, {options.threads} threads, mujoco {mujoco.__version__}, 32 wide actor"
    peers = (
        Peer(OURS, version("reverie"), f"{own}, 20 contexts"),
        Peer(PLAIN, version("reverie"), f"{own}, our batch, one model"),
        Peer(LOOP, version("stable-baselines3"), f"{EPISODES} episodes of each context, one world"),
    )
    report = Report("matrix", "env steps/s", peers)
    with torch_threads(1):
        for task in options.tasks or tuple(CASES):
            context, limit = CASES[task]
            contestants: dict[str, Any] = {
                OURS: Ours(task, context, limit, options.threads),
                PLAIN: Ours(task, (), limit, options.threads),
                LOOP: Looped(task, context, limit),
            }
            rates = interleave(contestants, options.repeats, options.seconds)
            report.rows.extend(Row(task, who, values) for who, values in rates.items())
    return report


def actor(obs_dim: int, act_dim: int) -> ActorPolicy:
    """Return the policy that all play: an untrained actor, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ActorPolicy(GaussianActor(obs_dim, act_dim, (32, 32)), None)


class Ours:
    """A row of a matrix, or as many worlds of the task itself."""

    def __init__(self, task: str, context: tuple[str, ...], limit: int, threads: int) -> None:
        grid = parse_contexts(context)
        options: dict[str, Any] = {"max_episode_steps": limit, "threads": threads}
        self.env = make(f"reverie/{task}", 20 * EPISODES, context=grid, **options)
        self.n = 1 if grid is None else len(grid)
        self.policy = actor(self.env.obs_dim, self.env.act_dim)

    def __call__(self) -> int:
        """Play a row; return its environment steps."""
        return play_row(self.policy, self.env, self.n, seed=1).steps


class Looped:
    """Stable-Baselines3's `evaluate_policy` on one context after the other."""

    def __init__(self, task: str, context: tuple[str, ...], limit: int) -> None:
        import gymnasium

        grid = parse_contexts(context)
        assert grid is not None
        rows = [dict(zip(grid.names, row.tolist(), strict=True)) for row in grid.table]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.envs = [
                gymnasium.make(
                    f"reverie/{task}",
                    max_episode_steps=limit,
                    context={name: [value] for name, value in row.items()},
                )
                for row in rows
            ]
        space = self.envs[0].observation_space.shape
        assert space is not None
        self.policy = actor(space[0], int(np.prod(self.envs[0].action_space.shape or (1,))))
        self.at = 0

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: Any = 1
    ) -> tuple[Any, Any]:
        """Return actions as Stable-Baselines3 asks a model for them."""
        action, _ = self.policy.act(torch.as_tensor(observation, dtype=torch.float32))
        return action.numpy(), state

    def __call__(self) -> int:
        """Evaluate the next context; return its environment steps."""
        from stable_baselines3.common.evaluation import evaluate_policy

        env = self.envs[self.at % len(self.envs)]
        self.at += 1
        model: Any = self
        _, lengths = evaluate_policy(model, env, EPISODES, return_episode_rewards=True, warn=False)
        return int(sum(lengths))  # type: ignore[arg-type]
