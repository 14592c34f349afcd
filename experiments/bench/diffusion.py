"""Generated transitions per second: our sampler beside the published one, with one network."""

from collections.abc import Callable
from dataclasses import replace

import torch

from ...agents.synther.config import DiffusionConfig
from ...agents.synther.diffusion import Diffusion
from ...buffers import Layout
from .report import OURS, BenchOptions, Peer, Report, Row, interleave, torch_threads, version

OFFICIAL, LONGER, PLAIN = "published Heun", "2M, 32 calls", "2M, 16 calls"
LAYOUT = Layout(17, 6)  # HalfCheetah's


def run(options: BenchOptions, widths: tuple[int, ...] = (128, 256), batch: int = 2048) -> Report:
    """Measure whole batches of rows, statistics and decoding included, at each width."""
    same = f"{options.threads} threads, batches of {batch:,} rows"
    peers = (
        Peer(
            OURS,
            version("reverie"),
            f"{same}, SDE-DPM-Solver++ 2M, 16 calls, noise 10 to 0.2",
        ),
        Peer(LONGER, version("diffusers"), f"{same}, DPM-Solver++ 2M, 32 network calls from 80"),
        Peer(PLAIN, version("diffusers"), f"{same}, DPM-Solver++ 2M, 16 network calls from 10"),
        Peer(OFFICIAL, version("reverie"), f"{same}, stochastic Heun, 255 network calls from 80"),
    )
    report = Report("diffusion", "rows/s", peers)
    with torch_threads(options.threads):
        for width in widths:
            rates = interleave(contestants(width, batch), options.repeats, options.seconds)
            report.rows.extend(Row(f"width {width}", who, values) for who, values in rates.items())
    return report


def contestants(width: int, batch: int) -> dict[str, Callable[[], int]]:
    """Return the samplers by name, each filling a batch at a call."""
    ours = DiffusionConfig(width=width)
    settings = {
        OURS: ours,
        LONGER: replace(ours, sampler="dpm", levels=32, sigma_max=80.0, sigma_min=0.002),
        PLAIN: replace(ours, sampler="dpm", sigma_min=0.002),
        OFFICIAL: replace(ours, sampler="heun", levels=128, sigma_max=80.0, sigma_min=0.002),
    }
    models = {name: Diffusion(LAYOUT, config) for name, config in settings.items()}
    draws = torch.Generator().manual_seed(0)
    rows = torch.randn(1000, LAYOUT.width, generator=draws)

    def filling(model: Diffusion) -> Callable[[], int]:
        model.begin(rows)
        return lambda: len(model.generate(batch, batch))

    return {name: filling(model) for name, model in models.items()}
