"""Train soft actor-critic, or REDQ, DroQ, CrossQ by preset."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..agents import SAC, Policy, SACConfig
from ..agents.actors import gaussian_policy, go_on
from .loops import offpolicy
from .loops.many_worlds import LEARNER, OPTIONS
from .loops.options import StepOptions
from .runs.config import RunOptions, check
from .runs.result import Result


@dataclass(frozen=True)
class Config(StepOptions):
    """A run of soft actor-critic."""

    agent: SACConfig = field(default_factory=SACConfig)
    """the learner"""
    run: RunOptions = field(default_factory=RunOptions)
    """the run directory"""


_LAYER = SACConfig(critic_norm="layer")
PRESETS = {
    "default": Config(),
    "quick": Config(
        env="reverie/InvertedDoublePendulum-v5",
        steps=5_000,
        learning_starts=1_000,
        run=RunOptions(eval_every=1_000, log_every=500),
    ),
    "halfcheetah-50k": Config(
        env="reverie/HalfCheetah-v5",
        steps=50_000,
        run=RunOptions(eval_every=5_000, log_every=5_000, checkpoint_every=0),
    ),
    "layernorm": Config(agent=_LAYER),
    "redq": Config(utd=20, agent=SACConfig(critics=10, policy_delay=20, actor_value="mean")),
    "droq": Config(
        utd=20,
        agent=SACConfig(critic_norm="layer", dropout=0.01, policy_delay=20, actor_value="mean"),
    ),
    "crossq": Config(agent=SACConfig(critic_norm="batch", lr=1e-3, policy_delay=3)),
    "many-worlds": Config(agent=SACConfig(**LEARNER), **OPTIONS),
}
STEP = "environment steps"


def main(config: Config | None = None, *, resume: bool = False) -> Result:
    """Train SAC as configured; `resume` continues the run directory bit for bit."""
    return offpolicy.run_agent("sac", SAC, check(config or Config()), resume)


def load(config: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[Policy, int]:
    """Return the policy of a run's checkpoint, and the width of its observations."""
    policy, obs_dim = gaussian_policy(state["actor"])
    return go_on(policy, state.get("acting")), obs_dim
