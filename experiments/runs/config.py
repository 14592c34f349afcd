"""Frozen dataclasses as configurations: to JSON and back, with errors that help."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...envs.errors import unknown
from .aside import write_text

T = TypeVar("T")


@dataclass(frozen=True)
class RunOptions:
    """What every run has, whatever its method."""

    out: str = "runs"
    """folder that holds the run directories"""
    name: str | None = None
    """name of the run directory; None is <method>-<env>-s<seed>"""
    threads: int | None = None
    """CPU threads of torch and of the physics; None is every CPU the process may use"""
    device: str = "cpu"
    """device of the learner and its replay buffer: cpu, cuda, cuda:1"""
    log_every: int = 1000
    """environment steps between rows of metrics.jsonl"""
    eval_every: int = 5000
    """environment steps between evaluations; 0 evaluates at the end only"""
    eval_episodes: int = 10
    """evaluation episodes, one in each of as many worlds, always from the same start states"""
    checkpoint_every: int = 25_000
    """environment steps between checkpoints; 0 saves at the end only"""
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
    """Build a configuration from `to_dict`'s output; an unknown key is an error that names it."""
    hints = typing.get_type_hints(cls)
    for name in values:
        if name not in hints:
            raise unknown(f"field of {cls.__name__}", name, hints)
    return cls(**{name: _convert(hints[name], value) for name, value in values.items()})


def _convert(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        if value is None:
            return None
        return _convert(next(a for a in typing.get_args(hint) if a is not type(None)), value)
    if typing.get_origin(hint) is tuple:
        return tuple(value)
    return value


def save_config(path: Path, method: str, config: Any) -> None:
    """Write the resolved configuration of a run."""
    write_text(path, json.dumps({"method": method, "config": to_dict(config)}, indent=2) + "\n")


def read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the method's name and the configuration in a config.json, or a run directory's."""
    path = path / "config.json" if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; give a run directory or its config.json")
    data = json.loads(path.read_text())
    return data["method"], data["config"]
