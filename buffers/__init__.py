"""The replay layer: what every learner learns from."""

from .replay import ReplayBuffer
from .source import Source, mix
from .transitions import Layout, Transitions, concatenate
from .windows import Windows

__all__ = ["Layout", "ReplayBuffer", "Source", "Transitions", "Windows", "concatenate", "mix"]
