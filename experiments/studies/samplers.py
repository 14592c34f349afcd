"""One fit of each task, its rows by the published sampler and by faster ones, measured.

`python -m reverie.experiments.studies.samplers` writes a table and a stamped file for each task:
tests 9 to 12 of SynthER's sheet. No row that the rows are compared with was near the fit.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...agents.seeding import stream_seed
from ...agents.synther.codec import Rules, rules_of
from ...agents.synther.config import DiffusionConfig
from ...agents.synther.diffusion import Diffusion
from ...buffers import Layout
from ...buffers.aside import write_text
from ...envs import BatchEnv, make
from ..loops.collecting import CollectOptions, collect_dataset
from ..runs.config import parse
from ..runs.stamp import measured
from .quality import features, nearest, quality

OFFICIAL = "Heun, 255 calls from 80"
SAMPLERS: dict[str, dict[str, Any]] = {  # and their network calls, first and last noise
    name: {"sampler": sampler, "levels": levels, "sigma_max": high, "sigma_min": low}
    for name, sampler, levels, high, low in (
        (OFFICIAL, "heun", 128, 80.0, 0.002),
        ("SDE 2M, 16 calls, 10 to .2", "sde", 16, 10.0, 0.2),
        ("SDE 2M, 16 calls from 10", "sde", 16, 10.0, 0.002),
        ("SDE 2M, 32 calls from 10", "sde", 32, 10.0, 0.002),
        ("2M, 16 calls, 10 to .2", "dpm", 16, 10.0, 0.2),
        ("2M, 16 calls from 10", "dpm", 16, 10.0, 0.002),
        ("2M, 32 calls from 80", "dpm", 32, 80.0, 0.002),
        ("Heun, 63 calls from 80", "heun", 32, 80.0, 0.002),
    )
}
DATA = {
    "HalfCheetah-v5": ("random", "zoo:halfcheetah-medium", "zoo:halfcheetah-good"),
    "Hopper-v5": ("random", "zoo:hopper-medium"),
}


@dataclass(frozen=True)
class Options:
    """Fit a generator to rows of a task, and measure what each sampler makes of it."""

    tasks: tuple[str, ...] = tuple(DATA)
    """tasks, with rows of a random policy and of those of the zoo"""
    transitions: int = 40_000
    """rows that the generator is fit to, its held-out share included"""
    rows: int = 5_000
    """rows that each sampler makes in each repeat, and real ones of other episodes beside them"""
    repeats: int = 2
    """draws of each sampler, with seeds of their own"""
    seed: int = 0
    """seed of the data, the fit and the draws"""
    threads: int = 1
    """CPU threads"""
    out: Path = Path("experiments/results/synther-quality")
    """folder for TASK.csv, a line for each draw, and TASK.json"""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    """the generator"""


class Fitted(NamedTuple):
    """A fitted generator, the rows that it learned from, and rows of other episodes."""

    model: Diffusion
    rules: Rules
    env: BatchEnv
    train: Tensor
    held: Tensor
    fresh: Tensor


def fitted(task: str, o: Options) -> Fitted:
    """Collect rows of a task, and fit a generator to them."""
    data, other = (
        collect_dataset(CollectOptions(env=task, policy=DATA[task], transitions=n, seed=seed))
        for n, seed in ((o.transitions, o.seed), (o.rows, o.seed + 1))
    )
    env = make(task, 64, dtype=torch.float64, threads=o.threads)
    rules = rules_of(env)
    model = Diffusion(data.layout, o.diffusion, rules=rules, seed=o.seed)
    model.begin(data.rows)
    while not model.done:
        model.fit_step(data.rows)
    held = model.held(data.rows)
    return Fitted(model, rules, env, data.rows[~held], data.rows[held], other.rows)


def drawn(f: Fitted, sampler: Mapping[str, Any], n: int, seed: int) -> tuple[Tensor, float]:
    """Return n rows of a fitted generator by a sampler, and how many it made a second."""
    model = Diffusion(f.model.layout, replace(f.model.config, **sampler), rules=f.rules)
    model.load_state_dict({**f.model.state_dict(), "generator": seeded(seed)})
    start = time.perf_counter()
    rows = model.generate(n)
    return rows, n / (time.perf_counter() - start)


def seeded(seed: int) -> Tensor:
    """Return the state of a generator of a seed."""
    return torch.Generator().manual_seed(seed).get_state()


def measure(task: str, o: Options) -> dict[str, Any]:
    """Return what a task's generator is, and a row of measures for each draw of each sampler."""
    start = time.perf_counter()
    f = fitted(task, o)
    seconds = time.perf_counter() - start
    layout, lines = Layout(f.model.layout.obs_dim, f.model.layout.act_dim), []
    for repeat in range(o.repeats):
        for name, sampler in SAMPLERS.items():
            rows, rate = drawn(f, sampler, o.rows, stream_seed(o.seed, f"{name} {repeat}"))
            told = quality(rows, f.train, f.fresh, layout, env=f.env, rule=f.rules.terminated)
            lines.append({"sampler": name, "repeat": repeat, "rows_per_second": rate, **told})
            print(task, name, repeat, f"dynamics {told['dynamics']:.4f}", flush=True)
    seen = features(f.train, layout)
    apart = nearest(features(f.held, layout), seen, seen.std(0))
    return {
        "task": task,
        "fit": {**f.model.about, "seconds": seconds, "nearest_held": float(np.median(apart))},
        "loss_by_level": f.model.loss_by_level(f.fresh),
        "loss_by_level_seen": f.model.loss_by_level(f.train),
        "rows": lines,
        "notes": lines[0]["notes"],
    }


def main(args: Sequence[str]) -> int:
    """Measure every task; write its table and its file."""
    o = parse(Options, args, "samplers")
    torch.set_num_threads(o.threads)
    for task in o.tasks:
        told = measure(task, o)
        write_text(o.out / f"{task}.json", measured(told, o))
        names = [k for k in told["rows"][0] if k != "notes"]
        lines = [names, *([_cell(row[k]) for k in names] for row in told["rows"])]
        write_text(o.out / f"{task}.csv", "".join(",".join(line) + "\n" for line in lines))
    return 0


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace(",", "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
