"""Train TD3."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..agents import TD3, Policy, TD3Config
from ..agents.actors import deterministic_policy, go_on
from .loops import offpolicy
from .runs.config import RunOptions, check, from_dict
from .runs.result import Result


@dataclass(frozen=True)
class Config:
    """A run of TD3."""

    env: str = "reverie/HalfCheetah-v5"
    """environment id: a task of ours, or any gymnasium id"""
    steps: int = 1_000_000
    """environment transitions to train for"""
    seed: int = 0
    """seed of the weights, the worlds, the exploration and the replay draws"""
    num_envs: int = 1
    """worlds stepped together"""
    utd: float = 1.0
    """gradient updates per environment transition, whatever num_envs is"""
    batch_size: int = 256
    """transitions per gradient update"""
    buffer_size: int = 1_000_000
    """transitions that the replay buffer holds"""
    learning_starts: int = 5_000
    """transitions of uniformly random actions before the first update"""
    data: tuple[str, ...] = ("replay",)
    """what batches are drawn from, in shares: replay:0.5 dataset:PATH:0.5 (RLPD)"""
    compile: bool = False
    """torch.compile the losses"""
    bfloat16: bool = False
    """matrix products in bfloat16"""
    context: tuple[str, ...] = ()
    """contexts of a task of ours, gravity=4.9,9.8 mass=1,2: every combination, in turn by world"""
    env_options: Mapping[str, Any] = field(default_factory=dict)
    """options of the task, from Python or a config file, e.g. {"ctrl_cost_weight": 0.05}"""
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
