"""Runs: one script per method, and what they share."""

from importlib import import_module
from typing import Any

_HOME = {"load_policy": "runs.loading", "load_run": "runs.result"}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {sorted(_HOME)}")
