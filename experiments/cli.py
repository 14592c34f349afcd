"""`reverie METHOD ...` and the commands around it."""

import dataclasses
import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..envs.names import unknown
from .config import from_dict, read_config

METHODS = {
    "sac": "soft actor-critic; presets redq, droq, crossq",
    "td3": "twin delayed DDPG",
    "ppo": "Stable-Baselines3's PPO on our worlds, resumable",
    "ncap": "the C. elegans circuit and its controls on the N-link swimmer",
    "bc": "behaviour cloning of offline data",
    "td3bc": "TD3+BC on offline data",
    "iql": "implicit Q-learning on offline data",
    "rebrac": "ReBRAC on offline data",
    "oer": "continual offline learning: OER with MBES, and what it is compared with",
    "peer": "Stable-Baselines3's SAC or TD3, written down as our runs are",
}
COMMANDS = {
    "eval": "score a run's policy: reverie eval RUN --episodes 20",
    "plot": "learning curves as a PNG: reverie plot RUN... --out curve.png",
    "watch": "a short video of a run's policy: reverie watch RUN",
    "list": "what there is: reverie list [methods | envs | runs | zoo]",
    "check-env": "is an environment fit to learn from: reverie check-env my_pkg:MyEnv-v0",
    "collect": "a dataset from policies or a run's replay: reverie collect --policy zoo:NAME",
    "compare": "arms x tasks x seeds: reverie compare SUITE.toml --jobs 2",
    "claims": "what was claimed before it was tried, and whether it stands",
    "bench": "speed against other libraries: reverie bench env | buffer | learner | gpu ...",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, rest = args[0], args[1:]
    try:
        if name in METHODS:
            return run_method(name, rest)
        if name == "bench":
            from .bench.cli import main as bench

            return bench(rest)
        if name == "collect":
            from .collecting import main as collect

            return collect(rest)
        if name == "compare":
            from .compare import main as compare

            return compare(rest)
        if name == "claims":
            from .claims import main as claims

            return claims(rest)
        if name in COMMANDS:
            from . import commands

            return commands.RUN[name](rest)
        raise unknown("command", name, [*METHODS, *COMMANDS])
    except (ValueError, FileNotFoundError, FileExistsError, RuntimeError, KeyError) as error:
        if os.environ.get("REVERIE_TRACEBACK"):
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"reverie: {text}", file=sys.stderr)
        return 2


def usage() -> str:
    """Return what `reverie --help` prints."""
    rows = [f"  {n:10s} {text}" for n, text in (METHODS | COMMANDS).items()]
    return "\n".join(
        [
            "usage: reverie COMMAND [options]        (reverie COMMAND --help for its options)",
            "",
            *rows,
            "",
            "A first run: reverie sac --preset quick",
        ]
    )


def run_method(name: str, argv: Sequence[str] | None = None) -> int:
    """Train by a method script: presets, config files, resuming, several seeds."""
    args = list(sys.argv[1:] if argv is None else argv)
    module = importlib.import_module(f".{name}", __package__)
    preset, args = _take(args, "--preset")
    source, args = _take(args, "--config")
    resume, args = _take(args, "--resume")
    seeds, args = _take(args, "--seeds")
    jobs, args = _take(args, "--jobs")
    if seeds is not None:
        given = [("--preset", preset), ("--config", source)]
        shared = [x for pair in given if pair[1] is not None for x in pair if x is not None]
        return _run_seeds(name, [*shared, *args], parse_seeds(seeds), int(jobs or 1))
    if preset is not None and preset not in module.PRESETS:
        raise unknown("preset", preset, module.PRESETS)
    default = module.PRESETS[preset or "default"]
    if source is not None or resume is not None:
        path = Path(source or resume or "")
        method, values = read_config(path)
        if method != name:
            raise ValueError(f"{path} is a run of {method!r}: use `reverie {method}`")
        default = from_dict(module.Config, values)
        if resume is not None:
            place = dataclasses.replace(default.run, out=str(path.parent), name=path.name)
            default = dataclasses.replace(default, run=place)
    config = _parse(module, args, default, name)
    return _train(module, config, resume is not None)


def _parse(module: Any, args: list[str], default: Any, name: str) -> Any:
    import tyro

    flat = not getattr(module, "PREFIXED", False)  # two parts of a method may share a name
    config_type = tyro.conf.OmitArgPrefixes[module.Config] if flat else module.Config  # type: ignore[misc]
    extra = "\n\nAlso: --preset " + "|".join(module.PRESETS)
    extra += "; --config RUN or config.json; --resume RUN; --seeds 0:5 --jobs 2"
    return tyro.cli(
        config_type,
        args=args,
        default=default,
        prog=f"reverie {name}",
        description=(module.__doc__ or "") + extra,
    )


def _train(module: Any, config: Any, resume: bool) -> int:
    from .process import DIVERGED, INTERRUPTED, Diverged, Interrupted, stop_on_signals

    with stop_on_signals():
        try:
            result = module.main(config, resume=resume)
        except Interrupted as stop:
            method = module.__name__.rsplit(".", 1)[-1]
            print(
                f"stopped and saved; go on with: reverie {method} --resume {stop}", file=sys.stderr
            )
            return INTERRUPTED
        except Diverged as error:
            print(f"reverie: {error}", file=sys.stderr)
            return DIVERGED
    print(f"final evaluation: {result.eval_return:.1f} after {result.steps:,} steps")
    print(f"run directory: {result.path}")
    return 0


def _take(args: list[str], flag: str) -> tuple[str | None, list[str]]:
    for i, arg in enumerate(args):
        if arg == flag:
            if i + 1 == len(args):
                raise ValueError(f"{flag} needs a value")
            return args[i + 1], args[:i] + args[i + 2 :]
        if arg.startswith(flag + "="):
            return arg.split("=", 1)[1], args[:i] + args[i + 1 :]
    return None, args


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of `0:5` (0 to 4) or `0,3,7`."""
    try:
        if ":" in text:
            first, last = text.split(":")
            seeds = list(range(int(first), int(last)))
        else:
            seeds = [int(x) for x in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--seeds {text!r}: give a range as 0:5 or a list as 0,3,7") from error
    if not seeds:
        raise ValueError(f"--seeds {text!r} names no seed; 0:5 is seeds 0 to 4")
    return seeds


def _run_seeds(name: str, args: list[str], seeds: list[int], jobs: int) -> int:
    """Run one process per seed, `jobs` at a time, sharing the CPUs between them."""
    from ..envs.physics import affinity_threads

    threads = max(1, affinity_threads() // jobs)
    if _take(args, "--threads")[0] is None:
        args = [*args, "--threads", str(threads)]
    base, args = _take(args, "--name")
    waiting, running, failed = list(seeds), dict[int, subprocess.Popen[bytes]](), list[int]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                seed = waiting.pop(0)
                command = [sys.executable, "-m", "reverie.experiments.cli", name, *args]
                command += ["--seed", str(seed)]
                if base is not None:
                    command += ["--name", f"{base}-s{seed}"]
                running[seed] = subprocess.Popen(command)
            time.sleep(0.05)
            for seed, process in list(running.items()):
                if process.poll() is not None:
                    del running[seed]
                    if process.returncode:
                        failed.append(seed)
    except KeyboardInterrupt:
        for process in running.values():
            process.send_signal(signal.SIGINT)
        for process in running.values():
            process.wait()
        raise
    done = len(seeds) - len(failed)
    print(f"{done} of {len(seeds)} seeds finished" + (f"; failed: {failed}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
