"""Stage 2: environment steps per second, replay write included, beside Warp alone and the CPU."""

from collections.abc import Iterator
from functools import partial

from ...envs import WarpSettings, make
from .gpu import TASKS, Bare, Ours, _release
from .measure import Case, Measure, Toy, rate
from .report import BenchOptions

WORLDS = (4096, 1024, 16384, 64, 1)  # in the order of what they are worth


def sizes(toy: Toy | None) -> WarpSettings:
    """Return the engine's settings: a toy is not probed for its sizes."""
    return WarpSettings(njmax=64, nconmax=32) if toy else WarpSettings()


def cases(toy: Toy | None, options: BenchOptions) -> list[Case]:
    """Return every task with every number of worlds, the middle first."""
    tasks = toy.tasks if toy else (options.tasks or TASKS)
    counts = (toy.worlds,) if toy else WORLDS
    pairs = [(task, n) for n in counts for task in tasks]
    return [(f"{task} x {n}", partial(_rates, task, n, toy, options)) for task, n in pairs]


def _rates(task: str, worlds: int, toy: Toy | None, options: BenchOptions) -> Iterator[Measure]:
    device, seconds = ("cpu", toy.seconds) if toy else (options.device, options.seconds)
    case, unit = f"{task} x {worlds}", "env steps/s"
    env = make(f"reverie/{task}", worlds, backend="warp", device=device, warp=sizes(toy))
    burst = 2 if toy else None
    ours = rate(Ours(env, device, burst), device, seconds)
    yield Measure(case, "ours, replay write included", ours, unit)
    bare = rate(Bare(env, burst), device, seconds)
    yield Measure(case, "bare MuJoCo Warp", bare, unit)
    yield Measure(case, "ours over bare", ours / bare, "x")
    native = make(f"reverie/{task}", worlds, threads=options.threads)
    cpu = rate(Ours(native, "cpu", burst or 2), "cpu", seconds)
    yield Measure(case, f"native engine, {options.threads} threads", cpu, unit)
    del env, native
    _release(device)
