"""What a library of policies is worth: pure functions of returns [sources, targets]."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def served(rows: Tensor) -> Tensor:
    """Return the return [N] of each target under the best of the policies whose rows [K, N] are."""
    return rows.amax(0)


def best_rows(rows: Tensor) -> Tensor:
    """Return the row [N] that serves each target best: the lookup of a library. First of equals."""
    return rows.argmax(0)


def performance(rows: Tensor) -> float:
    """Return the generalised performance of policies: the mean of `served` over targets."""
    return float(served(rows).mean())


def curve(rows: Tensor) -> Tensor:
    """Return the generalised performance [K] of the first 1, 2 ... K rows."""
    return rows.cummax(0).values.mean(1)


def worst_decile(rows: Tensor) -> float:
    """Return the mean of `served` over the tenth of the targets, at least one, it is lowest at."""
    lowest = served(rows).sort().values
    return float(lowest[: max(1, len(lowest) // 10)].mean())


def independent(values: Tensor) -> float:
    """Return the mean of own-context returns of a matrix [N, N]: every context has its policy."""
    return float(values.diagonal().mean())


def oracle(values: Tensor) -> float:
    """Return the generalised performance of all policies of a matrix together."""
    return performance(values)


def step_oracle(values: Tensor, best: Tensor | None = None) -> Tensor:
    """Return what `performance` is after each row [N] more, where `best` [N] is served already."""
    return (values if best is None else values.maximum(best)).mean(1)


def myopic_oracle(matrices: Sequence[Tensor], k: int) -> tuple[list[int], Tensor]:
    """Return the greedy order of k sources that knows matrices [N, N], and its mean curve [k].

    Of several trials it is one common order: it knows the family, and no trial's noise.
    """
    best: list[Tensor | None] = [None] * len(matrices)
    order: list[int] = []
    got: list[Tensor] = []
    for _ in range(k):
        each = [step_oracle(m, b) for m, b in zip(matrices, best, strict=True)]
        after = torch.stack(each).mean(0)
        after[order] = -torch.inf
        order.append(int(after.argmax()))
        rows = [m[order[-1]] for m in matrices]
        best = [r if b is None else b.maximum(r) for r, b in zip(rows, best, strict=True)]
        got.append(after[order[-1]])
    return order, torch.stack(got)


def expected_best(rows: Tensor, k: int) -> Tensor:
    """Return the mean over all subsets of k rows of `served` [N]: exact, by order statistics.

    The j-th smallest of n values is the largest of C(j - 1, k - 1) of the C(n, k) subsets.
    """
    n = len(rows)
    if not 1 <= k <= n:
        raise ValueError(f"k must be from 1 to the {n} rows, got {k}")
    ways = [math.comb(j, k - 1) / math.comb(n, k) for j in range(n)]
    weight = torch.tensor(ways, dtype=rows.dtype)
    return (weight[:, None] * rows.sort(0).values).sum(0)


def random_performance(rows: Tensor, k: int) -> float:
    """Return the expected performance of k rows drawn at random without replacement.

    Rows of all sources: the random selector. Rows of the seeds of one: best-of-k seeds.
    """
    return float(expected_best(rows, k).mean())


def regret(values: Tensor, order: list[int]) -> Tensor:
    """Return the regret [K] of each pick: what the best pick would have given more, history kept.

    A method is told only the rows it picked; this looks at the whole matrix [N, N] afterwards.
    """
    best: Tensor | None = None
    out: list[Tensor] = []
    for i in order:
        after = step_oracle(values, best)
        out.append(after.max() - after[i])
        best = values[i] if best is None else best.maximum(values[i])
    return torch.stack(out)


def span(score: float, low: float, high: float) -> float:
    """Return where a score lies between random (0) and the oracle (1)."""
    if not high > low:
        raise ValueError(f"the oracle ({high}) must be above random ({low})")
    return (score - low) / (high - low)
