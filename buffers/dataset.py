"""Offline data: transitions that do not change, whole episodes in the order of time, and a card."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .aside import aside
from .card import Card, card_of, is_named, is_whole
from .shards import sync_file, write_tensors
from .transitions import Layout, Transitions
from .untrusted import READING, require_room, small_text, tensors_in, told

_ROWS = "rows"


def _layout(values: Any) -> Layout:
    widths = {k: values[k] for k in ("obs_dim", "act_dim")}
    extra = values.get("extra", {})
    if not is_named({**widths, **extra}, lambda x: is_whole(x, 1)):
        raise ValueError(f"the widths of a layout must be whole numbers, got {str(values)[:80]}")
    return Layout(**widths, extra=extra)


class Dataset:
    """Offline transitions, episode after episode; a `Source`.

    The last row of an episode has `terminated` or `truncated` set, and only that one: where the
    recording was cut, `truncated`. Rows are [M, width] float32 in the packed layout and are
    never written again. Draws come from the dataset's own generator. Raises ValueError for no
    row, another width, a value that is not finite, a flag that is not 0 or 1, an open end, or an
    action beyond [-1, 1].
    """

    def __init__(self, layout: Layout, rows: Tensor, card: Card, *, seed: int = 0) -> None:
        _check(layout, rows)
        self.layout, self.rows, self.card = layout, rows, card
        self.device = rows.device
        self.generator = torch.Generator(rows.device).manual_seed(seed)

    @classmethod
    def of(cls, batch: Transitions, card: Card, *, seed: int = 0) -> "Dataset":
        """Return a dataset of transitions [M] in episode order; extra columns are kept."""
        widths = {k: 1 if v.ndim == 1 else int(v.shape[1]) for k, v in batch.extra.items()}
        extra = {k: v.flatten() if widths[k] == 1 else v for k, v in batch.extra.items()}
        layout = Layout(int(batch.obs.shape[1]), int(batch.action.shape[1]), widths)
        return cls(layout, layout.pack(batch._replace(extra=extra)), card, seed=seed)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def all(self) -> Transitions:
        """Every row, as views."""
        return self.layout.unpack(self.rows)

    @property
    def ends(self) -> Tensor:
        """Return the mask [M] of rows that end an episode."""
        return (self.all.terminated + self.all.truncated) > 0

    def episodes(self) -> list[tuple[int, int]]:
        """Return the first row and the one after the last of every episode."""
        after = (self.ends.nonzero().flatten() + 1).tolist()
        return list(zip([0, *after[:-1]], after, strict=True))

    def returns(self) -> Tensor:
        """Return the undiscounted return [E] float64 of every episode."""
        total = self.all.reward.double().cumsum(0)[self.ends]
        return torch.diff(total, prepend=total.new_zeros(1))

    def sample(self, n: int) -> Transitions:
        """Draw n transitions uniformly with replacement, in fresh memory."""
        index = torch.randint(len(self.rows), (n,), generator=self.generator, device=self.device)
        return self.gather(index)

    def gather(self, index: Tensor) -> Transitions:
        """Return the transitions at rows `index` [n], in fresh memory."""
        return self.layout.unpack(self.rows.index_select(0, index))

    def select(self, index: Tensor, *, seed: int = 0) -> "Subset":
        """Return the source of these rows only: what a memory keeps of the data."""
        return Subset(self, index, seed=seed)

    def head(self, n: int) -> "Dataset":
        """Return the first n rows; an episode that this cuts says so."""
        rows = self.rows[:n].clone()
        last = self.layout.unpack(rows[-1])
        if not bool(last.terminated + last.truncated):
            rows[-1, self.layout.slices["truncated"]] = 1.0
        return Dataset(self.layout, rows, self.card, seed=self.generator.initial_seed())

    def share(self, fraction: float, *, seed: int = 0) -> "Dataset":
        """Return that share of the rows, drawn at random; an episode is cut where one is missing.

        They stay in their order. At least one row is drawn.
        """
        draws = torch.Generator().manual_seed(seed)
        n = max(1, round(fraction * len(self)))
        kept = torch.randperm(len(self), generator=draws)[:n].sort().values
        rows = self.rows[kept.to(self.device)]
        followed = torch.zeros(n, dtype=torch.bool)
        followed[:-1] = kept[1:] == kept[:-1] + 1
        flags = self.layout.unpack(rows)
        flags.truncated[~followed.to(self.device) & (flags.terminated == 0)] = 1.0
        return Dataset(self.layout, rows, self.card, seed=self.generator.initial_seed())

    def with_next_action(self) -> "Dataset":
        """Return the data with the column `next_action`: what was done next, 0 after an end.

        Raises ValueError where every row is cut, as generated ones are: none says it then.
        """
        data = self.all
        if bool(self.ends.all() and data.truncated.any()):
            raise ValueError(
                f"each of the {len(self)} rows ends an episode, so none says what was done next "
                "(next_action): give data with whole episodes, or a learner that does not ask"
            )
        following = torch.cat([data.action[1:], torch.zeros_like(data.action[:1])])
        following = torch.where(self.ends[:, None], 0.0, following)
        extra = {**data.extra, "next_action": following}
        seed = self.generator.initial_seed()
        return Dataset.of(data._replace(extra=extra), self.card, seed=seed)

    def to(self, device: str | torch.device) -> "Dataset":
        """Return the data on another device, with the draws that this one would have made."""
        rows = self.rows.to(device)
        if rows.device == self.device:
            return self
        return Dataset(self.layout, rows, self.card, seed=self.generator.initial_seed())

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation [O] of the observations, for standardising."""
        return self.all.obs.mean(0), self.all.obs.std(0) + 1e-3  # as TD3+BC's code

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state; the rows are their file's."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.generator.set_state(state["generator"])

    def save(self, path: str | Path) -> Card:
        """Write `path`.safetensors and `path`.json, the card with the digest; return the card.

        Raises OSError where the disk refuses either; what was there stays.
        """
        card = replace(self.card, sha256=rows_digest(self.rows))
        layout = {"obs_dim": self.layout.obs_dim, "act_dim": self.layout.act_dim}
        about = {"layout": {**layout, "extra": dict(self.layout.extra)}, "card": asdict(card)}
        file, told = files_of(path)
        with aside(told) as text, aside(file) as rows:  # the card last: then the dataset is there
            text.write_text(json.dumps(about, indent=1) + "\n")
            sync_file(text)
            write_tensors(rows, {_ROWS: self.rows.cpu().contiguous()})
        return card


