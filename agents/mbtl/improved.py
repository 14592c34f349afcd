"""The improved selector: parts of the observed rows, and the expected improvement over them."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import gelu

from . import gp
from .additive import Additive, fit_additive
from .gaps import CHUNK, Pairs
from .geometry import spread
from .rules import least
from .scores import served
from .selector import Look, Rule, Seen

# Medians and spreads of what worths of sources look like, contexts in [-.5, .5], standardised.
PRIOR = {"scale": (1.0, 1.5), "length": (0.5, 0.7), "linear": (1.0, 1.5)}
BOUNDS = {"scale": (1e-4, 100.0), "length": (0.05, 12.0), "linear": (1e-4, 100.0)}


class Worth(NamedTuple):
    """What is known of sources: the parts of rows, mean and standard deviation [N] of worths."""

    parts: Additive
    mean: Tensor
    sd: Tensor


def scaled(contexts: Tensor) -> Tensor:
    """Return contexts [N, d] in [-1/2, 1/2]; 0 in a dimension of one value."""
    low, high = contexts.aminmax(dim=0)
    return torch.where(high > low, (contexts - low) / (high - low).clamp(min=1e-300) - 0.5, 0.0)


def expected_gain(contexts: Tensor, worth: Worth, best: Tensor) -> Tensor:
    """Return a(x) [N] = mean over x' of E[max(U[x, x'] - best(x'), 0)], U normal.

    The noise of single returns counts as the doubt about the source does: what a library keeps is
    the best of its policies, noise and all. E[max(z, 0)] = gelu(z) + phi(z) for N(z, 1).
    """
    parts = worth.parts
    n, sd = len(contexts), (worth.sd.square() + parts.noise).sqrt().clamp(min=1e-12)
    pairs = Pairs(contexts, torch.cat([-parts.way, parts.way]))
    ahead = parts.common(contexts) - best
    out = []
    for i in torch.split(torch.arange(n), max(1, CHUNK // n)):
        z = ((pairs.rows(i) + worth.mean[i, None] + ahead) / sd[i, None]).float()
        bump = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
        out.append((gelu(z) + bump).mean(1).double() * sd[i])
    return torch.cat(out)


class Improved(Rule):
    """MBTL by parts: slopes within rows, a process over what sources are worth, expected gain.

    The first `geometric` sources are spread: the worst served of all may be one that cannot be
    learnt. The process has a linear trend, so that one row beside another shows where to go.
    """

    def __init__(self, geometric: int = 3) -> None:
        self.geometric = geometric

    def worth(self, seen: Seen) -> Worth:
        """Return what rows tell of every source, contexts as `scaled`."""
        x = scaled(seen.contexts)
        parts = fit_additive(x, seen.picks, seen.rows)
        mean = float(parts.source.mean())
        unit = float(parts.source.std(correction=0))
        unit = max(unit, 0.05 * math.sqrt(parts.noise), 1e-6 * (1.0 + abs(mean)))
        floor = max(parts.noise / len(x) / unit**2, 1e-5)  # a mean of N returns is noisy at least
        floor = min(floor, 5.0)  # of few contexts whose rows are as good: the greatest is 10
        x0, y = x[seen.picks], (parts.source - mean) / unit
        bounds, prior = BOUNDS | {"noise": (floor, 10.0)}, PRIOR | {"noise": (floor, 1.5)}
        starts = [gp.Hyper(1.0, 0.5, floor, 0.0, 1.0), gp.Hyper(0.1, 0.5, floor, 0.0, 3.0)]
        starts.append(gp.Hyper(3.0, 0.3, floor, 0.0, 0.1))
        h = gp.by_search(x0, y, starts, bounds, prior=prior)
        there, doubt = gp.posterior(x0, y, x, h)
        return Worth(parts, mean + unit * there, unit * (doubt.square() + h.noise).sqrt())

    def choose(self, seen: Seen) -> int:
        """Return the next of a spread, then the greatest expected gain."""
        if len(seen.taken) < self.geometric or not len(seen.rows):
            return spread(seen.contexts, seen.taken)
        return least(seen, -self.look(seen).gain)

    def look(self, seen: Seen) -> Look:
        """Return what sources are worth, and the expected gain."""
        worth = self.worth(seen)
        gain = expected_gain(scaled(seen.contexts), worth, served(seen.rows))
        return Look(worth.mean, worth.sd, gain)

    def believe(self, seen: Seen, index: int) -> Tensor:
        """Return the row that the parts make of the worth's mean."""
        worth = self.worth(seen)
        return worth.parts.row(scaled(seen.contexts), index, float(worth.mean[index]))
