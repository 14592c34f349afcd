"""Choosing what to train next: ask for contexts, tell the rows that their policies earned."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .scores import served


class Seen(NamedTuple):
    """What a rule may look at."""

    contexts: Tensor  # [N, d]
    picks: list[int]  # trained, in the order they were told
    rows: Tensor  # [K, N]: their returns on every context
    pending: tuple[int, ...] = ()  # asked for, not told

    @property
    def taken(self) -> list[int]:
        """Contexts that are not to be chosen again."""
        return [*self.picks, *self.pending]

    @property
    def own(self) -> Tensor:
        """Returns [K] of the trained policies on their own contexts."""
        return self.rows[torch.arange(len(self.picks)), self.picks]


class Look(NamedTuple):
    """What a rule with a process expects of training on each context [N]."""

    mean: Tensor
    sd: Tensor
    gain: Tensor  # in generalised performance


class Rule(Protocol):
    """How the next context is chosen. What it remembers beside the rows is its state."""

    def choose(self, seen: Seen) -> int:
        """Return an untaken context."""
        ...

    def believe(self, seen: Seen, index: int) -> Tensor:
        """Return the row [N] that stands for a policy not yet trained, where others are chosen."""
        return served(seen.rows)  # no better than those before

    def look(self, seen: Seen) -> Look | None:
        """Return what is expected after the rows seen; None for a rule without a process."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember it."""
        return None  # there is nothing


class Selector:
    """Chooses sources for contexts [N, d], one or several at a time, by a rule.

    Of several the rule is told its own belief for those before (kriging believer).
    """

    def __init__(self, contexts: Tensor, rule: Rule) -> None:
        if contexts.ndim != 2 or not len(contexts) or not bool(torch.isfinite(contexts).all()):
            raise ValueError(f"contexts must be finite rows [N, d], got {tuple(contexts.shape)}")
        self.contexts, self.rule = contexts.double(), rule
        self.picks: list[int] = []
        self.pending: list[int] = []
        self.rows = self.contexts.new_zeros(0, len(contexts))

    @property
    def seen(self) -> Seen:
        """What has been told, and what is awaited."""
        return Seen(self.contexts, self.picks, self.rows, tuple(self.pending))

    def ask(self, count: int = 1) -> list[int]:
        """Return `count` contexts to train next; each is awaited until its row is told.

        Raises ValueError for more than are left.
        """
        left = len(self.contexts) - len(self.picks) - len(self.pending)
        if not 1 <= count <= left:
            raise ValueError(f"asked for {count} contexts of the {left} that are left")
        for _ in range(count):
            self.pending.append(self.rule.choose(self._believed()))
        return self.pending[-count:]

    def _believed(self) -> Seen:
        """Return what is seen, with a belief for each awaited row; none before the first row."""
        seen = self.seen
        if not len(seen.rows):
            return seen
        for i in self.pending:
            row = self.rule.believe(seen._replace(pending=()), i)
            rows = torch.cat([seen.rows, row[None]])
            seen = Seen(seen.contexts, [*seen.picks, i], rows)
        return seen

    def tell(self, index: int, row: Tensor) -> None:
        """Take the returns [N] of the policy trained on a context, on every context.

        Raises ValueError for one told before, for another width and for returns not finite.
        """
        if not 0 <= index < len(self.contexts) or index in self.picks:
            raise ValueError(f"context {index} is told already, or not of {len(self.contexts)}")
        if row.shape != (len(self.contexts),) or not bool(torch.isfinite(row).all()):
            raise ValueError(
                f"a row has a finite return for each of {len(self.contexts)} contexts, "
                f"got {tuple(row.shape)}"
            )
        if index in self.pending:
            self.pending.remove(index)
        self.picks.append(index)
        self.rows = torch.cat([self.rows, row.double()[None]])

    def state_dict(self) -> dict[str, Any]:
        """Return what was told and asked, and what the rule remembers."""
        return {
            "picks": list(self.picks),
            "pending": list(self.pending),
            "rows": self.rows.clone(),
            "rule": self.rule.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`. Raises ValueError where it is of other contexts."""
        picks, pending, rows = list(state["picks"]), list(state["pending"]), state["rows"]
        n = len(self.contexts)
        if tuple(rows.shape) != (len(picks), n) or not all(0 <= i < n for i in picks + pending):
            raise ValueError(f"rows {tuple(rows.shape)} are not {len(picks)} rows of {n} contexts")
        self.rule.load_state_dict(state["rule"])
        self.picks, self.pending, self.rows = picks, pending, rows.double().clone()


class Locked:
    """A matrix [N, N] of which only rows of trained contexts can be read."""

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self.trained: set[int] = set()

    def train(self, index: int) -> Tensor:
        """Return the row [N] of a context, which may be read from now on."""
        self.trained.add(index)
        return self[index]

    def __getitem__(self, index: int) -> Tensor:
        """Return the row [N]; LookupError where the context was not trained."""
        if index not in self.trained:
            raise LookupError(f"context {index} is not trained: its row is not known")
        return self._values[index]


def replay(selector: Selector, values: Tensor, k: int, batch: int = 1) -> list[int]:
    """Return the k sources that a selector picks where its rows are those of a matrix [N, N]."""
    locked = Locked(values)
    while len(selector.picks) < k:
        for i in selector.ask(min(batch, k - len(selector.picks))):
            selector.tell(i, locked.train(i))
    return selector.picks
