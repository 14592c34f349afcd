"""Reverie: agents that learn from experience that was not simply lived through.

The names below are loaded on first use, so that `import reverie` needs torch and numpy only.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "make": "envs",
    "Task": "envs",
    "register_task": "envs",
    "ReplayBuffer": "buffers",
    "Transitions": "buffers",
    "Layout": "buffers",
    "mix": "buffers",
    "SAC": "agents",
    "TD3": "agents",
    "advance": "agents",
    "collect": "agents",
    "evaluate": "agents",
    "load_run": "experiments",
    "load_policy": "experiments",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'reverie' has no attribute {name!r}; it has {sorted(_HOME)}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
