"""`reverie METHOD ...` and the commands around it."""

import dataclasses
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..agents.playing import Stopped
from ..envs.errors import unknown
from . import methods
from .methods import COMMANDS, METHODS
from .refusals import printing, refusal, unwritable
from .runs.config import check, from_dict, in_range, parse, read_config, whole_number
from .runs.directory import restarting
from .runs.stopping import (
    AT_ONCE,
    DIVERGED,
    INTERRUPTED,
    Diverged,
    Interrupted,
    stop_on_signals,
    stop_with_parent,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status.

    What we refuse is told in one line, status 2. What somebody else's code raises goes through,
    with its traceback, and so does everything with REVERIE_TRACEBACK in the environment.
    """
    stop_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    with suppress(OSError):  # the folder is gone
        if not sys.flags.safe_path and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # for `module:id` and --method; behind what is installed
    with printing():
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        except Interrupted as stop:
            print(f"reverie: stopped and saved: {stop}", file=sys.stderr)
            return INTERRUPTED
        except Stopped as stop:
            print(f"reverie: {stop}; the same command begins again", file=sys.stderr)
            return INTERRUPTED
        except KeyboardInterrupt:
            print("reverie: stopped at once, nothing was saved", file=sys.stderr)
            return AT_ONCE
        except Exception as error:
            text = None if isinstance(error, OSError) and unwritable() else refusal(error)
            if text is None or os.environ.get("REVERIE_TRACEBACK"):
                raise
            print(f"reverie: {' '.join(text.splitlines())}", file=sys.stderr)
            return 2


def _run(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0
    own, rest = _take(args, "--method")
    name, rest = (own, rest) if own is not None else (args[0], args[1:])
    if own is not None or name in METHODS or "." in name:
        return run_method(name, rest)
    if name not in COMMANDS:
        raise unknown("command", name, [*METHODS, *COMMANDS])
    status: int = methods.command(name)(rest)
    return status


def usage() -> str:
    """Return what `reverie --help` prints."""
    texts = {n: m.about for n, m in METHODS.items()} | {n: c.about for n, c in COMMANDS.items()}
    return "\n".join(
        [
            "usage: reverie COMMAND [options]        (reverie COMMAND --help for its options)",
            "",
            *(f"  {n:10s} {text}" for n, text in texts.items()),
            "",
            "A script of your own: reverie --method my_package.my_script [options]",
            "A first run: reverie sac --preset quick",
            "REVERIE_TRACEBACK=1 shows where in the code a message of one line was raised.",
        ]
    )


OPTIONS = ("preset", "config", "resume", "restart")
ENGINE = ("jobs", "engine", "address", "cpus", "gpus", "store")  # of several runs


def run_method(name: str, args: list[str]) -> int:
    """Train by a method script: presets, config files, resuming, several seeds."""
    module = methods.script(name)
    given = {}
    for option in (*OPTIONS, "seeds", "population", *ENGINE, "max-episode-steps"):
        given[option], args = _take(args, f"--{option}")
    alone = [f"--{o}" for o in ("preset", "config", "resume") if given[o] is not None]
    if len(alone) > 1:
        raise ValueError(f"give {alone[0]} or {alone[1]}: each says what the options change")
    resume, anew, seeds = given["resume"], given["restart"], given["seeds"]
    if (group := given["population"]) is not None:
        if others := [f"--{o}" for o in ("resume", "restart", "seeds") if given[o] is not None]:
            raise ValueError(
                f"--population begins a group of its own: leave {others[0]} out; a group goes on "
                "with `reverie population --resume GROUP`"
            )
        seeds = group
    if seeds is not None and resume is not None:
        raise ValueError("--resume goes on with one run: give it without --seeds, for each of them")
    if anew is not None and (resume is not None or seeds is not None):
        raise ValueError("--restart begins one run anew: give it without --resume and --seeds")
    if seeds is not None and any(a.partition("=")[0] == "--seed" for a in args):
        raise ValueError("--seeds and --population say the seeds: leave --seed out")
    if seeds is not None and not hasattr(module.Config, "seed"):
        raise ValueError(f"{name} has no seed of its own: give reverie sac --population {seeds}")
    if given["jobs"] is not None:
        whole_number(given["jobs"], "jobs")
    where = [x for o in ENGINE if (v := given[o]) is not None for x in (f"--{o}", v)]
    if where and (group is not None or anew is not None):
        raise ValueError(f"{where[0]} is for several runs: leave it out, or give --seeds")
    place = resume or anew
    default = _default(module, name, given["preset"], given["config"], place)
    config = _parse(module, args, default, name)
    if given["max-episode-steps"] is not None:
        config = _limited(config, given["max-episode-steps"])
    if place is not None and _place(config) != _place(default):
        raise ValueError(f"{place} is where the run lies: give no --out and no --name with it")
    if anew is not None:
        with restarting(_place(config)):
            return _train(module, name, config, False)
    if group is not None:
        numbers = _seeds(group, "--population")
        together = methods.script("population")
        return _train(together, "population", together.of_seeds(name, config, numbers), False)
    if seeds is not None:
        return _run_seeds(name, config, seeds, where)
    if where:
        return _train_apart(module, name, config, resume is not None, where)
    return _train(module, name, config, resume is not None)


def _train_apart(module: Any, name: str, config: Any, resume: bool, where: Sequence[str]) -> int:
    """Train a run whose sources are runs of their own, on an engine."""
    from .loops.grid import apart
    from .loops.scripted import trained_by
    from .studies.engines import EngineOptions, engine_of
    from .studies.pool import train_all

    if not apart(config):
        raise ValueError(
            f"{where[0]} is for several runs: give --seeds 0:5 too; or it is for a matrix or mbtl "
            "whose sources are runs of their own (--learner ppo or circuit)"
        )
    run = dataclasses.replace(config.run, threads=config.run.threads or 1)
    engine = engine_of(parse(EngineOptions, where, name), run.threads)
    with trained_by(lambda sources: train_all(sources, engine)):
        return _train(module, name, dataclasses.replace(config, run=run), resume)


def _default(
    module: Any, name: str, preset: str | None, source: str | None, place: str | None
) -> Any:
    """Return the configuration that the options change: a preset's, a file's, a run's.

    `place`: the directory of the run that goes on, or begins anew, whose configuration it is then.
    """
    if preset is not None and preset not in module.PRESETS:
        raise unknown("preset", preset, module.PRESETS)
    if source is not None or (place is not None and preset is None):
        path = Path(source or place or "").resolve()
        method, values = read_config(path)
        if method != name:
            raise ValueError(f"{path} is a run of {method!r}: use `reverie {method}`")
        try:
            default = from_dict(module.Config, values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    else:
        default = module.PRESETS[preset or "default"]
    if place is None:
        return default
    there = Path(place).resolve()  # `.` has no name
    there = there.parent if there.is_file() else there
    run = dataclasses.replace(default.run, out=str(there.parent), name=there.name)
    return dataclasses.replace(default, run=run)


def _place(config: Any) -> Path:
    return Path(config.run.out, config.run.name)


def _parse(module: Any, args: list[str], default: Any, name: str) -> Any:
    from tyro.conf import OmitArgPrefixes

    flat = not getattr(module, "PREFIXED", False)  # two parts of a method may share a name
    config_type = OmitArgPrefixes[module.Config] if flat else module.Config  # type: ignore[misc]
    extra = "\n\nAlso: --preset " + "|".join(module.PRESETS)
    extra += "; --config RUN or config.json; --resume RUN or --restart RUN; --seeds 0:5 --jobs 2; "
    extra += "--population 0:10 (sac, td3, iql, td3bc, rebrac: as one); "
    extra += "--max-episode-steps N, the environment's time limit (0: none)"
    about = (module.__doc__ or "") + extra
    # Tables are no options: tyro would make one of each key, beside ours of the same name.
    tables = {k: v for k, v in vars(default).items() if isinstance(v, Mapping)}
    plain = dataclasses.replace(default, **{key: {} for key in tables})
    config = parse(config_type, args, name, default=plain, description=about)
    return check(dataclasses.replace(config, **tables))


def _limited(config: Any, limit: str) -> Any:
    """Return a configuration whose environment has a time limit: one of its options."""
    if not limit.isdecimal():
        raise ValueError(f"--max-episode-steps {limit!r}: give a number of steps, 0 for no limit")
    options = {**config.env_options, "max_episode_steps": int(limit)}
    return dataclasses.replace(config, env_options=options)


def _run_seeds(name: str, config: Any, seeds: str, where: Sequence[str]) -> int:
    from ..envs.physics import affinity_threads
    from .studies.engines import EngineOptions, engine_of
    from .studies.pool import run_seeds

    options, numbers = parse(EngineOptions, where, f"{name} --seeds"), _seeds(seeds, "--seeds")
    here = options.engine == "local"
    share = max(1, affinity_threads() // (options.jobs or 1)) if here else 1
    engine = engine_of(options, config.run.threads or share)
    with stop_on_signals():
        return run_seeds(name, config, numbers, engine, named=not here)


def _seeds(text: str, option: str) -> list[int]:
    from .studies.suite import parse_seeds

    numbers = parse_seeds(text)
    in_range("seed", tuple(numbers), option)
    return numbers


def _train(module: Any, name: str, config: Any, resume: bool) -> int:
    with stop_on_signals():
        try:
            result = module.main(config, resume=resume)
        except Interrupted as stop:
            saved = "and saved" if stop.saved else "and not saved, for the disk refused it"
            print(f"stopped {saved}; go on with: reverie {name} --resume {stop}", file=sys.stderr)
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
