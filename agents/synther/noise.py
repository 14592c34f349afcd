"""The generator that needs no model: real rows with noise, the control of every other one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...buffers import Layout
from ..seeding import generator

SAMPLE = 1000  # rows whose distances to the real ones are compared
CHUNK = 50_000  # real rows at a time


def nearest(x: Tensor, among: Tensor) -> Tensor:
    """Return the Euclidean distance [n] of each row of x [n, d] to the nearest of others [m, d]."""
    out = []
    for some in torch.split(x, SAMPLE):  # neither n x m distances nor m rows' at once
        parts = [torch.cdist(some, rows).amin(1) for rows in torch.split(among, CHUNK)]
        out.append(torch.stack(parts).amin(0))
    return torch.cat(out)


class Noise:
    """Packed rows [M, width] drawn with replacement, with Gaussian noise of `sd`.

    `sd`: in standard deviations of each column of obs, action, reward and next_obs; 0 repeats real
    rows. Actions stay in [-1, 1], flags as they are.
    """

    def __init__(self, layout: Layout, sd: float, *, seed: int = 0) -> None:
        self.layout, self.sd = layout, sd
        self.modelled = 2 * layout.obs_dim + layout.act_dim + 1
        self.generator = generator(seed, "noise")

    def generate(self, rows: Tensor, n: int) -> Tensor:
        """Return n noisy ones of packed rows [M, width]."""
        pick = torch.randint(len(rows), (n,), generator=self.generator)
        noise = torch.randn(n, self.modelled, generator=self.generator)
        out, std = rows[pick.to(rows.device)], rows[:, : self.modelled].std(0)
        out[:, : self.modelled] += self.sd * std * noise.to(rows.device)
        self.layout.unpack(out).action.clamp_(-1, 1)
        return out

    def match(self, rows: Tensor, synthetic: Tensor) -> None:
        """Let `sd` be that at which noisy rows lie as far from real ones as synthetic rows do.

        By the mean distance to the nearest real row in z-scores; in [0, 10], to 0.001.
        """
        low, high = 0.0, 10.0
        target, state = self._distance(rows, synthetic), self.generator.get_state()
        while high - low > 1e-3:
            self.sd = (low + high) / 2
            self.generator.set_state(state)  # the same noise at each size
            near = self._distance(rows, self.generate(rows, SAMPLE)) < target
            low, high = (self.sd, high) if near else (low, self.sd)
        self.sd = (low + high) / 2

    def _distance(self, rows: Tensor, some: Tensor) -> float:
        real = rows[:, : self.modelled]
        mean, std = real.mean(0), real.std(0) + 1e-5
        return float(
            nearest(*((x - mean) / std for x in (some[:SAMPLE, : self.modelled], real))).mean()
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the size of the noise and the generator's state."""
        return {"sd": self.sd, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.sd = float(state["sd"])
        self.generator.set_state(state["generator"])
