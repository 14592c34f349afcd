"""Worlds and buffers from a configuration."""

from typing import Any

import torch

from ...agents.acting import SEED_STRIDE
from ...agents.seeding import stream_seed
from ...buffers import Layout, ReplayBuffer
from ...envs import BatchEnv, make
from ...envs.contexts import parse_contexts


def make_pair(config: Any, threads: int) -> tuple[BatchEnv, BatchEnv]:
    """Return the worlds to learn in and those to be judged in."""
    context = parse_contexts(config.context)
    kwargs = {**config.env_options, "threads": threads, "context": context}
    env = make(config.env, config.num_envs, seed=config.seed * SEED_STRIDE, **kwargs)
    return env, make(config.env, config.run.eval_episodes, **kwargs)


def make_worlds(config: Any, threads: int) -> tuple[BatchEnv, BatchEnv, ReplayBuffer]:
    """Return the worlds to learn in, those to be judged in, and the buffer between."""
    env, judge = make_pair(config, threads)
    if env.discrete:
        raise ValueError(
            f"{config.env} has discrete actions, which SAC and TD3 do not take; use a continuous "
            "environment (`reverie list envs`)"
        )
    if env.device.type != "cpu" and env.device.type != torch.device(config.run.device).type:
        raise ValueError(
            f"the environments are on {env.device}, the learner on {config.run.device}: every step "
            "would come back to the host; give --device cuda"
        )
    capacity = config.buffer_size - config.buffer_size % config.num_envs
    layout = Layout(env.obs_dim, env.act_dim)
    replay = stream_seed(config.seed, "replay")
    device = config.run.device
    buffer = ReplayBuffer(layout, capacity, config.num_envs, device=device, seed=replay)
    return env, judge, buffer
