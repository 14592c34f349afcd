"""What learns and what acts."""

from .api import Agent, Metrics, Policy, State, reset_where
from .sac import SAC, SACConfig
from .simple import RandomPolicy
from .td3 import TD3, TD3Config

__all__ = [
    "SAC",
    "TD3",
    "Agent",
    "Metrics",
    "Policy",
    "RandomPolicy",
    "SACConfig",
    "State",
    "TD3Config",
    "reset_where",
]
