"""What differs between dreams of one model, and how long: a mask, or a member of an ensemble."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..api import State
from . import masks as dropout
from .api import WorldModel
from .config import NOISY, DreamConfig
from .masks import Masks
from .streams import MASKS, Stream, Words, child

Indices = np.ndarray[Any, Any]


class Varying:
    """The masks of N worlds, renewed when their scope says so.

    A world's mask follows from its episode's key and the number of the mask in it. For mc-mean
    each world has several copies, [copies * N] rows in the model.
    """

    def __init__(self, model: WorldModel, config: DreamConfig, num_envs: int) -> None:
        self.model, self.config, self.num_envs = model, config, num_envs
        self.count = config.copies if config.scope == "mc-mean" else 1
        self.width = sum(model.mask_widths)
        some = self.width if model.members == 1 else 1
        self.on = config.scope not in ("none", *NOISY) and some > 0
        if model.members == 1 and config.scope != "fixed-n" and not config.p:
            self.on = False  # masks of ones
        self.held: Tensor | None = None  # masks [rows, width], or members [rows]

    def copies(self, tensors: State) -> State:
        """Return each tensor [N, ...] once for every copy, [copies * N, ...]."""
        if self.count == 1:
            return tensors
        return tuple(x.repeat(self.count, *[1] * (x.dim() - 1)) for x in tensors)

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean [N, ...] over copies of [copies * N, ...]."""
        return x if self.count == 1 else x.view(self.count, -1, *x.shape[1:]).mean(0)

    def stream(self, draws: Stream) -> Stream:
        """Return a stream that draws the same for every copy of a world."""
        if self.count == 1:
            return draws
        return Stream(np.tile(child(draws.keys, 0), self.count))

    def put(self, state: State, rows: Tensor, values: Sequence[Tensor]) -> State:
        """Return the memory with that of worlds `rows` replaced in every copy."""
        every = torch.cat([rows + i * self.num_envs for i in range(self.count)])
        new = self.copies(tuple(values))
        return tuple(s.index_copy(0, every, v) for s, v in zip(state, new, strict=True))

    def begin(self, ids: Indices, keys: Words, elapsed: Indices | None = None) -> None:
        """Draw what worlds `ids` hold from the start of an episode, or from `elapsed` steps on."""
        scope = self.config.scope
        if not self.on or scope in ("step", "mc-mean"):
            return
        number = elapsed // self.config.every if scope == "k-steps" and elapsed is not None else 0
        self._hold(ids, self._draw(child(child(keys, MASKS), number)))

    def masks(self, keys: Words, elapsed: Indices) -> Masks:
        """Return the masks of this step, after renewing those whose time is over."""
        scope = self.config.scope
        if not self.on:
            return ()
        if scope in ("step", "mc-mean"):
            self.held = self._draw(child(child(keys, MASKS), elapsed))
        elif scope == "k-steps":
            due = np.flatnonzero((elapsed % self.config.every == 0) & (elapsed > 0))
            if len(due):
                number = elapsed[due] // self.config.every
                self._hold(due, self._draw(child(child(keys[due], MASKS), number)))
        assert self.held is not None
        if self.model.members > 1:
            return (self.held,)
        return dropout.parts(self.held, self.model.mask_widths)

    def _hold(self, ids: Indices, drawn: Tensor) -> None:
        if self.held is None or len(ids) == self.num_envs:
            self.held = drawn
        else:
            self.held = self.held.index_copy(0, torch.from_numpy(ids), drawn)

    def _draw(self, keys: Words) -> Tensor:
        """Return the masks [copies * n, width] of n worlds, or members [copies * n]."""
        stream, n = Stream(keys), len(keys)
        table = self.model.fixed_masks if self.config.scope == "fixed-n" else None
        if self.model.members > 1:
            return (stream.uniform(self.count) * self.model.members).long().T.flatten()
        if table is not None:
            return table[(stream.uniform(1)[:, 0] * len(table)).long()]
        drawn = dropout.drawn(stream, self.count * self.width, self.config.p)
        if self.count == 1:
            return drawn
        return drawn.reshape(n, self.count, self.width).transpose(0, 1).flatten(0, 1)
