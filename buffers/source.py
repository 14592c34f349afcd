"""The one thing a learner ever sees of data, and how sources combine."""

import math
from collections.abc import Collection, Sequence
from typing import Any, Protocol, runtime_checkable

from .transitions import Transitions, concatenate


@runtime_checkable
class Source(Protocol):
    """Anything that hands out batches: a buffer, a dataset, a mixture, a dream."""

    def sample(self, n: int) -> Transitions:
        """Return n transitions in memory that is never written again."""
        ...


class Mixture:
    """Fixed shares of several sources in every batch (RLPD, Ball et al. 2023, section 4.1)."""

    def __init__(self, parts: Sequence[tuple[Source, float]]) -> None:
        shares = [share for _, share in parts]
        if not parts or any(not math.isfinite(s) or s < 0 for s in shares) or sum(shares) <= 0:
            raise ValueError(
                f"mix needs shares that are finite, not negative and sum above 0: got {shares}"
            )
        self.sources = [source for source, _ in parts]
        self.shares = [share / sum(shares) for share in shares]

    def counts(self, n: int) -> list[int]:
        """Rows of each source in a batch of n: the largest-remainder rounding of the shares."""
        exact = [n * share for share in self.shares]
        out = [math.floor(x + 1e-9) for x in exact]
        by_remainder = sorted(range(len(exact)), key=lambda i: out[i] - exact[i])
        for i in by_remainder[: n - sum(out)]:
            out[i] += 1
        return out

    def sample(self, n: int) -> Transitions:
        """Concatenate the sources' batches, keeping the extra columns that all of them have."""
        counts = self.counts(n)
        return concatenate([s.sample(k) for s, k in zip(self.sources, counts, strict=True) if k])


def mix(parts: Sequence[tuple[Source, float]]) -> Source:
    """Return a source whose batches hold the given share of each part, e.g. [(a, .5), (b, .5)]."""
    return Mixture(parts)


def leaves(source: Source) -> list[Source]:
    """Return the sources that a source draws from, mixtures of mixtures taken apart, in order."""
    if not isinstance(source, Mixture):
        return [source]
    return [leaf for part in source.sources for leaf in leaves(part)]


def state_of(source: Source, stores: Collection[Any] = ()) -> list[Any]:
    """Return the state of each leaf; None for one without, and for those that lie in `stores`."""
    return [
        None if not hasattr(s, "state_dict") or _among(s, stores) else s.state_dict()
        for s in leaves(source)
    ]


def load_state(source: Source, state: Sequence[Any], stores: Collection[Any] = ()) -> None:
    """Continue from `state_of`."""
    for leaf, kept in zip(leaves(source), state, strict=True):
        if hasattr(leaf, "load_state_dict") and not _among(leaf, stores):
            leaf.load_state_dict(kept)


def _among(x: Any, others: Collection[Any]) -> bool:
    return any(x is other for other in others)
