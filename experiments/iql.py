"""Train implicit Q-learning on offline data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..agents import Policy
from ..agents.offline.iql import IQL, IQLConfig
from .loops import offline
from .runs.config import RunOptions, check, from_dict
from .runs.result import Result


@dataclass(frozen=True)
class Config:
    """A run on offline data."""

    data: tuple[str, ...] = ()
    """dataset:PATH of ours, of an .hdf5 file or of minari:ID; several in shares, dataset:A:0.5"""
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
    standardise: bool = True
    """observations as z-scores of the data"""
    env_options: Mapping[str, Any] = field(default_factory=dict)
    """options of the task over the data's own, from Python or a config file"""
    agent: IQLConfig = field(default_factory=IQLConfig)
    """the learner"""
    run: RunOptions = field(default_factory=lambda: RunOptions(eval_every=10_000))
    """the run directory"""


PRESETS = {"default": Config()}
STEP = "gradient steps"


def main(config: Config | None = None, *, resume: bool = False) -> Result:
    """Train as configured; `resume` continues the run directory bit for bit."""
    return offline.run_offline("iql", IQL, check(config or Config()), resume)


def load(config: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[Policy, int]:
    """Return the policy of a run's checkpoint, and the width of its observations."""
    return offline.load(from_dict(IQLConfig, config["agent"]), state)
