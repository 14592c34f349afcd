"""Settings of world models, of their fits, and of the dreams in them."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..api import Bounds, within

NOISY = ("gstep", "gep")  # Gaussian controls: of every step, of an episode


@dataclass(frozen=True)
class ModelConfig:
    """A world model and its fit."""

    kind: Literal["mlp", "lstm", "gru", "ensemble"] = "mlp"
    """mlp: deterministic, with dropout; lstm, gru: MDN-RNN; ensemble: Gaussian networks"""
    hidden: tuple[int, ...] = (128, 128)
    """layer widths (mlp, ensemble); one width (lstm, gru)"""
    layer_norm: bool = False
    """whether hidden features are layer-normalised"""
    target: Literal["delta", "next"] = "delta"
    """whether the change of the observation is predicted, or the next one"""
    p_train: float = 0.05
    """dropout rate of a fit (not ensemble)"""
    fixed: int = 0
    """masks drawn once and kept for good, in a fit as in a dream (Masksembles); 0: fresh ones"""
    train_scope: Literal["step", "window"] = "step"
    """how long a fit of a recurrent model keeps a mask"""
    mixtures: int = 5
    """Gaussians per dimension (lstm, gru)"""
    members: int = 5
    """networks (ensemble)"""
    lr: float = 1e-3
    """Adam learning rate"""
    batch_size: int = 256
    """transitions (mlp, ensemble) or windows (lstm, gru) per gradient step"""
    window: int = 32
    """steps of a window (lstm, gru)"""
    burn_in: int = 8
    """steps before a window that only set the memory (lstm, gru)"""
    updates: int = 10_000
    """gradient steps of a fit, at most"""
    held_out: float = 0.1
    """share of the episodes by which a fit is judged; 0: none, and no early stopping"""
    judge_every: int = 200
    """gradient steps between two looks at the held-out episodes"""
    patience: int = 2_000
    """gradient steps without a better held-out loss that end a fit; 0: none do"""
    bounds: ClassVar[Bounds] = {
        "hidden": (1, 16_384),
        "p_train": (0, 0.99),
        "fixed": (0, 10_000),
        "mixtures": (1, 1000),
        "members": (2, 1000),
        "lr": (0, 1),
        "batch_size": (1, 10**7),
        "window": (1, 10**6),
        "burn_in": (0, 10**6),
        "updates": (1, 10**9),
        "held_out": (0, 0.9),
        "judge_every": (1, 10**9),
        "patience": (0, 10**9),
    }

    def check(self) -> None:
        """Raise ValueError for settings that no model can have."""
        within(self, **self.bounds)
        if self.kind in ("lstm", "gru") and len(self.hidden) != 1:
            raise ValueError(f"{self.kind} has one hidden width, got hidden={self.hidden}")
        if self.kind == "ensemble" and self.fixed:
            raise ValueError("an ensemble's members are its masks: leave fixed=0")

    @property
    def recurrent(self) -> bool:
        """Whether the model has a memory."""
        return self.kind in ("lstm", "gru")


@dataclass(frozen=True)
class DreamConfig:
    """A dream in a world model."""

    scope: Literal["none", "step", "k-steps", "episode", "fixed-n", "mc-mean", "gstep", "gep"] = (
        "episode"
    )
    """how long a dream keeps a dropout mask, or a member of an ensemble: `none` is without;
    fixed-n: one of the model's for an episode; mc-mean: each step the mean over `copies` masks;
    controls: gstep, gep: Gaussian noise instead, of a step or one offset for an episode"""
    p: float = 0.1
    """dropout rate in the dream, apart from the fit's"""
    every: int = 10
    """steps that a mask lasts (k-steps)"""
    copies: int = 10
    """masks that are averaged over (mc-mean)"""
    sample: bool = True
    """whether outcomes are drawn where the model gives a distribution, or are its mean"""
    horizon: int = 0
    """steps of a dream; 0: of the longest episode that the model was fitted to"""
    end: Literal["bernoulli", "threshold", "rule", "never"] = "bernoulli"
    """when a dream terminates: drawn from the model's probability, when that is above a half, by
    the task's own rule, or not at all"""
    zeta: float = 0.0
    """quantile of the ensemble's disagreement over the data above which a dream is cut (Neubay: 1);
    0: never cut"""
    clip: bool = True
    """whether next_obs and reward are clipped to the data's range"""
    features: bool = False
    """whether observations go with the model's memory h, for a controller on both"""
    bounds: ClassVar[Bounds] = {
        "p": (0, 0.99),
        "every": (1, 10**9),
        "copies": (1, 10_000),
        "horizon": (0, 10**9),
        "zeta": (0, 1),
    }

    def check(self) -> None:
        """Raise ValueError for settings that no dream can have."""
        within(self, **self.bounds)
