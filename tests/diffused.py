"""A small diffusion model and rows to fit it to."""

import dataclasses

import torch

from reverie.agents.synther.config import DiffusionConfig
from reverie.agents.synther.diffusion import Diffusion
from reverie.buffers import Layout

LAYOUT = Layout(3, 2)
TINY = DiffusionConfig(
    width=16, depth=2, noise_width=8, batch_size=32, updates=40, judge_every=10, levels=4
)


def made_rows(n=200, layout=LAYOUT, seed=0):
    """Rows in which next_obs is obs / 2 and the reward is the first action."""
    draws = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, layout.width, generator=draws)
    batch = layout.unpack(rows)
    batch.action.clamp_(-1, 1)
    batch.reward.copy_(batch.action[:, 0])
    batch.next_obs.copy_(batch.obs / 2)
    batch.terminated.copy_(batch.obs[:, 0] > 1)
    batch.truncated.zero_()
    return rows


def model(seed=0, layout=LAYOUT, **changes):
    return Diffusion(layout, dataclasses.replace(TINY, **changes), seed=seed)


def fit(one, rows, updates):
    return [one.fit_step(rows) for _ in range(updates)]


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
