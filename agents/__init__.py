"""What learns and what acts."""

from .acting import Returns, advance
from .api import Agent, Holds, Metrics, Policy, RandomPolicy, State, bare, reset_where
from .playing import Evaluation, collect, evaluate
from .sac import SAC, SACConfig
from .td3 import TD3, TD3Config

__all__ = [
    "SAC",
    "TD3",
    "Agent",
    "Evaluation",
    "Holds",
    "Metrics",
    "Policy",
    "RandomPolicy",
    "Returns",
    "SACConfig",
    "State",
    "TD3Config",
    "advance",
    "bare",
    "collect",
    "evaluate",
    "reset_where",
]
