"""Where to train when only the contexts are known: lines, gaps, mountains."""

from collections.abc import Sequence

import torch
from torch import Tensor


def middle(contexts: Tensor) -> int:
    """Return the context in the middle: index floor((N - 1) / 2) of a line, else the centroid's.

    Where contexts are whole numbers the centroid is rounded, halves to even.
    """
    if contexts.shape[1] == 1:
        order = contexts[:, 0].argsort(stable=True)
        return int(order[(len(order) - 1) // 2])
    return nearest(contexts, on_grid(contexts, contexts.mean(0)))


def on_grid(contexts: Tensor, point: Tensor) -> Tensor:
    """Return a point [d], rounded where all contexts are whole numbers: halves to even."""
    return point.round() if bool((contexts == contexts.round()).all()) else point


def nearest(contexts: Tensor, point: Tensor, taken: Tensor | None = None) -> int:
    """Return the context nearest to a point [d] by L1, not of those `taken` [N] if given."""
    distance = (contexts - point).abs().sum(1)
    if taken is not None:
        distance = distance.masked_fill(taken, torch.inf)
    return int(distance.argmin())


def equidistant(n: int, k: int) -> list[int]:
    """Return k indices of a line of n, in the middle of k equal pieces; k must be known before.

    Nearest to (n - 1) (2 i + 1) / (2 k), the lower of two as near (CTTL, arXiv 2312.09436).
    """
    return [-((k - (n - 1) * (2 * i + 1)) // (2 * k)) for i in range(k)]


def pseudo_greedy(n: int, taken: Sequence[int]) -> int:
    """Return the index that splits the longest gap of a line of n between `taken` ones (GTTL).

    The first is the middle; a gap at an end is split two thirds of the way to it.
    """
    if not taken:
        return (n - 1) // 2
    knots = [0, *sorted(taken), n - 1]
    i = max(range(len(knots) - 1), key=lambda j: knots[j + 1] - knots[j])
    low, high = knots[i], knots[i + 1]
    at = (low + high) / 2
    if i == 0:
        at = (2 * low + high) / 3
    elif i == len(knots) - 2:
        at = (low + 2 * high) / 3
    free = [j for j in range(n) if j not in taken]
    return min(free, key=lambda j: (abs(j - at), j))


def spread(contexts: Tensor, taken: Sequence[int]) -> int:
    """Return the free context that brings all contexts nearest a source: greedy facility location.

    It leaves the least sum of L1 distances; the first is the middle.
    """
    if not taken:
        return middle(contexts)
    near = torch.cdist(contexts, contexts[list(taken)], p=1).amin(1)
    parts = [torch.cdist(c, contexts, p=1).minimum(near).sum(1) for c in torch.split(contexts, 256)]
    left = torch.cat(parts)
    left[list(taken)] = torch.inf
    return int(left.argmin())


def mountain(contexts: Tensor, taken: Sequence[int], iterations: int = 300) -> int:
    """Return the next source of M-MBTL: the cluster centre that brings targets nearest a source.

    From every context a new centre is refined by k-means under the L1 distance while the sources
    stay; the one that leaves the least sum of distances is rounded to a free context (AAAI 2026,
    arXiv 2601.08120). Rows are not looked at, so that one order serves all matrices of a grid.
    """
    if not taken:
        return middle(contexts)
    near = torch.cdist(contexts, contexts[list(taken)], p=1).amin(1)
    best, total, gone = contexts[0], torch.inf, Gone(contexts)
    for starts in torch.split(contexts, 256):  # memory: [256, N] distances at once
        centres, sums = _refined(contexts, starts.clone(), near, iterations, gone)
        if len(sums) and float(sums.min()) < total:
            total, best = float(sums.min()), centres[sums.argmin()]
    used = torch.zeros(len(contexts), dtype=torch.bool)
    used[list(taken)] = True
    return nearest(contexts, on_grid(contexts, best), used)


class Gone:
    """Clusters that a centre has had: what comes to one later goes where that one went."""

    def __init__(self, x: Tensor) -> None:
        draw = torch.Generator().manual_seed(0)
        # Sums of whole numbers below 2^38 are exact, so that a cluster has one pair of them.
        self.codes = torch.randint(2**38, (len(x), 2), generator=draw).to(x)
        self.first: dict[tuple[float, ...], int] = {}
        self.starts = 0

    def where_first(self, clusters: Tensor, starts: Tensor) -> Tensor:
        """Return the rows of clusters [C, N] that no start but their own came to before."""
        codes = (clusters @ self.codes).tolist()
        own = (starts + self.starts).tolist()
        kept = [
            row
            for row, (code, start) in enumerate(zip(codes, own, strict=True))
            if self.first.setdefault(tuple(code), start) == start
        ]
        return torch.tensor(kept, dtype=torch.long)


def _refined(
    x: Tensor, centres: Tensor, near: Tensor, iterations: int, gone: Gone
) -> tuple[Tensor, Tensor]:
    """Return centres [C, d] after k-means with all others fixed, and the sums of distances [C].

    Of starts that come to the same cluster the first stays.
    """
    mine = torch.cdist(centres, x, p=1) <= near
    going = torch.arange(len(centres))  # centres that still move
    stay = torch.ones(len(centres), dtype=torch.bool)
    for _ in range(iterations):
        here = mine[going].to(x)
        first = gone.where_first(here, going)
        stay[going] = False
        going, here = going[first], here[first]
        stay[going] = True
        at = centres[going]
        count = here.sum(1, keepdim=True)
        moved = torch.where(count > 0, here @ x / count.clamp(min=1), at)
        moves = (moved - at).abs().amax(1) >= 1e-6
        going = going[moves]
        if not len(going):
            break
        centres[going] = moved[moves]
        distance, held = torch.cdist(centres[going], x, p=1), mine[going]
        mine[going] = (distance < near) | (held & (distance <= near))  # as near to both: it stays
    gone.starts += len(centres)
    left = centres[stay]
    return left, torch.cdist(left, x, p=1).minimum(near).sum(1)
