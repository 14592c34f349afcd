"""Train TD3."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..agents import TD3, Policy, TD3Config
from ..agents.actors import deterministic_policy, go_on
from .loops import offpolicy
from .loops.many_worlds import LEARNER, OPTIONS
from .loops.options import StepOptions
from .runs.config import RunOptions, check, from_dict
from .runs.result import Result


@dataclass(frozen=True)
class Config(StepOptions):
    """A run of TD3."""

    agent: TD3Config = field(default_factory=TD3Config)
    """the learner"""
    run: RunOptions = field(default_factory=RunOptions)
    """the run directory"""


PRESETS = {
    "default": Config(),
    "quick": Config(
        env="reverie/InvertedDoublePendulum-v5",
        steps=5_000,
        learning_starts=1_000,
        run=RunOptions(eval_every=1_000, log_every=500),
    ),
    "layernorm": Config(agent=TD3Config(critic_norm="layer")),
    "many-worlds": Config(agent=TD3Config(explore_noise=0.2, **LEARNER), **OPTIONS),
}
STEP = "environment steps"


def main(config: Config | None = None, *, resume: bool = False) -> Result:
    """Train TD3 as configured; `resume` continues the run directory bit for bit."""
    return offpolicy.run_agent("td3", TD3, check(config or Config()), resume)


def load(config: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[Policy, int]:
    """Return the policy of a run's checkpoint, and the width of its observations."""
    noise = from_dict(TD3Config, config["agent"]).explore_noise
    policy, obs_dim = deterministic_policy(state["actor"], noise)
    return go_on(policy, state.get("acting")), obs_dim
