"""Environment steps per second: observation, reward, end, reset and replay write included."""

import sys
import time
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from ...agents.acting import advance
from ...buffers import Layout, ReplayBuffer, Transitions
from ...envs import make
from .report import (
    OURS,
    V5_TASKS,
    BenchOptions,
    Peer,
    Report,
    Row,
    interleave,
    quiet_stderr,
    torch_threads,
    version,
)

SYNC, ASYNC, ENVPOOL = "SyncVectorEnv", "AsyncVectorEnv", "EnvPool"
STEPS = 200  # rows of the replay ring, and actions before they repeat
WORLDS_PER_THREAD = 4  # of AsyncVectorEnv, which runs a process for each world


def run(options: BenchOptions) -> Report:
    """Measure every task: ours, gymnasium's two vector envs and EnvPool, in turns.

    All play the same actions and write the same columns to a `ReplayBuffer` of ours. Only true
    transitions count: the calls that peers spend on resets are neither counted nor sampled.
    """
    report = Report("env", "transitions/s", _peers(options))
    with torch_threads(1):
        for task in options.tasks or V5_TASKS:
            print(task, file=sys.stderr, flush=True)  # a bar's thread would disturb
            contestants = make_contestants(task, options)
            rates = interleave(contestants, options.repeats, options.seconds)
            report.rows.extend(Row(task, who, values) for who, values in rates.items())
            ours = contestants[OURS]
            report.shares[task] = engine_share(ours.env, ours, options.seconds)
            for contestant in contestants.values():
                contestant.env.close()
    return report


def _peers(options: BenchOptions) -> tuple[Peer, ...]:
    n, threads = options.num_envs, options.threads
    gym, pool = version("gymnasium"), version("envpool")
    own = f"{n} worlds, {threads} threads, float32, mujoco {mujoco.__version__}"
    sync = f"{n} worlds, 1 thread, make_vec's defaults (NEXT_STEP, float64)"
    processes = f"{WORLDS_PER_THREAD * threads} worlds, a process each (more are slower)"
    batch = f"{n} worlds, num_threads={threads}, env_type='gymnasium' (NEXT_STEP, float64)"
    return (
        Peer(OURS, version("reverie"), own),
        Peer(SYNC, gym, sync),
        Peer(ASYNC, gym, processes),
        Peer(ENVPOOL, pool, batch),
    )


def make_contestants(task: str, options: BenchOptions) -> dict[str, Any]:
    """Return name -> a callable that plays one vector step and returns its true transitions."""
    import gymnasium

    few = WORLDS_PER_THREAD * options.threads
    env = make(f"reverie/{task}", options.num_envs, threads=options.threads)
    actions = torch.rand(
        STEPS, max(env.num_envs, few), env.act_dim, generator=torch.Generator().manual_seed(0)
    )
    actions = 2 * actions - 1
    with quiet_stderr():
        sync = gymnasium.make_vec(task, env.num_envs, "sync")
        several = gymnasium.make_vec(task, few, "async")
    out: dict[str, Any] = {
        OURS: Ours(env, actions),
        SYNC: NextStep(sync, actions),
        ASYNC: NextStep(several, actions),
    }
    if version("envpool") is not None:
        import envpool

        pool = envpool.make(
            task,
            env_type="gymnasium",
            num_envs=env.num_envs,
            num_threads=options.threads,
            seed=0,
        )
        out[ENVPOOL] = NextStep(pool, actions)
    return out


def _buffer(obs_dim: int, act_dim: int, num_envs: int) -> ReplayBuffer:
    """Return a small ring whose pages have all been touched."""
    buffer = ReplayBuffer(Layout(obs_dim, act_dim), STEPS * num_envs, num_envs)
    lead = (STEPS, num_envs)
    flag = torch.zeros(lead)
    obs, action = torch.zeros(*lead, obs_dim), torch.zeros(*lead, act_dim)
    buffer.add(Transitions(obs, action, flag, obs, flag, flag))
    buffer.clear()
    return buffer


class Ours:
    """Our batched env and replay, as the training loop drives them."""

    def __init__(self, env: Any, actions: Tensor) -> None:
        self.env = env
        self.actions = list(actions[:, : env.num_envs])
        self.buffer = _buffer(env.obs_dim, env.act_dim, env.num_envs)
        self.obs = env.reset()
        self.at = 0

    def __call__(self) -> int:
        """Play one vector step; return the number of transitions stored."""
        batch, valid, self.obs = advance(self.env, self.obs, self.actions[self.at % STEPS])
        self.buffer.add(batch, valid)
        self.at += 1
        return int(np.count_nonzero(valid.numpy()))


class NextStep:
    """A vector env of gymnasium's interface whose finished worlds reset in their next call.

    What such a call returns for the world is no transition: it is written as an invalid slot of
    the replay ring and not counted.
    """

    def __init__(self, env: Any, actions: Tensor) -> None:
        self.env = env
        space = env.single_action_space
        self.num_envs, act_dim = int(env.num_envs), space.shape[0]
        actions = actions[:, : self.num_envs]
        middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
        self.actions = list(actions)
        self.native = list((actions.numpy() * half + middle).astype(space.dtype))
        obs = env.reset()[0]
        self.buffer = _buffer(obs.shape[1], act_dim, self.num_envs)
        self.obs = _float32(obs)
        self.ended = np.zeros(self.num_envs, bool)
        self.at = 0

    def __call__(self) -> int:
        """Play one vector step; return the number of transitions stored."""
        k = self.at % STEPS
        obs, reward, terminated, truncated, _ = self.env.step(self.native[k])
        next_obs = _float32(obs)
        batch = Transitions(
            self.obs,
            self.actions[k],
            _float32(reward),
            next_obs,
            _float32(terminated),
            _float32(truncated),
        )
        resets = int(np.count_nonzero(self.ended))
        self.buffer.add(batch, torch.from_numpy(~self.ended) if resets else None)
        self.obs = next_obs
        self.ended = terminated | truncated
        self.at += 1
        return self.num_envs - resets


def _float32(x: Any) -> Tensor:
    return torch.from_numpy(x.astype(np.float32))


def engine_share(env: Any, work: Callable[[], int], seconds: float) -> float:
    """Return the share of wall time that `work` spends inside the physics of its `env`."""
    inside = 0.0

    def clocked(function: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            nonlocal inside
            start = time.perf_counter()
            function(*args)
            inside += time.perf_counter() - start

        return call

    physics = env.physics
    physics.step, physics.reset = clocked(physics.step), clocked(physics.reset)
    try:
        start = time.perf_counter()
        while (total := time.perf_counter() - start) < seconds:
            work()
    finally:
        del physics.step, physics.reset  # the instance's, so that the class's show again
    return inside / total
