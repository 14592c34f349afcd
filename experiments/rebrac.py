"""Train ReBRAC on offline data: TD3+BC with penalties in actor and critic, LayerNorm, depth."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..agents import Policy
from ..agents.td3 import TD3, TD3Config
from .loops import offline, offline_session
from .loops.options import OfflineOptions
from .runs.config import check, from_dict
from .runs.result import Result

# Tarasov et al. 2023 (arXiv:2305.09836): three hidden layers, LayerNorm in the critics, lr 1e-3,
# batches of 1,024 for MuJoCo. bc_alpha 10 is their beta_1 = 0.017 for six actions.
_AGENT = TD3Config(
    lr=1e-3, hidden=(256, 256, 256), critic_norm="layer", bc_alpha=10.0, critic_bc=0.1
)


@dataclass(frozen=True)
class Config(OfflineOptions):
    """A run on offline data."""

    standardise: bool = False
    """observations as z-scores of the data"""
    agent: TD3Config = _AGENT
    """the learner"""


PRESETS = {
    "default": Config(),
    "paper": Config(batch_size=1024, steps=1_000_000),
    "quick": Config(agent=replace(_AGENT, hidden=(256, 256)), steps=20_000),
}
STEP = "gradient steps"


def main(config: Config | None = None, *, resume: bool = False) -> Result:
    """Train as configured; `resume` continues the run directory bit for bit."""
    return offline.run_offline("rebrac", TD3, check(config or Config()), resume)


def load(config: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[Policy, int]:
    """Return the policy of a run's checkpoint, and the width of its observations."""
    return offline_session.load(from_dict(TD3Config, config["agent"]), state)
