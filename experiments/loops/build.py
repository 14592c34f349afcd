"""Worlds and buffers from a configuration."""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ...agents.playing import SEED_STRIDE, cap_of
from ...agents.seeding import stream_seed
from ...buffers import Layout, ReplayBuffer
from ...envs import BatchEnv, make
from ...envs.check import without_end
from ...envs.contexts import Contexts, parse_contexts
from ..runs.resources import check_device, require_memory, use_threads

log = logging.getLogger("reverie")


def worlds_for(
    config: Any, env: BatchEnv | None = None, judge: BatchEnv | None = None
) -> tuple[BatchEnv, BatchEnv]:
    """Return the worlds to learn in and those to be judged in; finished ones are taken as given."""
    c = config
    check_device(c.run.device)
    threads = use_threads(c.run.threads)
    kwargs = {**c.env_options, "threads": threads, "context": parse_contexts(c.context)}
    if env is None:
        env = make(c.env, c.num_envs, seed=c.seed * SEED_STRIDE, **kwargs)
        tell_if_endless(c.env, env, lambda: make(c.env, 1, **kwargs))
    return env, judge or make(c.env, c.run.eval_episodes, **kwargs)


def streams_of(name: str, worlds: int, contexts: Contexts | None) -> list[int]:
    """Return which start states each of a member's worlds follows: those of a run of it alone.

    Raises ValueError where its worlds, `name` of them, are no multiple of the contexts.
    """
    d = 1 if contexts is None else len(contexts)
    if worlds % d:
        raise ValueError(
            f"{name}={worlds} worlds for each member, and {d} contexts: a population takes a "
            f"multiple of {d}"
        )
    return [i // d for i in range(worlds)]


def tell_if_endless(env_id: str, env: BatchEnv, one: Callable[[], BatchEnv]) -> None:
    """Warn where an environment has no limit and no episode of `one()`'s ends in a short check."""
    if env.max_episode_steps is not None:
        return
    with suppress(Exception):  # what fails here fails in training, where it is dumped
        probe = one()
        played = without_end(probe, 1000, seconds=0.5)
        if played:
            log.warning(
                "%s has no time limit, and no episode ended within %s steps of random actions: "
                "training may never see another start, and evaluations are cut at %s steps; "
                "--max-episode-steps gives it a limit",
                env_id,
                f"{played:,}",
                f"{cap_of(probe):,}",
            )
        probe.close()


def layout_of(env: BatchEnv, context: bool = False) -> Layout:
    """Return the layout of these worlds' rows, with the columns of their context if asked for.

    Raises ValueError where the columns are asked for and the worlds have no context.
    """
    if not context:
        return Layout(env.obs_dim, env.act_dim)
    features = env.context.shape[1]
    if not features:
        raise ValueError(
            "--context-columns: these worlds have no context to tell; give --context gravity=4.9"
        )
    return Layout(env.obs_dim, env.act_dim, {"context_id": 1, "context": features})


def context_values(env: BatchEnv, layout: Layout) -> Mapping[str, Tensor]:
    """Return what each world's rows hold in the layout's columns of a context, [N] or [N, d].

    `context_id` is the row of `Contexts`' table that a world plays, `context` its values.
    """
    names = [name for name in ("context_id", "context") if name in layout.extra]
    return {n: getattr(env, n).float().view(env.num_envs, -1).squeeze(1) for n in names}


def replay_for(config: Any, env: BatchEnv) -> ReplayBuffer:
    """Return the replay buffer between these worlds and a continuous learner."""
    c = config
    if env.discrete:
        raise ValueError(
            f"{c.env} has discrete actions, which SAC and TD3 do not take; use a continuous "
            "environment (`reverie list envs`)"
        )
    if env.device.type != "cpu" and env.device.type != torch.device(c.run.device).type:
        raise ValueError(
            f"the environments are on {env.device}, the learner on {c.run.device}: every step "
            "would come back to the host; give --device cuda"
        )
    capacity = c.buffer_size - c.buffer_size % env.num_envs
    layout = layout_of(env, getattr(c, "context_columns", False))
    seed = stream_seed(c.seed, "replay")
    require_memory(capacity, ReplayBuffer.row_bytes(layout), "buffer_size", c.run.device)
    return ReplayBuffer(layout, capacity, env.num_envs, device=c.run.device, seed=seed)
