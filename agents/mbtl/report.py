"""What a matrix holds before anything is claimed of it: structure, luck, what selectors get."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import scores
from .checks import row_structure, seed_noise, shares
from .matrix import Matrix
from .selector import replay
from .table import selector_of

COUNTS = (1, 2, 3, 5, 8)  # sources
NAMES = ("equidistant", "spread", "improved", "pairs", "own", "gp", "paper", "switch")
STEPS = 10.0  # contexts over which the seeds' spread is compared with the gap


def report(matrix: Matrix) -> dict[str, Any]:
    """Return the row-structure and seed-noise tests of a matrix, and scores, JSON-ready."""
    count = matrix.values.shape[2]
    card, units = matrix.card, [matrix.unit(s) for s in range(count)]
    picked = picks(matrix, [k for k in COUNTS if k <= len(matrix.contexts)])
    mean = matrix.values.mean(2)
    out: dict[str, Any] = {
        "row_structure": _plain(row_structure(mean, matrix.contexts, low=card.low, high=card.high)),
        "shares_by_seed": [_plain(shares(u, matrix.contexts)) for u in units],
        "seed_share": seed_share(matrix.values),
        "seed_noise": None,
        "independent": sum(map(scores.independent, units)) / len(units),
        "oracle": sum(map(scores.oracle, units)) / len(units),
        "performance": {str(k): selected(matrix, k, own) for k, own in picked.items()},
        "picks": picked,
    }
    if count > 1:
        out["seed_noise"] = _plain(seed_noise(matrix.values, matrix.contexts, steps=STEPS))
    return out


def seed_share(values: Tensor) -> float:
    """Return the share of the variance of returns [N, N, S] that is between seeds."""
    total = float(values.var(correction=0))
    return float(values.var(2, correction=0).mean()) / total if total else 0.0


Picks = dict[str, list[list[int]]]  # of each selector: [S, K]


def picks(matrix: Matrix, counts: Sequence[int]) -> dict[int, Picks]:
    """Return for each count of sources those that selectors pick, each seed its own matrix.

    They are kept with a matrix: a verdict on it is of selectors from before anybody saw it. Only
    `equidistant`, of one dimension, depends on the count; the others are asked once.
    """
    units = [matrix.unit(s) for s in range(matrix.values.shape[2])]

    def of(name: str, k: int) -> list[list[int]]:
        each = enumerate(units)
        return [replay(selector_of(name, matrix.contexts, k=k, seed=s), u, k) for s, u in each]

    most = {name: of(name, max(counts)) for name in NAMES if name != "equidistant"}
    line = matrix.contexts.shape[1] == 1
    return {
        k: {
            **({"equidistant": of("equidistant", k)} if line else {}),
            **{name: [order[:k] for order in orders] for name, orders in most.items()},
        }
        for k in counts
    }


def selected(matrix: Matrix, k: int, picked: Picks) -> dict[str, float]:
    """Return the generalised performance of k sources, of selectors by what they picked.

    In units; means over seeds. "best-of-k seeds" is of the middle context, "oracle" one order for
    all seeds; both and "random" are exact.
    """
    units = [matrix.unit(s) for s in range(matrix.values.shape[2])]
    got = {
        "oracle": float(scores.myopic_oracle(units, k)[1][-1]),
        "random": sum(scores.random_performance(u, k) for u in units) / len(units),
    }
    for name, orders in picked.items():
        each = [scores.performance(u[own]) for u, own in zip(units, orders, strict=True)]
        got[name] = sum(each) / len(each)
    if matrix.middle is not None and len(matrix.middle) >= k:
        got["best-of-k seeds"] = scores.random_performance(matrix.unit_middle(), k)
    return got


def _plain(told: Any) -> Any:
    """Return a named tuple as a dict, those in it too."""
    if hasattr(told, "_asdict"):
        return {name: _plain(value) for name, value in told._asdict().items()}
    return told.tolist() if isinstance(told, torch.Tensor) else told
