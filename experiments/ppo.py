"""Train Stable-Baselines3's PPO on our worlds, resumable bit for bit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..agents import Policy
from ..agents.sb3 import PPOConfig, load_mlp_ppo
from .loops import onpolicy
from .loops.options import WorldOptions
from .runs.config import RunOptions, check
from .runs.result import Result


@dataclass(frozen=True)
class Config(WorldOptions):
    """A run of PPO."""

    num_envs: int = 8
    """worlds stepped together"""
    agent: PPOConfig = field(default_factory=PPOConfig)
    """the learner"""
    run: RunOptions = field(default_factory=RunOptions)
    """the run directory"""


PRESETS = {
    "default": Config(),
    "quick": Config(
        env="reverie/InvertedPendulum-v5",
        steps=20_480,
        run=RunOptions(eval_every=4_096, log_every=2_048),
    ),
}
STEP = "environment steps"


def main(config: Config | None = None, *, resume: bool = False) -> Result:
    """Train PPO as configured; `resume` continues the run directory bit for bit."""
    c = check(config or Config())
    return onpolicy.run_ppo("ppo", c, c.agent, resume)


def load(config: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[Policy, int]:
    """Return the policy of a run's checkpoint, and the width of its observations."""
    return load_mlp_ppo(state)
