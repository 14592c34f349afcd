"""Stage 2: environment steps per second, replay write included, beside Warp alone and the CPU.

Warp alone advances the same model by as many substeps, recorded in a graph, and does nothing else:
no task, no resets, no forces after the constraints. The native engine is our own batched
environment on this machine's CPU, with a host buffer.
"""

import gc
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from ...agents.acting import advance
from ...buffers import Layout, ReplayBuffer
from ...envs import BatchEnv, WarpSettings, make
from .measure import Case, Measure, Toy, rate, wait
from .report import BenchOptions

TASKS = ("HalfCheetah-v5", "Ant-v5", "Humanoid-v5", "Swim-v0")
WORLDS = (4096, 1024, 16384, 64, 1)  # in the order of what they are worth
RING, BURST = 64, 20  # steps that the replay holds; steps between two waits for the device


def sizes(toy: Toy | None) -> WarpSettings:
    """Return the engine's settings: a toy is not probed for its sizes."""
    return WarpSettings(njmax=64, nconmax=32) if toy else WarpSettings()


def cases(toy: Toy | None, options: BenchOptions) -> list[Case]:
    """Return every task with every number of worlds, the middle first."""
    tasks = toy.tasks if toy else (options.tasks or TASKS)
    counts = (toy.worlds,) if toy else (options.worlds or WORLDS)
    pairs = [(task, n) for n in counts for task in tasks]
    return [(f"{task} x {n}", partial(_rates, task, n, toy, options)) for task, n in pairs]


def _rates(task: str, worlds: int, toy: Toy | None, options: BenchOptions) -> Iterator[Measure]:
    device, seconds = ("cpu", toy.seconds) if toy else (options.device, options.seconds)
    case, unit = f"{task} x {worlds}", "env steps/s"
    _release(device)
    free, start = _free(device), time.perf_counter()
    env: Any = make(f"reverie/{task}", worlds, backend="warp", device=device, warp=sizes(toy))
    yield Measure(case, "made", time.perf_counter() - start, "s")
    burst = 2 if toy else None
    work, start = Ours(env, device, 2), time.perf_counter()
    work()  # the first step loads the kernels, the second records the graphs
    yield Measure(case, "first two steps", time.perf_counter() - start, "s")
    graphs = (env.physics._step, env.physics._reset, env._judge, env._settle)
    yield Measure(case, "recorded", sum(g.seconds for g in graphs), "s")
    yield Measure(case, "memory", (free - _free(device)) / 2**20, "MiB")
    work.burst = burst or BURST
    ours = rate(work, device, seconds)
    yield Measure(case, "ours, replay write included", ours, unit)
    bare = rate(Bare(env, burst), device, seconds)
    yield Measure(case, "bare MuJoCo Warp", bare, unit)
    yield Measure(case, "ours over bare", ours / bare, "x")
    native = make(f"reverie/{task}", worlds, threads=options.threads)
    cpu = rate(Ours(native, "cpu", burst or 2), "cpu", seconds)
    yield Measure(case, f"native engine, {options.threads} threads", cpu, unit)


def _free(device: str) -> int:
    if torch.device(device).type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    return torch.cuda.mem_get_info(device)[0]


def _release(device: str) -> None:
    """Free what the case before held, so that the memory of this one is its own."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


class Ours:
    """Our batched env and replay, as the training loop drives them, on one device."""

    def __init__(self, env: BatchEnv, device: str, burst: int | None = None) -> None:
        self.env, self.device, self.burst = env, device, burst or BURST
        shape = (RING, env.num_envs, env.act_dim)
        generator = torch.Generator().manual_seed(0)
        self.actions = (2 * torch.rand(shape, generator=generator) - 1).to(device)
        layout = Layout(env.obs_dim, env.act_dim)
        self.buffer = ReplayBuffer(layout, RING * env.num_envs, env.num_envs, device=device)
        self.obs = env.reset()
        self.at = 0

    def __call__(self) -> int:
        """Play some vector steps, then wait for the device; return the transitions."""
        for _ in range(self.burst):
            batch, valid, self.obs = advance(self.env, self.obs, self.actions[self.at % RING])
            self.buffer.add(batch, valid)
            self.at += 1
        wait(self.device)
        return self.burst * self.env.num_envs


class Bare:
    """The same Warp model, sizes and substeps without an environment around them."""

    def __init__(self, env: Any, burst: int | None = None) -> None:
        import mujoco_warp as mjw
        import warp

        from ...envs.warp.graph import no_garbage

        wp: Any = warp

        physics, self.burst = env.physics, burst or BURST
        self.device, self.worlds = str(env.device), int(env.num_envs)
        model, data = physics.m, physics.fresh_data()
        wp.to_torch(data.qpos).copy_(physics.fields.qpos)
        wp.to_torch(data.ctrl).uniform_(-1, 1)
        with wp.ScopedDevice(self.device):
            mjw.step(model, data)
        wp.synchronize_device(self.device)
        with (
            no_garbage(),
            wp.ScopedDevice(self.device),
            wp.ScopedCapture(device=self.device) as capture,
        ):
            for _ in range(physics.substeps):
                mjw.step(model, data)
        self.graph, self.data, self.wp = capture.graph, data, wp

    def __call__(self) -> int:
        """Advance by as many vector steps as ours; return the worlds' environment steps."""
        for _ in range(self.burst):
            with self.wp.ScopedDevice(self.device):
                self.wp.capture_launch(self.graph)
        self.wp.synchronize_device(self.device)
        return self.burst * self.worlds
