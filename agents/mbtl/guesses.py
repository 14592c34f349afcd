"""First guesses: many contexts are trained for a little, the most promising of them to the end.

Rows of short trainings, as a matrix keeps them (`Matrix.short`), are a low fidelity of its rows. A
policy trained on costs what is left of its budget, and the short ones serve in the library too.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .geometry import spread
from .matrix import Matrix
from .scores import myopic_oracle


class Guesses(NamedTuple):
    """Contexts trained for a little, and those of them trained to the end, the best first."""

    short: list[int]
    whole: list[int]

    def rows(self, values: Tensor, short: Tensor) -> Tensor:
        """Return the library's rows, of returns [N, N] of whole and of short trainings."""
        return torch.cat([values[self.whole], short[self.short]])


def shared_out(budget: int, whole: int, share: float) -> int:
    """Return how many contexts can be tried where `whole` of them are trained to the end.

    `budget`: of whole trainings; `share` of one is a short one, of which each whole one is made.
    Raises ValueError where none is left to choose from.
    """
    tried = int((budget - whole * (1 - share)) / share + 1e-9)
    if not 1 <= whole < tried:
        raise ValueError(
            f"{whole} whole trainings of {budget}, and short ones of {share:g}: {tried} could be "
            f"tried, of which nothing is chosen; give 1 to {budget - 1} whole ones"
        )
    return tried


def guessed(contexts: Tensor, short: Tensor, tried: int, whole: int) -> Guesses:
    """Return `tried` contexts (all, if those are fewer), spread, and `whole` of them by their rows.

    `short` [N, N]: only rows of the tried are read. Chosen greedily: each gives the library of
    those to be trained on the most, as far as the short rows say.
    """
    places: list[int] = []
    for _ in range(min(tried, len(contexts))):
        places.append(spread(contexts, places))
    order, _ = myopic_oracle([short[places]], whole)
    return Guesses(places, [places[i] for i in order])


def share_of(matrix: Matrix) -> float:
    """Return which share of its budget a short training of a matrix is; ValueError for none."""
    if matrix.short is None or not 0 < matrix.card.short < matrix.card.budget:
        raise ValueError("the matrix keeps no rows of short trainings: draw it with --short 0.2")
    return matrix.card.short / matrix.card.budget
