"""Dream steps per second: many dreams in a batch, beside the simulator and beside single ones."""

from collections.abc import Callable

import mujoco
import torch

from ...agents.acting import advance
from ...agents.dreams.config import DreamConfig, ModelConfig
from ...agents.dreams.env import DreamEnv
from ...agents.dreams.models import build
from ...agents.dreams.starts import initial
from ...buffers import Layout, ReplayBuffer
from ...envs import BatchEnv, make
from .report import OURS, BenchOptions, Peer, Report, Row, interleave, torch_threads, version

TASK, HORIZON = "reverie/CartPoleSwingUp-v0", 150
NATIVE, SINGLE = "simulator", "one dream"
PEERS = (NATIVE, SINGLE)
DREAMS = 1024
CASES = {
    "MLP 2x128, no masks": (ModelConfig(), DreamConfig(scope="none")),
    "MLP 2x128, a mask an episode": (ModelConfig(), DreamConfig(scope="episode")),
    "MLP 2x128, a mask a step": (ModelConfig(), DreamConfig(scope="step")),
    "GRU-64, a mask an episode": (ModelConfig(kind="gru", hidden=(64,)), DreamConfig()),
    "LSTM-256, a mask an episode": (ModelConfig(kind="lstm", hidden=(256,)), DreamConfig()),
}


def run(options: BenchOptions, dreams: int = DREAMS) -> Report:
    """Measure whole steps, observation to reset, of every kind of dream and of the simulator."""
    n, threads = options.num_envs, options.threads
    peers = (
        Peer(OURS, version("reverie"), f"{dreams:,} dreams in a batch, {threads} threads"),
        Peer(NATIVE, mujoco.__version__, f"{n} worlds of {TASK}, {threads} threads"),
        Peer(SINGLE, version("reverie"), f"the same dream, one at a time, {threads} threads"),
    )
    report = Report("dream", "steps/s", peers)
    data = random_rows(n, threads)
    with torch_threads(threads):
        for case, (model, settings) in CASES.items():
            who = contestants(data, model, settings, dreams, options)
            rates = interleave(who, options.repeats, options.seconds)
            report.rows.extend(Row(case, name, values) for name, values in rates.items())
    return report


def random_rows(num_envs: int, threads: int) -> ReplayBuffer:
    """Return a few episodes of random actions, for the units of a model and its starts."""
    env = make(TASK, num_envs, threads=threads, max_episode_steps=HORIZON)
    data = ReplayBuffer(Layout(env.obs_dim, env.act_dim), HORIZON * num_envs, num_envs)
    obs, draws = env.reset(), torch.Generator().manual_seed(0)
    for _ in range(HORIZON):
        action = 2 * torch.rand(num_envs, env.act_dim, generator=draws) - 1
        batch, valid, obs = advance(env, obs, action)
        data.add(batch, valid)
    env.close()
    return data


def contestants(
    data: ReplayBuffer, config: ModelConfig, dream: DreamConfig, dreams: int, options: BenchOptions
) -> dict[str, Callable[[], int]]:
    """Return what steps once and says how many steps that was, by name."""
    model = build(data.layout.obs_dim, data.layout.act_dim, config)
    model.scale(data.layout.unpack(data.rows()), HORIZON)
    starts = initial(data, model, min(dreams, 256))
    threads = options.threads
    native = make(TASK, options.num_envs, threads=threads, max_episode_steps=HORIZON)
    return {
        OURS: stepping(DreamEnv(model, starts, dreams, dream)),
        NATIVE: stepping(native),
        SINGLE: stepping(DreamEnv(model, starts, 1, dream)),
    }


def stepping(env: BatchEnv) -> Callable[[], int]:
    """Return a step of an environment under actions that were drawn before."""
    draws, at = torch.Generator().manual_seed(1), 0
    actions = list(2 * torch.rand(100, env.num_envs, env.act_dim, generator=draws) - 1)
    env.reset(0)

    def step() -> int:
        nonlocal at
        env.step(actions[at % len(actions)])
        at += 1
        return env.num_envs

    return step
