"""Units of a world model: z-scores of the data, column by column, and the data's range."""

import torch
from torch import Tensor, nn

from ...buffers import Transitions
from ...buffers.transitions import NEXT_KNOWN


def known(batch: Transitions) -> Tensor:
    """Return 1 where the data tells the successor, else 0: [...]."""
    told = batch.extra.get(NEXT_KNOWN)
    return torch.ones_like(batch.reward) if told is None else told


class Scales(nn.Module):
    """Z-scores of observations and of what is predicted of them, the reward's apart.

    What is the same in every row (a clock's tick, a reward of 1) stays so whatever is predicted.

    A small reward beside large state changes weighs as much as each of them (Barkley &
    Fridovich-Keil 2025). `target`: what is predicted, the change of the observation or the next.
    """

    obs_mean: Tensor
    obs_std: Tensor
    out_mean: Tensor
    out_std: Tensor
    low: Tensor
    high: Tensor
    facts: Tensor

    def __init__(self, obs_dim: int, target: str) -> None:
        super().__init__()
        self.obs_dim, self.target = obs_dim, target
        for name, width in (("obs", obs_dim), ("out", obs_dim + 1)):
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_std", torch.ones(width))
        self.register_buffer("low", torch.full((obs_dim + 1,), -torch.inf))
        self.register_buffer("high", torch.full((obs_dim + 1,), torch.inf))
        self.register_buffer("facts", torch.zeros(2))  # whether anything terminated, the horizon

    @property
    def ends(self) -> Tensor:
        """1 if some row of the data terminated, else 0: then nothing does in a dream."""
        return self.facts[0]

    @property
    def horizon(self) -> int:
        """Steps of the longest episode of the data; 0 before any."""
        return int(self.facts[1])

    @property
    def varies(self) -> Tensor:
        """Which numbers to be predicted [O + 1] differ between rows: others are their mean."""
        return self.out_std > 0

    def fit(self, rows: Transitions, horizon: int) -> None:
        """Take the statistics of rows [B]; those that do not tell the successor give no target."""
        there = known(rows) > 0
        out = torch.cat([rows.next_obs, rows.reward[:, None]], 1)[there]
        # Starts of a dream come from obs, and so does its range.
        seen = torch.cat([out, torch.cat([rows.obs, rows.reward[:, None]], 1)])
        self.low.copy_(seen.amin(0))
        self.high.copy_(seen.amax(0))
        self.facts.copy_(torch.tensor([float(rows.terminated.any()), horizon]))
        size = torch.maximum(self.low.abs(), self.high.abs())
        for name, x, unit in (("obs", rows.obs, 1.0), ("out", self.raw(rows)[there], 0.0)):
            mean, std = x.mean(0), x.std(0)
            # Relative: rewards may be of any size, and a clock's ticks differ by its rounding.
            constant = std <= 1e-6 * size[: len(std)]
            getattr(self, f"{name}_mean").copy_(mean)
            getattr(self, f"{name}_std").copy_(torch.where(constant, unit, std))

    def raw(self, batch: Transitions) -> Tensor:
        """Return what is to be predicted [..., O + 1], in the data's units."""
        first = batch.next_obs - batch.obs if self.target == "delta" else batch.next_obs
        return torch.cat([first, batch.reward[..., None]], -1)

    def targets(self, batch: Transitions) -> Tensor:
        """Return what is to be predicted [..., O + 1], as z-scores."""
        return (self.raw(batch) - self.out_mean) / torch.where(self.varies, self.out_std, 1.0)

    def inputs(self, obs: Tensor) -> Tensor:
        """Return observations [..., O] as z-scores."""
        return (obs - self.obs_mean) / self.obs_std

    def outputs(self, obs: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """Return next_obs [N, O] and reward [N] of predicted z-scores [N, O + 1]."""
        raw = torch.addcmul(self.out_mean, out, self.out_std)
        first = raw[:, : self.obs_dim]
        return (obs + first if self.target == "delta" else first), raw[:, self.obs_dim]
