"""`make demo`: train, look, and what to try next, in a minute or two."""

import dataclasses
import itertools
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from ..agents import SAC
from ..agents.playing import EVAL_SEED, evaluate
from ..envs import make
from . import sac
from .runs.result import load_run
from .studies.plots import curves, sparkline


def main(args: Sequence[str] = (), out: str = "runs") -> int:
    """Train SAC on the double pendulum and print returns before and after, and where things are."""
    if {"-h", "--help"} & set(args):
        print(f"usage: reverie demo\n\n{__doc__}")
        return 0
    if args:
        raise ValueError(f"`reverie demo` takes no options, got {' '.join(args)!r}")
    logging.getLogger("reverie").setLevel(logging.WARNING)
    names = itertools.chain(["demo"], (f"demo-{i}" for i in itertools.count(2)))
    name = next(n for n in names if not (Path(out) / n).exists())
    config = sac.PRESETS["quick"]
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, out=out, name=name))
    env = make(config.env, config.run.eval_episodes)
    fresh = SAC(env.obs_dim, env.act_dim, config.agent, seed=config.seed)
    before = evaluate(fresh, env, seed=EVAL_SEED)
    print(f"SAC on {config.env}, {config.steps:,} environment steps, seed {config.seed}\n")
    start = time.perf_counter()
    result = sac.main(config)
    seconds = time.perf_counter() - start
    frame = load_run(result.path).frame()
    picture = curves([load_run(result.path)], result.path / "curve.png")
    print(
        f"\nbefore training  {before.mean:8.1f}   (mean return of {before.returns.size} episodes)"
    )
    print(f"after training   {result.eval_return:8.1f}   in {seconds:.0f} s")
    steps = f"{frame['step'][0]:,.0f} to {frame['step'][-1]:,.0f} steps"
    print(f"evaluations      {sparkline([before.mean, *frame['return']])}   {steps}")
    print(f"\nrun directory    {result.path}  (config, stamp, metrics, checkpoints)")
    print(f"learning curve   {picture}")
    print("\nTry next:")
    print(f"  .venv/bin/reverie eval {result.path} --episodes 50")
    print(f"  .venv/bin/reverie watch {result.path}")
    print(f"  .venv/bin/reverie sac --resume {result.path} --steps 10000")
    print("  .venv/bin/reverie sac --env HalfCheetah-v5 --steps 50000 --seeds 0:2 --jobs 2")
    return 0
