"""Stage 1: is it right on the GPU? Worlds and learners against the CPU, graphs, no waiting."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...envs import make
from .gpu_learner import AGENTS, Many, _agent, _rows
from .gpu_worlds import sizes
from .measure import Case, Measure, Toy, wait
from .report import BenchOptions

TASKS = ("HalfCheetah-v5", "Ant-v5")


def cases(toy: Toy | None, options: BenchOptions) -> list[Case]:
    """Return compilation and parity of two tasks, no waiting, learners, graphs."""
    device = "cpu" if toy else options.device
    out: list[Case] = []

    def add(name: str, measures: Callable[..., Iterator[Measure]], *more: Any) -> None:
        out.append((name, partial(measures, name, *more, toy, device)))

    for task in toy.tasks if toy else TASKS:
        add(task, _task, task)
    for name in AGENTS:
        add(f"{name} reads nothing", _no_waiting, name)
        add(f"{name} as on the CPU", _as_on_cpu, name)
        add(f"{name} graphs", _graphs, name)
    return out


def _task(case: str, task: str, toy: Toy | None, device: str) -> Iterator[Measure]:
    """One environment step from states on the way of random actions, by both engines."""
    worlds, warm = (toy.worlds, 5) if toy else (256, 60)
    start = time.monotonic()
    env = make(f"reverie/{task}", worlds, backend="warp", device=device, warp=sizes(toy))
    native = make(f"reverie/{task}", worlds, threads=1)
    yield Measure(case, "made", time.monotonic() - start, "s")
    g = torch.Generator().manual_seed(0)
    actions = 2 * torch.rand(warm + 1, worlds, env.act_dim, generator=g) - 1
    start = time.monotonic()
    for action in actions[:3]:  # loads the kernels, records the graphs, replays them
        env.step(action.to(env.device))
    wait(device)
    yield Measure(case, "first three steps", time.monotonic() - start, "s")
    native.reset()
    for action in actions[:-1]:
        native.step(action)
    env.load_state_dict(native.state_dict())
    ours, theirs = env.step(actions[-1].to(env.device)), native.step(actions[-1])
    for what, a, b in (
        ("observation", ours.final_obs.cpu(), theirs.final_obs),
        ("reward", ours.reward.cpu()[:, None], theirs.reward[:, None]),
    ):
        gap = (a - b).abs().max(1).values
        yield Measure(case, f"{what}: median gap", float(gap.median()), "")
        yield Measure(case, f"{what}: 95 % of gaps below", float(gap.quantile(0.95)), "")
    for name, number in env.health().items():
        yield Measure(case, name, number, "worlds")


@contextmanager
def refusing(device: str) -> Iterator[None]:
    """Let torch raise where the host would wait for a GPU."""
    if torch.device(device).type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _no_waiting(case: str, name: str, toy: Toy | None, device: str) -> Iterator[Measure]:
    """Whole training steps of many worlds, graphs recorded before, under torch's own watch."""
    work = Many(name, toy, device)
    for _ in range(4):
        work()
    wait(device)
    steps = 2 if toy else 40  # the coming starts of episodes are drawn at every sixteenth
    with refusing(device):
        for _ in range(steps):
            work()
    yield Measure(case, "vector steps without a wait", steps, "")


def _moved(x: Any, device: str) -> Any:
    """Return an update's draws on a device."""
    if isinstance(x, Tensor):
        return x.to(device)
    if isinstance(x, tuple):
        parts = [_moved(part, device) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x


def _as_on_cpu(case: str, name: str, toy: Toy | None, device: str) -> Iterator[Measure]:
    """Updates of the same weights on the same rows and draws."""
    here, there = (_agent(name, toy, d, "eager") for d in ("cpu", device))
    rows = _rows(6, toy.batch if toy else 256, "cpu")
    gap = 0.0
    for i in range(6):
        batch = rows.map(lambda x, i=i: x[i])  # type: ignore[misc]
        noise = here.draw(len(batch.reward))
        a = here._update(batch, noise)
        b = there._update(batch.map(lambda x: x.to(device)), _moved(noise, device))
        gap = max(gap, *(float((a[k] - b[k].cpu()).abs() / (1 + a[k].abs())) for k in a))
    yield Measure(case, "largest relative gap of a metric", gap, "")


def _graphs(case: str, name: str, toy: Toy | None, device: str) -> Iterator[Measure]:
    """Six calls of four updates, eager and recorded, from the same seed."""
    eager, graphs = (_agent(name, toy, device, how) for how in ("eager", "graphs"))
    rows = _rows(6 * 4, toy.batch if toy else 256, device)
    for i in range(6):
        batch = rows.map(lambda x, i=i: x[4 * i : 4 * i + 4])  # type: ignore[misc]
        told = [agent.update(batch) for agent in (eager, graphs)]
    gap = max(float((told[0][k] - told[1][k]).abs() / (1 + told[0][k].abs())) for k in told[0])
    yield Measure(case, "largest relative gap to eager of a metric", gap, "")
    state = [a.generator.get_state() for a in (eager, graphs)]
    yield Measure(case, "generators stand alike", float(torch.equal(*state)), "")
