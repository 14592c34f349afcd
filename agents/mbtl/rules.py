"""Rules that know no model: places, chance, the worst served, the truth."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..seeding import generator
from . import geometry
from .scores import served, step_oracle
from .selector import Rule, Seen


class Places(Rule):
    """Chooses by where the contexts and the sources are alone: `order(contexts, taken)`."""

    def __init__(self, order: Callable[[Tensor, Sequence[int]], int]) -> None:
        self.order = order

    def choose(self, seen: Seen) -> int:
        """Return the next of the order."""
        return self.order(seen.contexts, seen.taken)


def line(contexts: Tensor, name: str) -> Tensor:
    """Return the order [N] of contexts [N, 1] along their line; ValueError for more dimensions."""
    if contexts.shape[1] != 1:
        raise ValueError(f"{name} is for contexts of one dimension, got {contexts.shape[1]}")
    return contexts[:, 0].argsort(stable=True)


def equidistant(k: int) -> Places:
    """Return the rule of k sources in the middle of k equal pieces, fixed before; then a spread."""

    def order(contexts: Tensor, taken: Sequence[int]) -> int:
        along = line(contexts, "equidistant")
        for place in geometry.equidistant(len(along), k):
            if int(along[place]) not in taken:
                return int(along[place])
        return geometry.spread(contexts, taken)

    return Places(order)


def pseudo_greedy() -> Places:
    """Return the rule that splits the longest gap."""

    def order(contexts: Tensor, taken: Sequence[int]) -> int:
        along = line(contexts, "pseudo-greedy")
        places = {int(c): i for i, c in enumerate(along)}
        return int(along[geometry.pseudo_greedy(len(along), [places[i] for i in taken])])

    return Places(order)


class Random(Rule):
    """Chooses uniformly among untaken contexts, with a generator of its own."""

    def __init__(self, seed: int) -> None:
        self.generator = generator(seed, "mbtl random")

    def choose(self, seen: Seen) -> int:
        """Return one drawn."""
        taken = set(seen.taken)
        free = [i for i in range(len(seen.contexts)) if i not in taken]
        return free[int(torch.randint(len(free), (1,), generator=self.generator))]

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on drawing from there."""
        self.generator.set_state(state["generator"])


def least(seen: Seen, score: Tensor) -> int:
    """Return the untaken context with the least score [N]; the first of equals."""
    score = score.clone()
    score[seen.taken] = torch.inf
    return int(score.argmin())


class WorstServed(Rule):
    """Chooses the context that is served worst: a trap where one cannot be learnt."""

    def choose(self, seen: Seen) -> int:
        """Return it; the middle, then a spread, before the first row is known."""
        if not len(seen.rows):
            return geometry.spread(seen.contexts, seen.taken)
        return least(seen, served(seen.rows))


class SequentialOracle(Rule):
    """Knows the matrix [N, N], and chooses what raises the generalised performance most."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def choose(self, seen: Seen) -> int:
        """Return it."""
        best = served(self.values[seen.taken]) if seen.taken else None
        return least(seen, -step_oracle(self.values, best))
