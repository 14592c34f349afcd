"""Settings that make no sense are told before anything runs."""

from typing import Any


def within(config: Any, **bounds: tuple[float, float]) -> None:
    """Raise ValueError unless each named setting lies within its bounds, ends included."""
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if not low <= value <= high:
            kind = type(config).__name__
            raise ValueError(f"{kind}: {name} must be in [{low}, {high}], got {value}")
