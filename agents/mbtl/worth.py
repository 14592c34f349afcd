"""What libraries picked from a stored matrix are worth, seed by seed: the samples of a verdict.

The policies of a matrix are as many draws as it has seeds. So a selector has one value for each
seed; best-of-k seeds of the middle context, a mean over subsets of all its seeds, has a jackknife
pseudo-value for each (Efron, Stein 1981), whose mean is that mean and whose spread is its noise.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from . import scores
from .guesses import guessed, share_of, shared_out
from .matrix import Matrix

BEST = "best-of-k seeds"
KNOWN = ("random", "oracle")  # need no picks
GUESSES = "guesses-"  # and how many of the guesses are trained to the end
EARLY = " and early"  # a selector's sources with what they were after their short trainings
Metric = Callable[[Tensor], Tensor]  # of rows [P, ..., K, N], of P parts of the episodes: [...]


def performance(rows: Tensor) -> Tensor:
    """Return the mean over targets of the best policy's return."""
    return rows[0].amax(-2).mean(-1)


def worst_decile(rows: Tensor) -> Tensor:
    """Return the mean over the tenth of the targets, at least one, that are served worst."""
    lowest = rows[0].amax(-2).sort(-1).values
    return lowest[..., : max(1, rows.shape[-1] // 10)].mean(-1)


def served_held_out(rows: Tensor) -> Tensor:
    """Return what each target earns [..., N] where one half of the episodes chooses its policy.

    The other half scores it; rows [2, ..., K, N], both ways. What one set of episodes both chooses
    and scores is too good by its luck.
    """
    halves = ((rows[0], rows[1]), (rows[1], rows[0]))
    both = [score.gather(-2, by.argmax(-2, keepdim=True)).squeeze(-2) for by, score in halves]
    return (both[0] + both[1]) / 2


def held_out(rows: Tensor) -> Tensor:
    """Return the mean of `served_held_out` over targets."""
    return served_held_out(rows).mean(-1)


METRICS: Mapping[str, tuple[Metric, str, str]] = {  # and which rows of a matrix they are of
    "performance": (performance, "values", "middle"),
    "worst_decile": (worst_decile, "values", "middle"),
    "held_out": (held_out, "halves", "middle_halves"),
}
SHORT = {"values": "short", "halves": "short_halves"}  # the same of short trainings


def sample(
    matrix: Matrix, name: str, k: int, picks: Mapping[str, Sequence[Sequence[int]]], metric: str
) -> Tensor:
    """Return the values, in units, of k sources of a selector: [S], or [M] of best-of-k seeds.

    `picks`: of the selectors, each seed's. "oracle" has one order for all seeds, greedy by
    `performance`; "random" is a mean over subsets; "guesses-W" tries contexts by short trainings
    and trains W of them to the end, all for the budget of k; "improved and early" has each source
    twice, as guesses do. Raises ValueError for what is not there.
    """
    value, part, middle = METRICS[metric]
    if name == BEST:
        return pseudo_values(_parts(matrix, middle, 2), k, value)
    rows = _parts(matrix, part, 3).movedim(-1, 0)  # [S, P, N, N]
    if name.startswith(GUESSES):
        return _guesses(matrix, int(name.removeprefix(GUESSES)), k, metric)
    if name == "random":
        draws = subsets(len(matrix.contexts), k)
        return torch.stack([value(own[:, draws]).mean() for own in rows])
    if name == "oracle":
        units = list(matrix.units_of("values").unbind(2))
        orders: Sequence[Sequence[int]] = [scores.myopic_oracle(units, k)[0]] * len(units)
    elif (selector := name.removesuffix(EARLY)) in picks:
        orders = picks[selector]
    else:
        raise ValueError(f"no picks of {name!r}, only of {', '.join([BEST, *KNOWN, *picks])}")
    libraries = [own[:, list(order)] for own, order in zip(rows, orders, strict=True)]
    if name.endswith(EARLY):
        early = _parts(matrix, SHORT[part], 3).movedim(-1, 0)
        pairs = zip(libraries, early, orders, strict=True)
        libraries = [torch.cat([own, x[:, list(order)]], 1) for own, x, order in pairs]
    return torch.stack([value(own) for own in libraries])


def _guesses(matrix: Matrix, whole: int, k: int, metric: str) -> Tensor:
    """Return the values [S] of first guesses that cost as much training as k whole ones."""
    value, part, _ = METRICS[metric]
    tried, out = shared_out(k, whole, share_of(matrix)), []
    units, shorts = _parts(matrix, part, 3), _parts(matrix, SHORT[part], 3)  # [P, N, N, S]
    for s, by in enumerate(matrix.units_of("short").unbind(2)):
        g = guessed(matrix.contexts, by, tried, whole)
        own = zip(units[..., s], shorts[..., s], strict=True)
        out.append(value(torch.stack([g.rows(values, short) for values, short in own])))
    return torch.stack(out)


def _parts(matrix: Matrix, part: str, dimensions: int) -> Tensor:
    """Return rows with the parts of the episodes that they are means over in front."""
    rows = matrix.units_of(part)
    return rows if rows.ndim > dimensions else rows[None]


def subsets(n: int, k: int, most: int = 20_000) -> Tensor:
    """Return all subsets [C, k] of n, or `most` drawn ones where there are more."""
    if not 1 <= k <= n:
        raise ValueError(f"k must be from 1 to the {n} rows, got {k}")
    if math.comb(n, k) <= most:
        return torch.tensor(list(itertools.combinations(range(n), k)))
    draw = torch.Generator().manual_seed(0)
    return torch.rand(most, n, generator=draw).argsort(1)[:, :k]


def pseudo_values(rows: Tensor, k: int, value: Metric) -> Tensor:
    """Return the jackknife pseudo-values [M] of the mean worth of k of rows [P, M, N].

    M mean - (M - 1) mean without the seed. Raises ValueError without more than k seeds.
    """
    m = rows.shape[1]
    if m <= k:
        raise ValueError(f"best of {k} seeds needs more than the {m} that the matrix has")
    draws = torch.tensor(list(itertools.combinations(range(m), k)))
    each = value(rows[:, draws])
    left = torch.stack([each[(draws != s).all(1)].mean() for s in range(m)])
    return m * each.mean() - (m - 1) * left