class Subset:
    """Some rows of a dataset; a `Source`. Raises ValueError for no row or one out of range."""

    def __init__(self, data: Dataset, index: Tensor, *, seed: int = 0) -> None:
        index = torch.as_tensor(index, dtype=torch.int64, device=data.device)
        if not len(index) or int(index.min()) < 0 or int(index.max()) >= len(data):
            raise ValueError(f"{len(index)} indices do not lie within {len(data)} rows")
        self.data, self.index = data, index
        self.generator = torch.Generator(data.device).manual_seed(seed)

    def __len__(self) -> int:
        return len(self.index)

    def sample(self, n: int) -> Transitions:
        """Draw n of the rows uniformly with replacement, in fresh memory."""
        size, device = len(self.index), self.data.device
        draw = torch.randint(size, (n,), generator=self.generator, device=device)
        return self.data.gather(self.index[draw])

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.generator.set_state(state["generator"])


def rows_digest(rows: Tensor) -> str:
    """Return the sha256 of the rows' bytes."""
    return hashlib.sha256(rows.cpu().contiguous().numpy().data).hexdigest()


def load(path: str | Path, *, seed: int = 0) -> Dataset:
    """Read what `save` wrote, checked against its digest; `path` with or without the suffix.

    Raises FileNotFoundError, and ValueError for a damaged file or one that is no dataset.
    """
    file, about = files_of(path)
    for part in (file, about):
        if not part.exists():
            raise FileNotFoundError(f"{part} is missing: a dataset is {file.name} and {about.name}")
    try:
        given = json.loads(small_text(about))
        layout, card = _layout(given["layout"]), card_of(given["card"])
        held = tensors_in(file)
        kind, shape = held.get(_ROWS, ("", ()))
        if len(held) > 1 or kind != "F32" or len(shape) != 2 or shape[1] != layout.width:
            want = f"{_ROWS!r} alone, F32 of width {layout.width}"
            raise ValueError(f"{file.name} holds {str(held)[:200]}, expected {want}")
        require_room(2 * 4 * math.prod(shape), file.stat().st_size)
        rows = load_file(file)[_ROWS]
        data = Dataset(layout, rows, card, seed=seed)
    except READING as error:
        raise ValueError(f"{path} is not a readable dataset: {told(error)}") from error
    if rows_digest(rows) != card.sha256:
        raise ValueError(f"{file} does not match the sha256 of its card: the file is damaged")
    return data


def files_of(path: str | Path) -> tuple[Path, Path]:
    """Return the tensors and the card of what lies under a path, given with or without a suffix."""
    path = Path(path)
    path = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path
    return path.with_name(path.name + ".safetensors"), path.with_name(path.name + ".json")


def join(parts: Sequence[Dataset], card: Card) -> Dataset:
    """Return the data of several, one after the other; layouts must agree."""
    if any(p.layout != parts[0].layout for p in parts):
        raise ValueError("datasets of different layouts cannot be joined")
    return Dataset(parts[0].layout, torch.cat([p.rows for p in parts]), card)


def _check(layout: Layout, rows: Tensor) -> None:
    if rows.ndim != 2 or rows.shape[1] != layout.width or not len(rows):
        raise ValueError(
            f"rows of shape {tuple(rows.shape)} do not fit a layout of width {layout.width}"
        )
    if rows.dtype != torch.float32:
        raise ValueError(f"rows are {rows.dtype}, expected float32")
    bad = ~torch.isfinite(rows).all(1)
    if bool(bad.any()):
        raise ValueError(f"row {int(bad.int().argmax())} has a value that is not finite")
    batch = layout.unpack(rows)
    flags = torch.stack([batch.terminated, batch.truncated])
    if not bool(((flags == 0) | (flags == 1)).all()):
        raise ValueError("terminated and truncated must be 0 or 1")
    if not bool((flags[:, -1] > 0).any()):
        raise ValueError("the last episode is open: set truncated where the recording was cut")
    if float(batch.action.abs().max()) > 1 + 1e-5:
        worst = float(batch.action.abs().max())
        raise ValueError(
            f"actions must lie in [-1, 1], found {worst:.4g}: map them by the environment's "
            "bounds, as reverie.envs.actions_of(ENV).to_unit(actions) does"
        )
