"""The card of a dataset: where it comes from. Anybody may have written it."""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Card:
    """Where a dataset comes from, and what its returns mean."""

    env: str
    """environment id"""
    policy: str = "unknown"
    """who acted"""
    context: Mapping[str, float | Sequence[float]] = field(default_factory=dict)
    """the task's context: feature to value, or to several, of which the rows have every
    combination and `context_id` counts them, the last feature varying fastest"""
    env_options: Mapping[str, Any] = field(default_factory=dict)
    """options of the task"""
    max_episode_steps: int | None = None
    """time limit of the episodes"""
    seed: int | None = None
    """seed of the worlds and of the policy's noise"""
    random_return: float | None = None
    """mean return of uniformly random actions: 0 of a normalised score"""
    reference_return: float | None = None
    """mean return of the reference policy: 100 of a normalised score"""
    versions: Mapping[str, str] = field(default_factory=dict)
    """packages that made it"""
    sha256: str = ""
    """digest of the rows; written by `save`, checked by `load`"""

    def __post_init__(self) -> None:
        """Refuse values of another type: cards come from anybody."""
        for name, (test, what) in _FIELDS.items():
            if not test(value := getattr(self, name)):
                text = repr(value) if len(repr(value)) < 80 else f"{repr(value)[:80]}..."
                raise ValueError(f"the card's {name} must be {what}, got {text}")

    @property
    def has_references(self) -> bool:
        """Whether there are two different reference returns."""
        low, high = self.random_return, self.reference_return
        return low is not None and high is not None and low != high

    def normalised(self, value: float) -> float:
        """Return a return as a score, 100 (x - random) / (reference - random) (D4RL, Fu 2020)."""
        low, high = self.random_return, self.reference_return
        if low is None or high is None or low == high:
            raise ValueError(
                f"the card of {self.env} has random_return={low} and reference_return={high}: two "
                "different numbers are needed for a score"
            )
        return 100 * (value - low) / (high - low)


def is_number(x: Any) -> bool:
    """Whether a value is a finite number."""
    real = isinstance(x, numbers.Real) and not isinstance(x, bool)
    return real and bool(abs(x) < math.inf)


def _one_or_more(x: Any) -> bool:
    several = isinstance(x, (list, tuple)) and len(x) > 0
    return all(map(is_number, x)) if several else is_number(x)


def is_whole(x: Any, low: int) -> bool:
    """Whether a value is a whole number from `low` on that 64 bits hold."""
    whole = isinstance(x, numbers.Integral) and not isinstance(x, bool)
    return whole and bool(low <= x < 2**63)


def _plain(x: Any, depth: int = 4) -> bool:
    """Whether a value is one that JSON has, not nested deeply."""
    if isinstance(x, Mapping):
        return depth > 0 and all(isinstance(k, str) and _plain(v, depth - 1) for k, v in x.items())
    if isinstance(x, (list, tuple)):
        return depth > 0 and all(_plain(v, depth - 1) for v in x)
    return x is None or isinstance(x, (bool, int, float, str))


def is_named(x: Any, test: Callable[[Any], bool]) -> bool:
    """Whether a value maps names to values that pass the test."""
    return isinstance(x, Mapping) and all(isinstance(k, str) and test(v) for k, v in x.items())


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "env": (lambda x: isinstance(x, str) and bool(x.strip()), "an environment's id"),
    "policy": (lambda x: isinstance(x, str), "text"),
    "context": (lambda x: is_named(x, _one_or_more), "finite numbers by name"),
    "env_options": (lambda x: is_named(x, _plain), "options by name"),
    "max_episode_steps": (lambda x: x is None or is_whole(x, 0), "a whole number or null"),
    "seed": (lambda x: x is None or is_whole(x, -(2**63)), "a whole number or null"),
    "random_return": (lambda x: x is None or is_number(x), "a finite number or null"),
    "reference_return": (lambda x: x is None or is_number(x), "a finite number or null"),
    "versions": (lambda x: is_named(x, lambda v: isinstance(v, str)), "versions by name"),
    "sha256": (lambda x: isinstance(x, str), "text"),
}


def card_of(values: Any) -> Card:
    """Return the card in a JSON value; unknown keys are those of a later version. ValueError."""
    if not isinstance(values, Mapping) or "env" not in values:
        raise ValueError(f"no card of a dataset: {str(values)[:80]}")
    known = {f.name for f in fields(Card)}
    return Card(**{k: v for k, v in values.items() if k in known})
