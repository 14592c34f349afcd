"""Frozen dataclasses as configurations: read, checked and written, with errors that help."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...agents.api import within
from ...buffers.aside import write_text
from .typed import convert, shown, wrong

T = TypeVar("T")
LIMIT = 16 << 20  # bytes of a file of settings
MANY = 10**12 - 1  # checkpoints are named by twelve digits

# What a number may be, ends included, by the name under which loops and commands read it. What a
# learner's settings may be, its own class says.
RANGES: Mapping[str, tuple[float, float]] = {
    "steps": (1, MANY),
    "seed": (0, 2**31 - 1),
    "seed_offset": (0, 2**31 - 1),
    "num_envs": (1, 1_000_000),
    "utd": (0, 10_000),
    "batch_size": (1, 10_000_000),
    "n_step": (1, 1000),
    "buffer_size": (1, MANY),
    "learning_starts": (0, MANY),
    "max_episode_steps": (0, MANY),
    "hidden": (1, 16_384),
    # of a run
    "threads": (1, 1024),
    "cpus": (0.001, 4096),
    "gpus": (0, 1024),
    "log_every": (0, MANY),
    "eval_every": (0, MANY),
    "eval_episodes": (1, 100_000),
    "checkpoint_every": (0, MANY),
    "keep": (1, 1_000_000),
    # of ncap
    "links": (3, 64),
    "episodes": (1, 100_000),
    "episode_steps": (1, 1_000_000),
    # of oer
    "goals": (-1e12, 1e12),
    "tasks": (1, 1000),
    "transitions": (1, 1_000_000_000),
    "task_steps": (1, MANY),
    "clone_finish": (0, MANY),
    "budget": (1, 1_000_000_000),
    "gate": (0, 1_000_000),
    "walk": (1, 1_000_000_000),
    "distilled_hidden": (1, 16_384),
    "distilled_steps": (1, MANY),
    # of synther, and of offline learners
    "refit_every": (1, MANY),
    "synthetic": (1, MANY),
    "share": (0, 1),
    "noise": (0, 1000),
    "fraction": (1e-9, 1),
    # of dreamland
    "controllers": (1, 1000),
    "select_every": (1, MANY),
    "select_episodes": (1, 100_000),
    "collect": (1, MANY),
    "collect_hold": (1, 1_000_000),
    "collect_noise": (0, 100),
    "round_every": (0, MANY),
    "real_size": (1, MANY),
    "real_share": (0, 1),
    # of mbtl and of transfer matrices
    "guesses": (0, 4096),
    "short": (0, 1),
    "batch": (1, 1000),
    "source_steps": (1, MANY),
    "trials": (1, 10_000),
    "middle_trials": (0, 10_000),
    "members": (1, 10_000),
    "success": (0, 1),
    "top": (0, 1),
    "look_every": (1, MANY),
    "look_episodes": (1, 100_000),
    "choose_episodes": (1, 100_000),
    "score_episodes": (2, 100_000),
    "low": (-1e12, 1e12),
    "high": (-1e12, 1e12),
    # of commands
    "jobs": (1, 1024),
    "until": (0, MANY),
    "world": (0, 1_000_000),
    "repeats": (1, 10_000),
    "seconds": (0.001, 86_400),
    "worlds": (1, 10_000_000),
}
RUNS_OWN = ("env_id", "num_envs", "seed", "threads", "context", "streams", "dtype", "warp")
MAKES_OWN = {"device": str, "backend": str, "rng": str, "max_episode_steps": int | None}


@dataclass(frozen=True)
class RunOptions:
    """What every run has, whatever its method."""

    out: str = "runs"
    """folder that holds the run directories"""
    name: str | None = None
    """name of the run directory; None is <method>-<env>-s<seed>"""
    threads: int | None = None
    """CPU threads of torch and of the physics; None is every CPU, of torch four at most"""
    device: str = "cpu"
    """device of the learner and its replay buffer: cpu, cuda, cuda:1"""
    log_every: int = 1000
    """steps, as the method counts, between rows of metrics.jsonl; 0 writes one at the end only"""
    eval_every: int = 5000
    """steps between evaluations; 0 evaluates at the end only"""
    eval_episodes: int = 10
    """evaluation episodes, one in each of as many worlds, always from the same start states"""
    checkpoint_every: int = 25_000
    """steps between checkpoints; 0 saves at the end only"""
    keep: int = 2
    """checkpoints kept"""
    tensorboard: bool = True
    """write TensorBoard events"""
    wandb: str | None = None
    """project of Weights & Biases to log to as well (extra [wandb])"""
    progress: bool = True
    """show progress on the terminal"""


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON-ready nested dicts."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """Build a configuration from `to_dict`'s output; what it lacks has its default.

    Raises ValueError, naming the key, for one that is unknown, of another type or out of range.
    """
    config: T = convert(cls, values, "")
    return _fitting(config)


def check(config: T) -> T:
    """Return a configuration, or a command's options, if each of them may be what it is.

    Raises ValueError, naming the field, for another type and for a number out of its range.
    """
    checked: T = convert(type(config), config, "")
    return _fitting(checked)


def parse(cls: type[T], args: Sequence[str], command: str, **more: Any) -> T:
    """Return the options of a command line, checked; tyro ends the process where it cannot."""
    import tyro

    options: T = tyro.cli(cls, args=list(args), prog=f"reverie {command}", **more)
    return check(options)


def whole_number(text: str, name: str) -> int:
    """Return the number that `--name TEXT` says; ValueError for none and for one out of range."""
    try:
        value = int(text)
    except ValueError:
        raise wrong(f"--{name}", "a whole number", text) from None
    in_range(name, value, f"--{name}")
    return value


def in_range(name: str, value: Any, at: str) -> None:
    """Raise ValueError for a number, or one of several, out of the range of its name."""
    low, high = RANGES[name]
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int | float) and not low <= number <= high:
            raise wrong(at, f"from {low:,} to {high:,}", number)


def _fitting(config: T) -> T:
    """Return a configuration of the right types if its numbers are in range and fit each other."""
    options = getattr(config, "run", None)
    _in_range(config, "")
    if isinstance(options, RunOptions):
        _in_range(options, "run.")
    _learners(config)
    _worlds(getattr(config, "env_options", {}))
    size, worlds = getattr(config, "buffer_size", None), getattr(config, "num_envs", None)
    if isinstance(size, int) and isinstance(worlds, int) and size < worlds:
        raise wrong("buffer_size", f"at least num_envs={worlds}", size)
    return config


def _in_range(part: Any, at: str) -> None:
    for field in dataclasses.fields(part):
        if field.name in RANGES:
            in_range(field.name, getattr(part, field.name), at + field.name)


def _worlds(options: Mapping[str, Any]) -> None:
    """Check what `env_options` says to `make`, beside the options of the task."""
    for name, value in options.items():
        at = f"env_options.{name}"
        if name in RUNS_OWN:
            raise ValueError(f"{at}: that is not the task's to say, the run has an option for it")
        if name in MAKES_OWN:
            convert(MAKES_OWN[name], value, at)
            if name in RANGES:
                in_range(name, value, at)


def _learners(config: Any) -> None:
    """Check the parts of a configuration that have bounds of their own."""
    for field in dataclasses.fields(config):
        part = getattr(config, field.name)
        if dataclasses.is_dataclass(part):
            within(part, **getattr(part, "bounds", {}))
            _learners(part)


def save_config(path: Path, method: str, config: Any) -> None:
    """Write the resolved configuration of a run."""
    write_text(path, json.dumps({"method": method, "config": to_dict(config)}, indent=2) + "\n")


def read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the method's name and the configuration in a config.json, or a run directory's."""
    path = path / "config.json" if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; give a run directory or its config.json")
    data = read_json(path)
    for key, kind, what in (("method", str, "its name"), ("config", dict, "its settings")):
        if not isinstance(data, dict) or not isinstance(data.get(key), kind):
            found = shown(data.get(key, "nothing") if isinstance(data, dict) else data)
            raise ValueError(f"{path} is no configuration of a run: {key!r}, {what}, is {found}")
    return data["method"], data["config"]


def read_json(path: Path) -> Any:
    """Return what a file of settings holds; ValueError, naming it, where that is not JSON."""
    with path.open("rb") as file:
        raw = file.read(LIMIT + 1)
    if len(raw) > LIMIT:
        raise ValueError(f"{path} has more than {LIMIT >> 20} MiB: it is no file of settings")
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(f"{path} is not valid JSON: its tables lie too deep") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} stands in it twice")
    return out
