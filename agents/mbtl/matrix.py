"""Transfer matrices as files: safetensors with a card beside, replayed without an environment."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...buffers.aside import aside
from ...buffers.dataset import files_of, rows_digest
from ...buffers.shards import sync_file, write_tensors
from ...buffers.untrusted import READING, require_room, small_text, tensors_in, told

# What there may be, with its dimensions.
MORE = {"middle": 2, "halves": 4, "middle_halves": 3, "short": 3, "short_halves": 4}
SHAPE = f"values [N, N, S], contexts [N, d] and maybe {', '.join(MORE)}, float64"


@dataclass(frozen=True)
class MatrixCard:
    """What a matrix was made of."""

    task: str
    """what was trained and played"""
    features: tuple[str, ...]
    """name of each column of the contexts"""
    budget: int
    """environment steps of each source"""
    seeds: tuple[int, ...]
    """seed of each policy of a source"""
    low: float = 0.0
    """the return that counts 0"""
    high: float = 1.0
    """the return that counts 1"""
    versions: Mapping[str, str] = field(default_factory=dict)
    """of the packages that made it"""
    short: int = 0
    """environment steps after which the snapshots of `short` were the best"""
    notes: str = ""
    """what else there is to know"""
    sha256: str = ""
    """of the returns, then the contexts, then what else there is"""


@dataclass(frozen=True)
class Matrix:
    """Returns [N, N, S] of policies: source, target, seed; contexts [N, d] in the order of both.

    `middle` [M, N]: returns of policies of the middle context, of as many seeds as there are of it:
    the S in `values` first. What best-of-k seeds is drawn from. `halves` [2, N, N, S] and
    `middle_halves` [2, M, N]: means over every other episode of the same, so that what chooses a
    policy need not score it. `short` [N, N, S]: of the same trainings, `card.short` steps in;
    `short_halves` [2, N, N, S].

    Raises ValueError for another shape, for returns not finite and for a card of other widths.
    """

    values: Tensor
    contexts: Tensor
    card: MatrixCard
    middle: Tensor | None = None
    halves: Tensor | None = None
    middle_halves: Tensor | None = None
    short: Tensor | None = None
    short_halves: Tensor | None = None

    def __post_init__(self) -> None:
        shape, n, c = tuple(self.values.shape), len(self.contexts), self.card
        want = (n, n, len(c.seeds))
        if shape != want or not n or self.contexts.shape != (n, len(c.features)) or 0 in want:
            raise ValueError(
                f"a matrix is {SHAPE}, of {len(c.seeds)} seeds and features {c.features}; got "
                f"values {shape} and contexts {tuple(self.contexts.shape)}"
            )
        m = 0 if self.middle is None else len(self.middle)
        shapes = (m, n), (2, *want), (2, m, n), want, (2, *want)
        for (name, _), shaped in zip(MORE.items(), shapes, strict=True):
            part = getattr(self, name)
            if part is not None and tuple(part.shape) != shaped:
                raise ValueError(f"{name} is {list(shaped)} of this matrix, got {part.shape}")
        if not all(bool(x.isfinite().all()) for x in self._parts.values()):
            raise ValueError("a matrix has returns or contexts that are not finite")
        if not c.high > c.low:
            raise ValueError(f"high must be above low, got {c.high} and {c.low}")

    @property
    def _parts(self) -> dict[str, Tensor]:
        """The tensors of the file."""
        every = ("values", "contexts", *MORE)
        return {name: x for name in every if (x := getattr(self, name)) is not None}

    def units_of(self, part: str) -> Tensor:
        """Return `values` or one of `MORE` with `low` 0 and `high` 1.

        Raises ValueError for what the matrix does not keep.
        """
        if part not in self._parts:
            raise ValueError(f"the matrix keeps no {part}, only {', '.join(self._parts)}")
        return (self._parts[part] - self.card.low) / (self.card.high - self.card.low)

    def unit_middle(self) -> Tensor:
        """Return the rows [M, N] of the middle context's seeds, in units, as `units_of` does."""
        return self.units_of("middle")

    def unit(self, seed: int | None = None) -> Tensor:
        """Return returns [N, N] of one seed, or the mean of all, with `low` 0 and `high` 1."""
        values = self.units_of("values")
        return values.mean(2) if seed is None else values[..., seed]

    def bootstrap(self, count: int, seed: int) -> Tensor:
        """Return matrices [count, N, N] in units, each row of them that of one seed drawn."""
        n, _, seeds = self.values.shape
        draw = torch.Generator().manual_seed(seed)
        which = torch.randint(seeds, (count, n), generator=draw)
        rows = torch.stack([self.unit(s) for s in range(seeds)])
        return rows[which, torch.arange(n)]

    def save(self, path: str | Path) -> MatrixCard:
        """Write `path`.safetensors and `path`.json, the card with its digest; return the card.

        Raises OSError where the disk refuses either; what was there stays.
        """
        card = replace(self.card, sha256=self.digest)
        file, about = files_of(path)
        with aside(about) as text, aside(file) as tensors:  # the card last: then it is there
            text.write_text(json.dumps(asdict(card), indent=1) + "\n")
            sync_file(text)
            write_tensors(tensors, {k: v.double().contiguous() for k, v in self._parts.items()})
        return card

    @property
    def digest(self) -> str:
        """The sha256 of the returns, the contexts and what is there of the middle one."""
        return rows_digest(torch.cat([x.flatten() for x in self._parts.values()]).double())


def load_matrix(path: str | Path) -> Matrix:
    """Read what `Matrix.save` wrote, checked against its digest; with or without the suffix.

    Raises FileNotFoundError, and ValueError for a damaged file or one that is no matrix.
    """
    file, about = files_of(path)
    for part in (file, about):
        if not part.exists():
            raise FileNotFoundError(f"{part} is missing: a matrix is {file.name} and {about.name}")
    try:
        card = _card(json.loads(small_text(about)))
        held = tensors_in(file)
        shapes = {k: (kind, len(shape)) for k, (kind, shape) in held.items()}
        may = {"values": 3, "contexts": 2, **MORE}
        want = {k: ("F64", d) for k, d in may.items() if k in held or k not in MORE}
        if shapes != want:
            raise ValueError(f"{file.name} holds {str(held)[:200]}, expected {SHAPE}")
        require_room(sum(16 * math.prod(s) for _, s in held.values()), file.stat().st_size)
        matrix = Matrix(**load_file(file), card=card)
    except READING as error:
        raise ValueError(f"{file} is not a readable matrix: {told(error)}") from error
    if matrix.digest != card.sha256:
        raise ValueError(f"{file} does not match the sha256 of its card: the file is damaged")
    return matrix


def _card(given: Any) -> MatrixCard:
    """Return the card of JSON's values; ValueError or TypeError where they are none."""
    card = MatrixCard(**given)
    texts = (card.task, card.notes, card.sha256, *card.features)
    numbers = (card.low, card.high, card.budget, card.short, *card.seeds)
    if not all(isinstance(t, str) for t in texts) or not all(
        isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in numbers
    ):
        raise ValueError(f"a card has texts and finite numbers, got {str(given)[:200]}")
    return replace(card, features=tuple(card.features), seeds=tuple(card.seeds))
