"""Train TD3+BC on offline data: TD3 whose actor also clones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..agents import Policy
from ..agents.td3 import TD3, TD3Config
from .loops import offline, offline_session
from .loops.options import OfflineOptions
from .runs.config import check, from_dict
from .runs.result import Result


@dataclass(frozen=True)
class Config(OfflineOptions):
    """A run on offline data."""

    agent: TD3Config = field(default_factory=lambda: TD3Config(bc_alpha=2.5))
    """the learner"""


PRESETS = {"default": Config(), "quick": Config(steps=20_000)}
STEP = "gradient steps"


def main(config: Config | None = None, *, resume: bool = False) -> Result:
    """Train as configured; `resume` continues the run directory bit for bit."""
    return offline.run_offline("td3bc", TD3, check(config or Config()), resume)


def load(config: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[Policy, int]:
    """Return the policy of a run's checkpoint, and the width of its observations."""
    return offline_session.load(from_dict(TD3Config, config["agent"]), state)
