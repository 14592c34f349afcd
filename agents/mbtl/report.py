"""What a matrix holds before anything is claimed of it: structure, luck, what selectors get."""

from typing import Any

import torch
from torch import Tensor

from . import scores
from .checks import row_structure, seed_noise, shares
from .matrix import Matrix
from .selector import replay
from .table import selector_of

COUNTS = (1, 3, 5, 8)  # sources
NAMES = ("equidistant", "spread", "improved", "pairs")
STEPS = 10.0  # contexts over which the seeds' spread is compared with the gap


def report(matrix: Matrix) -> dict[str, Any]:
    """Return the row-structure and seed-noise tests of a matrix, and scores, JSON-ready."""
    count = matrix.values.shape[2]
    card, units = matrix.card, [matrix.unit(s) for s in range(count)]
    mean = matrix.values.mean(2)
    out: dict[str, Any] = {
        "row_structure": _plain(row_structure(mean, matrix.contexts, low=card.low, high=card.high)),
        "shares_by_seed": [_plain(shares(u, matrix.contexts)) for u in units],
        "seed_share": seed_share(matrix.values),
        "seed_noise": None,
        "independent": sum(map(scores.independent, units)) / len(units),
        "oracle": sum(map(scores.oracle, units)) / len(units),
        "performance": {str(k): selected(matrix, k) for k in COUNTS if k <= len(mean)},
    }
    if count > 1:
        out["seed_noise"] = _plain(seed_noise(matrix.values, matrix.contexts, steps=STEPS))
    return out


def seed_share(values: Tensor) -> float:
    """Return the share of the variance of returns [N, N, S] that is between seeds."""
    total = float(values.var(correction=0))
    return float(values.var(2, correction=0).mean()) / total if total else 0.0


def selected(matrix: Matrix, k: int) -> dict[str, float]:
    """Return the generalised performance of k sources by selectors, each seed its own matrix.

    In units; means over seeds. "best-of-k seeds" is of the middle context, "oracle" one order for
    all seeds; both and "random" are exact.
    """
    units = [matrix.unit(s) for s in range(matrix.values.shape[2])]
    got = {
        "oracle": float(scores.myopic_oracle(units, k)[1][-1]),
        "random": sum(scores.random_performance(u, k) for u in units) / len(units),
    }
    for name in NAMES:
        if name == "equidistant" and matrix.contexts.shape[1] > 1:
            continue
        each = []
        for seed, u in enumerate(units):
            picks = replay(selector_of(name, matrix.contexts, k=k, seed=seed), u, k)
            each.append(scores.performance(u[picks]))
        got[name] = sum(each) / len(each)
    if matrix.middle is not None and len(matrix.middle) >= k:
        got["best-of-k seeds"] = scores.random_performance(matrix.unit_middle(), k)
    return got


def _plain(told: Any) -> Any:
    """Return a named tuple as a dict, those in it too."""
    if hasattr(told, "_asdict"):
        return {name: _plain(value) for name, value in told._asdict().items()}
    return told.tolist() if isinstance(told, torch.Tensor) else told
