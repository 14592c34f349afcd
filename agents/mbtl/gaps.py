"""Generalisation gaps: how the return falls with the way from source to target."""

from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK = 1 << 20  # pairs of contexts whose returns are predicted at once


def sides(source: Tensor, target: Tensor) -> Tensor:
    """Return [S, T, 2 d]: min(x - x', 0) and max(x - x', 0) in each dimension."""
    way = source[:, None] - target[None]
    return torch.cat([way.clamp(max=0), way.clamp(min=0)], -1)


def fit_sides(contexts: Tensor, picks: Sequence[int], rows: Tensor) -> Tensor:
    """Return the slopes [2 d] of rows [K, N] over `sides`, by ordinary least squares (SD-MBTL)."""
    features = sides(contexts[list(picks)], contexts).flatten(0, 1)
    features = torch.cat([torch.ones_like(features[:, :1]), features], 1)
    normal, cross = features.T @ features, features.T @ rows.flatten()
    slopes: Tensor = torch.linalg.pinv(normal, hermitian=True) @ cross
    return slopes[1:]


class Pairs:
    """Slopes [2 d] times `sides` of every pair of contexts [N, d], a few rows of sources at a time.

    A grid has few values in a dimension: their terms are computed once, and added up for each row.
    """

    def __init__(self, contexts: Tensor, slopes: Tensor) -> None:
        below, above = slopes.chunk(2)
        self.terms: list[tuple[Tensor, Tensor]] = []
        for i, column in enumerate(contexts.T):
            values, place = column.unique(return_inverse=True)
            way = values[:, None] - column[None]
            self.terms.append((place, torch.where(way < 0, below[i], above[i]) * way))

    def rows(self, index: Tensor) -> Tensor:
        """Return the sum [S, N] for sources [S]."""
        place, term = self.terms[0]
        out = term[place[index]]
        for place, term in self.terms[1:]:
            out += term[place[index]]
        return out


def improvement(contexts: Tensor, value: Tensor, slopes: Tensor, best: Tensor) -> Tensor:
    """Return a(x) [N] = mean over x' of max(value(x) + slopes . sides(x, x') - best(x'), 0)."""
    pairs, n = Pairs(contexts, slopes), len(contexts)
    parts = [
        (pairs.rows(index) + (value[index, None] - best)).clamp_(min=0).mean(1)
        for index in torch.split(torch.arange(n), max(1, CHUNK // n))
    ]
    return torch.cat(parts)
