"""Settings of the diffusion model, and the published ones."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..api import Bounds, within


@dataclass(frozen=True)
class DiffusionConfig:
    """Settings of the diffusion model; the defaults are the fast ones, for a CPU."""

    width: int = 256
    """hidden width of the denoiser (online as published: 1024; offline: 1024 or 2048)"""
    depth: int = 6
    """residual blocks, one linear layer each"""
    noise_width: int = 128
    """width in which features and noise level meet (online as published: 256)"""
    lr: float = 3e-4
    """Adam learning rate, which falls to 0 along a cosine over a fit"""
    batch_size: int = 256
    """rows per update, drawn with replacement (offline from 800k rows on: 1024)"""
    updates: int = 10_000
    """updates of a fit (as published: 100,000)"""
    warm: bool = True
    """continue from the last fit's weights; false: from new ones, as published"""
    held_out: float = 0.05
    """share of the rows that no fit ever learns from: they choose the best weights"""
    judge_every: int = 500
    """updates between two looks at the held-out loss"""
    patience: int = 10
    """looks without a better held-out loss that end a fit; 0: it is never ended early"""
    actions: Literal["arctanh", "raw"] = "arctanh"
    """arctanh: modelled as arctanh of the action, so that none leaves the box; raw: as they are"""
    clip: bool = True
    """clip generated raw actions to [-1, 1]; as published: not"""
    terminal: Literal["rule", "threshold", "raw", "none"] = "rule"
    """rule: by the task's rule from the next observation, threshold where there is none; threshold:
    a modelled column, cut at 0.5; raw: that column uncut, as published online; none: never"""
    reward: Literal["rule", "modelled", "raw"] = "rule"
    """rule: computed by the task from the row where it can, modelled where not; modelled: a column;
    raw: a column that is not normalised, as published on DMC"""
    sampler: Literal["dpm", "sde", "heun"] = "sde"
    """dpm: DPM-Solver++ 2M, a network call for each level; sde: the same with noise at each level;
    heun: the published stochastic one"""
    levels: int = 16
    """noise levels of the sampler; heun takes 2 * levels - 1 network calls (as published: 128)"""
    sigma_max: float = 10.0
    """noise that sampling begins with, in standard deviations (as published: 80)"""
    sigma_min: float = 0.2
    """the last noise, which one network call takes away: what is finer is averaged (as published:
    0.002, nothing)"""
    bounds: ClassVar[Bounds] = {
        "width": (1, 16_384),
        "depth": (0, 1000),
        "noise_width": (1, 16_384),
        "lr": (0, 1),
        "batch_size": (1, 10**7),
        "updates": (1, 10**9),
        "held_out": (0, 0.5),
        "judge_every": (1, 10**9),
        "patience": (0, 10**9),
        "levels": (2, 10_000),
        "sigma_max": (0.1, 1e4),
        "sigma_min": (1e-6, 1e4),
    }

    def check(self) -> None:
        """Raise ValueError for a setting that is out of its bounds or none of its choices."""
        within(self, **self.bounds)
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"DiffusionConfig: sigma_min={self.sigma_min} must be below sigma_max, got "
                f"{self.sigma_max}"
            )


FAITHFUL = DiffusionConfig(
    width=1024,
    noise_width=256,
    updates=100_000,
    warm=False,
    held_out=0.0,
    patience=0,
    actions="raw",
    clip=False,
    terminal="threshold",
    reward="modelled",
    sampler="heun",
    levels=128,
    sigma_max=80.0,
    sigma_min=0.002,
)
