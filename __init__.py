"""Reverie: agents that learn from experience that was not simply lived through.

The names below are loaded on first use, so that `import reverie` needs torch and numpy only.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agents import (
        SAC,
        TD3,
        Agent,
        Policy,
        RandomPolicy,
        SACConfig,
        TD3Config,
        advance,
        collect,
        evaluate,
    )
    from .agents.offline.bc import BC, BCConfig
    from .agents.offline.iql import IQL, IQLConfig
    from .buffers import Dataset, Layout, ReplayBuffer, Source, Transitions, load_dataset, mix
    from .envs import BatchEnv, Contexts, Task, make, register_task
    from .experiments.runs.loading import load_policy
    from .experiments.runs.result import load_run

__version__ = "0.1.0"

_HOME = {
    "BC": "agents.offline.bc",
    "BCConfig": "agents.offline.bc",
    "IQL": "agents.offline.iql",
    "IQLConfig": "agents.offline.iql",
    "SAC": "agents",
    "SACConfig": "agents",
    "TD3": "agents",
    "TD3Config": "agents",
    "Agent": "agents",
    "Policy": "agents",
    "RandomPolicy": "agents",
    "advance": "agents",
    "collect": "agents",
    "evaluate": "agents",
    "Dataset": "buffers",
    "Layout": "buffers",
    "ReplayBuffer": "buffers",
    "Source": "buffers",
    "Transitions": "buffers",
    "load_dataset": "buffers",
    "mix": "buffers",
    "BatchEnv": "envs",
    "Contexts": "envs",
    "Task": "envs",
    "make": "envs",
    "register_task": "envs",
    "load_policy": "experiments.runs.loading",
    "load_run": "experiments.runs.result",
}
__all__ = [
    "BC",
    "IQL",
    "SAC",
    "TD3",
    "Agent",
    "BCConfig",
    "BatchEnv",
    "Contexts",
    "Dataset",
    "IQLConfig",
    "Layout",
    "Policy",
    "RandomPolicy",
    "ReplayBuffer",
    "SACConfig",
    "Source",
    "TD3Config",
    "Task",
    "Transitions",
    "__version__",
    "advance",
    "collect",
    "evaluate",
    "load_dataset",
    "load_policy",
    "load_run",
    "make",
    "mix",
    "register_task",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'reverie' has no attribute {name!r}; it has {sorted(_HOME)}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
