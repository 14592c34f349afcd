"""What a world model is to a dream, and to a fit."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ...buffers import Transitions
from ..api import State
from .masks import Masks
from .streams import Stream


class Prediction(NamedTuple):
    """What a model says of one step of N worlds."""

    next_obs: Tensor  # [N, O]
    reward: Tensor  # [N]
    terminated: Tensor  # [N] probability
    state: State


class Limits(Protocol):
    """What a model knows of the data that it was fitted to."""

    @property
    def low(self) -> Tensor:
        """Least next_obs and reward [O + 1]."""
        ...

    @property
    def high(self) -> Tensor:
        """Greatest next_obs and reward [O + 1]."""
        ...

    @property
    def ends(self) -> Tensor:
        """1 if some row terminated, else 0."""
        ...

    @property
    def horizon(self) -> int:
        """Steps of the longest episode; 0 before any data."""
        ...


class WorldModel(Protocol):
    """Predicts a step; what varies between two dreams comes from outside."""

    @property
    def obs_dim(self) -> int:
        """Width of an observation."""
        ...

    @property
    def act_dim(self) -> int:
        """Width of an action."""
        ...

    @property
    def mask_widths(self) -> tuple[int, ...]:
        """Widths of the masks that it takes, in order."""
        ...

    @property
    def members(self) -> int:
        """Models that it is made of: 1 unless it is an ensemble."""
        ...

    @property
    def fixed_masks(self) -> Tensor | None:
        """[n, sum(mask_widths)] if it was fitted with fixed masks."""
        ...

    @property
    def scales(self) -> Limits:
        """What it knows of its data."""
        ...

    def initial_state(self, n: int) -> State:
        """Return the memory at the start of n episodes; () if it has none."""
        ...

    def predict(
        self, obs: Tensor, action: Tensor, state: State, masks: Masks, generator: Stream | None
    ) -> Prediction:
        """Predict one step of obs [N, O] and actions [N, A].

        `masks`: one [N, width] for each of `mask_widths`, or (). `generator`: where the draws of
        a distribution come from; None predicts its mean.
        """
        ...


class Doubting(WorldModel, Protocol):
    """A world model that says where it is not to be trusted."""

    def disagreement(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return how far its members are apart [N], in z-scores."""
        ...


class Fitted(WorldModel, Protocol):
    """A world model that a fit can improve."""

    def scale(self, rows: Transitions, horizon: int) -> None:
        """Take the statistics of the data, of rows [B]."""
        ...

    def train_masks(self, batch: Transitions, generator: torch.Generator) -> Masks:
        """Draw what a step of a fit drops."""
        ...

    def loss(self, batch: Transitions, mask: Tensor, masks: Masks) -> Tensor:
        """Return the loss of the rows where `mask` is not 0."""
        ...
