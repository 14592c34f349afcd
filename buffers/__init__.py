"""The replay layer: what every learner learns from."""

from .replay import ReplayBuffer, Windows
from .source import Source, mix
from .transitions import Layout, Transitions

__all__ = ["Layout", "ReplayBuffer", "Source", "Transitions", "Windows", "mix"]
