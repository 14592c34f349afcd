"""A fit of a world model, a gradient step at a time, judged by episodes that it does not see."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...buffers import Dataset, ReplayBuffer, Transitions
from ..api import Metrics
from ..networks import step
from ..seeding import generator
from ..training import adam, digest, facts, flatten, pack, unpack
from .config import ModelConfig
from .data import episodes, held_out, store_of
from .models import Model

JUDGED = 4096  # held-out transitions of a look, at most


class Fit:
    """`begin`, then `fit_step` until `done`; the best weights of the fit are the model's then.

    A further fit goes on from the weights that there are, with new statistics. The data is a store
    of whole episodes; some, the same ones as it grows, are only looked at (`held_out`).
    """

    saved = ("model", "optimizer", "generator", "best", "best_loss", "updates", "total", "stale",
        "fits", "rows", "digest")  # fmt: skip

    def __init__(self, model: Model, *, seed: int = 0) -> None:
        self.model, self.config, self.seed = model, model.config, seed
        self._flat = flatten(model)
        self.optimizer = adam(self._flat, self.config.lr)
        self.generator = generator(seed, "world model fit")
        self.best, self.best_loss = self._flat.detach().clone(), torch.tensor(math.inf)
        self.updates = self.total = 0  # of this fit: done, planned
        self.stale = 0  # gradient steps since the best held-out loss
        self.fits = 0  # begun
        self.rows = self.digest = 0  # of this fit: how many, and which
        self._parts: tuple[ReplayBuffer, ReplayBuffer | None] | None = None
        self._look: tuple[Transitions, Tensor] | None = None

    def begin(self, data: ReplayBuffer | Dataset, updates: int | None = None) -> None:
        """Start a fit to a store's episodes; `updates` of it instead of the setting's.

        Raises ValueError where there is nothing to learn from, or to be judged by.
        """
        if not len(data):
            raise ValueError("the store is empty: a world model needs transitions to be fitted to")
        parts = episodes(data)
        longest = int(parts.lengths.max())
        self.model.scale(data.layout.unpack(parts.rows), longest)
        self.optimizer = adam(self._flat, self.config.lr)
        self.updates, self.total, self.stale = 0, updates or self.config.updates, 0
        self.best, self.best_loss = self._flat.detach().clone(), torch.tensor(math.inf)
        self.fits, self.rows, self.digest = self.fits + 1, len(parts.rows), digest(parts.rows)
        self._parts, self._look = None, None
        self._split(data)

    @property
    def done(self) -> bool:
        """Whether the fit is over: all its steps are done, or it no longer got better."""
        patience = self.config.patience if self.config.held_out else 0
        return self.updates >= self.total or bool(patience and self.stale >= patience)

    def fit_step(self, data: ReplayBuffer | Dataset) -> Metrics:
        """Take a gradient step on the data that `begin` was given; return `loss` and, when due,
        `held_out_loss`. Raises ValueError after the fit's end and for other data.
        """
        if self.done:
            raise ValueError(f"the fit is over after {self.updates} updates: begin another")
        c, (train, held) = self.config, self._split(data)
        batch, mask = drawn(train, c)
        loss = self.model.loss(batch, mask, self.model.train_masks(batch, self.generator))
        step(self.optimizer, loss)
        self.updates += 1
        metrics = {"loss": loss.detach()}
        if held is not None and (self.updates % c.judge_every == 0 or self.updates == self.total):
            metrics["held_out_loss"] = self._judge(held)
        return metrics

    @torch.no_grad()
    def _judge(self, held: ReplayBuffer) -> Tensor:
        """Return the held-out loss without masks; keep the best weights, end the fit with them."""
        if self._look is None:  # the same rows at every look of a fit, so that looks compare
            held.generator = generator(self.seed, f"look {self.fits}")
            few = replace(self.config, batch_size=judged(self.config, len(held)))
            self._look = drawn(held, few)
        loss = self.model.loss(*self._look, ())
        if bool(loss < self.best_loss):
            self.best, self.best_loss, self.stale = self._flat.detach().clone(), loss, 0
        else:
            self.stale += self.config.judge_every
        if self.done:
            self._flat.copy_(self.best)
        return loss

    def _split(self, data: ReplayBuffer | Dataset) -> tuple[ReplayBuffer, ReplayBuffer | None]:
        """Return the episodes to learn from, whose draws are the fit's, and those held out."""
        if self._parts is None:
            parts = episodes(data)
            if len(parts.rows) != self.rows or digest(parts.rows) != self.digest:
                raise ValueError(
                    f"the fit began with {self.rows} rows and goes on with {len(parts.rows)} "
                    "others: give the same ones"
                )
            held = held_out(parts.name, self.config.held_out)
            train = store_of(data.layout, parts, ~held)
            train.generator = self.generator
            self._parts = train, store_of(data.layout, parts, held) if held.any() else None
        return self._parts

    @property
    def about(self) -> dict[str, Any]:
        """What the model was fitted on, and how: numbers and text."""
        return facts(self)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs but the data, the model included."""
        return pack(self, self.saved)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`, with a model of the same settings."""
        unpack(self, self.saved, state)
        self._parts = self._look = None


def drawn(store: ReplayBuffer, config: ModelConfig) -> tuple[Transitions, Tensor]:
    """Return a batch of transitions [B] or of windows [B, L], and which of its rows are real."""
    if config.recurrent:
        return store.sample_windows(config.batch_size, config.window, config.burn_in)
    batch = store.sample(config.batch_size)
    return batch, torch.ones_like(batch.reward)


def judged(config: ModelConfig, rows: int) -> int:
    """Return how many transitions or windows of the held-out rows a look takes."""
    return max(min(rows, JUDGED) // (config.window if config.recurrent else 1), 1)
