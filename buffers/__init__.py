"""The replay layer: what every learner learns from."""

from .card import Card
from .dataset import Dataset, Subset
from .dataset import load as load_dataset
from .replay import ReplayBuffer
from .source import Source, mix
from .transitions import Layout, Transitions, columns, concatenate
from .windows import Windows

__all__ = [
    "Card",
    "Dataset",
    "Layout",
    "ReplayBuffer",
    "Source",
    "Subset",
    "Transitions",
    "Windows",
    "columns",
    "concatenate",
    "load_dataset",
    "mix",
]
