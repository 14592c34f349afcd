"""A grid of contexts and how sources are trained on it: options, coordinates, trainers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...agents import SACConfig, TD3Config
from ...agents.sb3 import PPOConfig
from ...agents.search import SearchConfig
from ...envs import BatchEnv, Contexts
from ...envs.contexts import parse_contexts, spaced
from .scripted import Scripted
from .transfer import LEARNERS, Population, Trainer


@dataclass(frozen=True)
class SourceOptions:
    """Where sources are trained and scored, and how."""

    env: str = ""
    """task whose contexts are the sources"""
    context: tuple[str, ...] = ()
    """the contexts: length=log:0.3:3:20, gear=lin:0.5:2:10 or mass=0.5,1,2; every combination"""
    env_options: Mapping[str, Any] = field(default_factory=dict)
    """options of the task"""
    context_in_obs: Literal["hidden", "raw", "normalised"] = "hidden"
    """whether observations tell the context: as it is, or from -1 to 1 over the grid"""
    wide: bool = True
    """train from wide random starts, where the task has that option; scored are its own starts"""
    learner: Literal["sac", "td3", "ppo", "circuit"] = "sac"
    """what is trained: SAC and TD3 side by side; PPO, or the swimmer's circuit by a search, one
    after the other"""
    search: Literal["cma", "es"] = "cma"
    """how the circuit is trained"""
    num_envs: int = 1
    """worlds of each source (of PPO as many as it likes: 8)"""
    utd: float = 1.0
    """gradient updates per transition of a source"""
    batch_size: int = 64
    """transitions per gradient update, of each source"""
    learning_starts: int = 500
    """transitions of random actions of each source before its first update"""
    select_every: int = 1000
    """transitions of a source between snapshots, of which the best on its own context stays"""
    choose_episodes: int = 5
    """episodes of its own context by which a snapshot is chosen"""
    score_episodes: int = 10
    """other episodes of each context by which it is scored then; two or more: in verdicts one
    half says which policy serves a context, the other what it earns"""
    low: float = 0.0
    """the return that counts 0"""
    high: float | None = None
    """the return that counts 1; None is the task's time limit"""
    sac: SACConfig = field(default_factory=lambda: SACConfig(hidden=(32, 32), lr=1e-3))
    """SAC"""
    td3: TD3Config = field(default_factory=lambda: TD3Config(hidden=(32, 32), lr=1e-3))
    """TD3"""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """PPO"""
    es: SearchConfig = field(default_factory=SearchConfig)
    """the search of the circuit"""


def grid_of(c: Any) -> Contexts:
    """Return the contexts; ValueError where there are none."""
    grid = parse_contexts(c.context)
    if grid is None:
        raise ValueError(f"no contexts of {c.env}: give --context length=log:0.3:3:20")
    return grid


def coordinates(context: Sequence[str], grid: Contexts) -> tuple[tuple[str, ...], Tensor]:
    """Return the names and values [N, d] by which contexts are far from each other.

    A feature whose values stand at equal ratios (`log:`) counts by its logarithm.
    """
    logs = spaced(context)
    values = torch.from_numpy(grid.table.copy())
    for j, name in enumerate(grid.names):
        if name in logs:
            values[:, j] = values[:, j].log()
    return tuple(f"log {n}" if n in logs else n for n in grid.names), values


def bounds_of(c: Any, scored: BatchEnv) -> tuple[float, float]:
    """Return the returns that count 0 and 1; ValueError where the task does not say the second."""
    high = scored.max_episode_steps if c.high is None else c.high
    if high is None or high <= c.low:
        raise ValueError(f"returns count from low={c.low} to high={high}: give --high")
    return c.low, float(high)


def apart(c: Any) -> bool:
    """Return whether a run trains sources that are runs of their own, which an engine may train."""
    return (
        isinstance(c, SourceOptions) and bool(getattr(c, "env", "")) and c.learner not in LEARNERS
    )


def trainer_of(
    c: Any,
    grid: Contexts,
    members: int,
    steps: int,
    threads: int,
    folder: Path,
    short: int = 0,
) -> Trainer:
    """Return what trains `members` sources at once for `steps` transitions each.

    `short`: after how many a source has a row too; 0 for none of them. PPO and the circuit train
    one after the other, each a run of its own in `folder`, whatever `members` is; so many side
    by side where an engine was given.
    """
    if c.learner in LEARNERS:
        return Population(c, grid, members, steps, threads, short)
    return Scripted(c, grid, members, steps, threads, folder, short)
