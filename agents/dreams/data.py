"""Whole episodes of a store: those that a model learns from, and those that judge it."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...buffers import Dataset, Layout, ReplayBuffer
from .streams import mixed


class Episodes(NamedTuple):
    """Packed rows [M, width] episode by episode, and which one each is of [M]: 0, 1, ..."""

    rows: Tensor
    episode: Tensor
    name: Tensor  # [E] of each episode, the same as the store grows

    @property
    def lengths(self) -> Tensor:
        """Rows of each episode [E]."""
        return torch.bincount(self.episode)


def episodes(data: ReplayBuffer | Dataset) -> Episodes:
    """Return the valid rows of a store, in the order of its worlds."""
    if isinstance(data, Dataset):
        label = torch.zeros(len(data), dtype=torch.int64)
        label[1:] = data.ends[:-1].cumsum(0)
        return Episodes(data.rows, label, torch.arange(int(label[-1]) + 1))
    parts = data.export_rows(data.oldest, data.total)
    world = torch.arange(data.num_envs).expand_as(parts["episode"])
    kept = ~parts["invalid"].T
    names = (world * 2**40 + parts["episode"]).T[kept]
    first = torch.ones(len(names), dtype=torch.bool)
    first[1:] = names[1:] != names[:-1]
    label = first.cumsum(0) - 1
    return Episodes(parts["rows"].transpose(0, 1)[kept], label, names[first])


def held_out(name: Tensor, share: float) -> Tensor:
    """Return which episodes [E] are held out: one stays so as others are added; one at least."""
    if not share:
        return torch.zeros(len(name), dtype=torch.bool)
    if len(name) < 2:
        raise ValueError(
            "the data is a single episode, of which none can be held out: collect more, or give "
            "held_out=0"
        )
    place = torch.from_numpy(mixed(name.numpy().astype(np.uint64)).astype(np.float64)) / 2.0**64
    held = place < share
    held[place.argmin()] = True
    held[place.argmax()] = False
    return held


def store_of(layout: Layout, parts: Episodes, chosen: Tensor) -> ReplayBuffer:
    """Return a store of the chosen episodes [E] alone."""
    kept = chosen[parts.episode]
    rows, label = parts.rows[kept], parts.episode[kept]
    n = len(rows)
    store = ReplayBuffer(layout, n)
    store.load_state_dict({
        "capacity": n, "total": n, "base": 0, "first": 0,
        "current": label.amax()[None] + 1, "generator": store.generator.get_state(),
        "data": {
            "rows": rows[:, None], "episode": label[:, None],
            "invalid": torch.zeros(n, 1, dtype=torch.bool),
        },
    })  # fmt: skip
    return store
