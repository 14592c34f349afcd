"""Environment steps per second on a GPU, replay write included, beside Warp alone and the CPU."""

import gc
import time
from typing import Any

import mujoco
import torch

from ...agents.acting import advance
from ...buffers import Layout, ReplayBuffer
from ...envs import BatchEnv, WarpSettings, make
from ..runs.resources import check_device
from .measure import wait
from .report import OURS, BenchOptions, Peer, Report, Row, interleave, torch_threads, version

BARE, NATIVE = "bare MuJoCo Warp", "native engine"
TASKS = ("HalfCheetah-v5", "Ant-v5", "Humanoid-v5", "Swim-v0")
RING, BURST = 64, 20  # steps that the replay holds; steps between two waits for the device


def run(options: BenchOptions) -> Report:
    """Measure every task with every number of worlds: ours, Warp alone, the native engine.

    Warp alone advances the same model by as many substeps, recorded in a graph, and does nothing
    else: no task, no resets, no forces after the constraints. The native engine is our own batched
    environment on this machine's CPU with `threads` threads and a host buffer.
    """
    check_device(options.device)
    report = Report("gpu", "env steps/s", _peers(options))
    with torch_threads(options.threads):
        for task in options.tasks or TASKS:
            for worlds in options.worlds:
                case = f"{task} x {worlds}"
                ours, cost = _measured(task, worlds, options.device)
                native = Ours(make(f"reverie/{task}", worlds, threads=options.threads), "cpu")
                contestants: dict[str, Any] = {OURS: ours, BARE: Bare(ours.env), NATIVE: native}
                rates = interleave(contestants, options.repeats, options.seconds)
                report.rows.extend(Row(case, who, values) for who, values in rates.items())
                report.costs[case] = cost
                del ours, native, contestants
                _release(options.device)
    return report


def _peers(options: BenchOptions) -> tuple[Peer, ...]:
    env: Any = make("reverie/HalfCheetah-v5", 1, backend="warp", device=options.device)
    alone = "the model's substeps in one recorded graph, nothing else"
    cpu = f"{options.threads} threads, float32, mujoco {mujoco.__version__}, host buffer"
    return (
        Peer(OURS, version("reverie"), f"{env.notes['engine']}, buffer on {options.device}"),
        Peer(BARE, version("mujoco-warp"), alone),
        Peer(NATIVE, version("reverie"), cpu),
    )


def _measured(task: str, worlds: int, device: str) -> tuple["Ours", dict[str, float]]:
    """Return our contestant, and what it took: seconds until it runs, MiB of the device."""
    free = _free(device)
    start = time.perf_counter()
    env = make(f"reverie/{task}", worlds, backend="warp", device=device, warp=WarpSettings())
    made = time.perf_counter() - start
    ours = Ours(env, device, burst=2)
    start = time.perf_counter()
    ours()  # the first step loads the kernels, the second records the graphs
    warmed = time.perf_counter() - start
    ours.burst = BURST
    graphs = (env.physics._step, env.physics._reset, env._judge, env._settle)  # type: ignore[attr-defined]
    return ours, {
        "make_s": made,
        "first_two_steps_s": warmed,
        "capture_s": sum(g.seconds for g in graphs),
        "memory_mib": (free - _free(device)) / 2**20,
    }


def _free(device: str) -> int:
    if torch.device(device).type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    return torch.cuda.mem_get_info(device)[0]


def _release(device: str) -> None:
    """Free what a case held, so that the next one's memory is its own."""
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

        wp: Any = warp

        physics, self.burst = env.physics, burst or BURST
        self.device, self.worlds = str(env.device), int(env.num_envs)
        model, data = physics.m, physics.fresh_data()
        wp.to_torch(data.qpos).copy_(physics.fields.qpos)
        wp.to_torch(data.ctrl).uniform_(-1, 1)
        with wp.ScopedDevice(self.device):
            mjw.step(model, data)
        wp.synchronize_device(self.device)
        from ...envs.warp.graph import no_garbage

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
