"""MBTL-GP repaired: the paper's acquisition over own returns, with all of its numbers learned."""

import torch
from torch import Tensor

from . import gp
from .gaps import Pairs, fit_sides
from .geometry import spread
from .improved import scaled
from .published import optimistic
from .rules import least
from .selector import Look, Rule, Seen

BOUNDS = {"scale": (1e-3, 1e3), "length": (0.02, 10.0), "noise": (1e-6, 1.0)}


class OwnReturns(Rule):
    """MBTL-GP with own returns as its targets, standardised, contexts scaled, noise learned.

    The released settings hide the valleys of own returns behind the best so far, and never trust
    what they saw (a noise of .1 of the whole scale). Slopes are fitted for each side, and the first
    `geometric` sources are spread.
    """

    def __init__(self, geometric: int = 3) -> None:
        self.geometric = geometric

    def process(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation [N] of the own return of each context."""
        x, own = scaled(seen.contexts), seen.own
        middle, unit = own.mean(), own.std(correction=0).clamp(min=1e-9)
        y = (own - middle) / unit
        starts = [gp.Hyper(1.0, length, 0.01) for length in (0.1, 0.3, 1.0)]
        h = gp.by_search(x[seen.picks], y, starts, BOUNDS)
        mean, sd = gp.posterior(x[seen.picks], y, x, h)
        return middle + unit * mean, unit * sd

    def choose(self, seen: Seen) -> int:
        """Return the next of a spread, then the greatest expected gain."""
        if len(seen.taken) < self.geometric or not len(seen.rows):
            return spread(seen.contexts, seen.taken)
        return least(seen, -self.look(seen).gain)

    def look(self, seen: Seen) -> Look:
        """Return the process, and the expected gain of the optimistic value."""
        return optimistic(seen, *self.process(seen))

    def believe(self, seen: Seen, index: int) -> Tensor:
        """Return the mean at the context, with the slopes from there."""
        slopes = fit_sides(seen.contexts, seen.picks, seen.rows)
        way = Pairs(seen.contexts, slopes).rows(torch.tensor([index]))[0]
        return self.process(seen)[0][index] + way
