"""What the configurations of many scripts have in common: fields, their defaults and their help."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..runs.config import RunOptions


@dataclass(frozen=True)
class WorldOptions:
    """Where a run learns, and how long."""

    env: str = "reverie/HalfCheetah-v5"
    """environment id: a task of ours, or any gymnasium id"""
    steps: int = 1_000_000
    """environment transitions to train for"""
    seed: int = 0
    """seed of the weights, the worlds, the exploration and the draws"""
    num_envs: int = 1
    """worlds stepped together"""
    context: tuple[str, ...] = ()
    """contexts of a task of ours, gravity=4.9,9.8 mass=1,2: every combination, in turn by world"""
    env_options: Mapping[str, Any] = field(default_factory=dict)
    """options of the task, from Python or a config file, e.g. {"ctrl_cost_weight": 0.05}"""


@dataclass(frozen=True)
class UpdateOptions(WorldOptions):
    """How an off-policy agent learns there."""

    utd: float = 1.0
    """gradient updates per environment transition, whatever num_envs is"""
    batch_size: int = 256
    """transitions per gradient update"""
    buffer_size: int = 1_000_000
    """transitions that the replay buffer holds"""
    learning_starts: int = 5_000
    """transitions of uniformly random actions before the first update"""
    data: tuple[str, ...] = ("replay",)
    """what batches are drawn from, in shares: replay:0.5 dataset:PATH:0.5 (RLPD); synther:RUN,
    dream:RUN"""
    context_columns: bool = False
    """replay rows also tell their context: columns context_id and context"""
    compile: bool | Literal["graphs"] = False
    """True: torch.compile the losses, a minute, then faster where nets have layer norm; graphs: all
    updates of a step in one call, on CUDA one recorded graph"""
    bfloat16: bool = False
    """matrix products in bfloat16"""


@dataclass(frozen=True)
class StepOptions(UpdateOptions):
    """How one agent of its own replay learns there."""

    n_step: int = 1
    """steps whose rewards a target sums before it bootstraps; the replay alone has them"""


@dataclass(frozen=True)
class OfflineOptions:
    """From what a run learns offline, and where it is judged."""

    data: tuple[str, ...] = ()
    """dataset:PATH (ours, .hdf5, minari:ID), synther:RUN, dream:RUN; in shares: dataset:A:0.5"""
    env: str | None = None
    """environment to be judged in; None is the data's own"""
    context: tuple[str, ...] = ()
    """context to be judged in, velocity=1.5; none is the data's own"""
    steps: int = 100_000
    """gradient steps"""
    seed: int = 0
    """seed of the weights, the draws and the update noise"""
    batch_size: int = 256
    """transitions per gradient step"""
    fraction: float = 1.0
    """share of the data's rows, drawn at random, to learn from"""
    standardise: bool = True
    """observations as z-scores of the data"""
    env_options: Mapping[str, Any] = field(default_factory=dict)
    """options of the task over the data's own, from Python or a config file"""
    run: RunOptions = field(default_factory=lambda: RunOptions(eval_every=10_000))
    """the run directory"""
