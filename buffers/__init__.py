"""The replay layer: what every learner learns from."""

from .replay import ReplayBuffer, Windows
from .source import Source, mix
from .transitions import Layout, Transitions, concatenate

__all__ = ["Layout", "ReplayBuffer", "Source", "Transitions", "Windows", "concatenate", "mix"]
