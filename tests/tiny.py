"""A short run of every method script: a new script is covered by all suites by its entry here."""

import dataclasses

from reverie.agents.sb3 import PPOConfig
from reverie.experiments import ppo, sac, td3
from reverie.experiments.config import RunOptions


def run_options(out, name):
    return RunOptions(
        out=str(out), name=name, threads=1, log_every=60, eval_every=150, eval_episodes=2,
        checkpoint_every=60, tensorboard=False, progress=False,
    )  # fmt: skip


def off_policy(module, out, name):
    """Warm-up, many saves, evaluations, three worlds and a ring that wraps twice."""
    agent = type(module.Config().agent)(hidden=(24, 24))
    return module.Config(
        env="reverie/Reacher-v5", steps=660, num_envs=3, learning_starts=90, batch_size=16,
        utd=0.5, buffer_size=240, agent=agent, run=run_options(out, name),
    )  # fmt: skip


def on_policy(module, out, name):
    """Rollouts of 30 transitions, so that saves come at the same steps."""
    agent = PPOConfig(n_steps=10, batch_size=15, n_epochs=2, hidden=(24, 24))
    return module.Config(
        env="reverie/Reacher-v5", steps=660, num_envs=3, agent=agent, run=run_options(out, name)
    )


METHODS = {"sac": (sac, off_policy), "td3": (td3, off_policy), "ppo": (ppo, on_policy)}


def module_of(method):
    return METHODS[method][0]


def config(method, out, name, **changes):
    module, build = METHODS[method]
    return dataclasses.replace(build(module, out, name), **changes)
