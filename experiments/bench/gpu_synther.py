"""Stage 4: SynthER's fit and fill at the published width, 1024."""

from collections.abc import Iterator

import torch

from ...agents.synther.config import DiffusionConfig
from ...agents.synther.diffusion import Diffusion
from ...buffers import Layout
from .measure import Case, Measure, Toy, rate
from .report import BenchOptions

LAYOUT = Layout(17, 6)  # HalfCheetah's
FIT, FILL = 100_000, 1_000_000  # updates and rows of the published method


def cases(toy: Toy | None, options: BenchOptions) -> list[Case]:
    """Return the one case: a fit, and a fill from it."""
    return [("width 1024", lambda: _fit_and_fill(toy, options))]


def _fit_and_fill(toy: Toy | None, options: BenchOptions) -> Iterator[Measure]:
    device, seconds = ("cpu", toy.seconds) if toy else (options.device, 10.0)
    width, batch = (8, 16) if toy else (1024, 100_000)
    case = f"width {width}"
    config = DiffusionConfig(width=width, batch_size=32 if toy else 1024, patience=0)
    model = Diffusion(LAYOUT, config, device=device)
    draws = torch.Generator().manual_seed(0)
    rows = torch.randn(1000 if toy else 100_000, LAYOUT.width, generator=draws).to(device)
    model.begin(rows, FIT)

    def fit() -> int:
        for _ in range(1 if toy else 50):
            model.fit_step(rows)
        return 1 if toy else 50

    fits = rate(fit, device, seconds)
    yield Measure(case, "fit", fits, "updates/s")
    yield Measure(case, f"a fit of {FIT:,} updates", FIT / fits / 60, "min")
    fills = rate(lambda: len(model.generate(batch, batch)), device, seconds)
    yield Measure(case, "fill", fills, "rows/s")
    yield Measure(case, f"a fill of {FILL:,} rows", FILL / fills / 60, "min")
