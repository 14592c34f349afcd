"""The selectors of the papers as released: MBTL-GP, GP-MBTL, M-MBTL's switch."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from . import gp
from .gaps import Pairs, fit_sides, improvement
from .geometry import mountain, spread
from .rules import WorstServed, least
from .scores import served
from .selector import Look, Rule, Seen


def optimism(k: int) -> float:
    """Return lambda of round k, sqrt(log k): standard deviations added to the mean."""
    return math.sqrt(math.log(k))


def optimistic(seen: Seen, mean: Tensor, sd: Tensor) -> Look:
    """Return a process [N] with the expected gain of its optimistic values, slopes fitted."""
    upper = mean + optimism(len(seen.taken) + 1) * sd
    slopes = fit_sides(seen.contexts, seen.picks, seen.rows)
    return Look(mean, sd, improvement(seen.contexts, upper, slopes, served(seen.rows)))


class PaperGP(Rule):
    """MBTL-GP as released (arXiv 2408.04498), of returns in [0, 1].

    Contexts count by their index; zero mean; targets are the best return so far at each source,
    with noise of standard deviation 0.1, and the gap is `slope` for each index step.
    """

    def __init__(self, slope: float = 0.005, noise: float = 0.01, seed: int = 0) -> None:
        self.slope, self.noise, self.seed = slope, noise, seed

    def process(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation [N] of the return of each context trained on."""
        index = torch.arange(len(seen.contexts), dtype=torch.float64)[:, None]
        best = seen.rows.cummax(0).values
        y = best[torch.arange(len(seen.picks)), seen.picks]
        x = index[seen.picks]
        h = gp.by_search(x, y, [gp.Hyper(noise=self.noise)], PAPER, restarts=9, seed=self.seed)
        return gp.posterior(x, y, index, h)

    def choose(self, seen: Seen) -> int:
        """Return the middle, then the greatest expected gain; the worst served where there is none.

        Rows are clipped at 0, as the released code does by the zeros of its tables.
        """
        if not len(seen.rows):
            return spread(seen.contexts, seen.taken)
        look = self.look(seen)
        if float(look.gain.index_fill(0, torch.tensor(seen.taken), 0.0).max()) <= 0:
            return WorstServed().choose(seen)
        return least(seen, -look.gain)

    def look(self, seen: Seen) -> Look:
        """Return the process, and the expected gain of the optimistic value."""
        index = torch.arange(len(seen.contexts), dtype=torch.float64)[:, None]
        mean, sd = self.process(seen)
        upper = mean + optimism(len(seen.taken) + 1) * sd
        slopes = torch.tensor([self.slope, -self.slope], dtype=torch.float64)
        gain = improvement(index, upper, slopes, served(seen.rows).clamp(min=0))
        return Look(mean, sd, gain)

    def believe(self, seen: Seen, index: int) -> Tensor:
        """Return the mean at the context, falling by the slope."""
        way = (torch.arange(len(seen.contexts)) - index).abs()
        return self.process(seen)[0][index] - self.slope * way


PAPER = {"scale": (1e-3, 1e3), "length": (1e-2, 1e2)}


class LearnedSlopes(Rule):
    """GP-MBTL (arXiv 2601.08120): own returns, learned noise, slopes for each side and dimension.

    Rounds 2 and 3 take the worst served; the process is fitted from where it was left.
    """

    def __init__(self) -> None:
        self.raw, self.fitted = [0.0] * 4, 0

    def fit(self, seen: Seen) -> gp.Hyper:
        """Fit to each row told since the last time, one after the other; return the process."""
        known = len(seen.picks)
        for n in range(min(self.fitted, known - 1) + 1, known + 1):
            x = seen.contexts[seen.picks[:n]]
            self.raw = gp.by_adam(x, seen.own[:n], self.raw)
        self.fitted = known
        return gp.softplus(self.raw)

    def predict(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation [N], noise included, of own returns."""
        h = self.fit(seen)
        mean, sd = gp.posterior(seen.contexts[seen.picks], seen.own, seen.contexts, h)
        return mean, (sd.square() + h.noise).sqrt()

    def choose(self, seen: Seen) -> int:
        """Return the centroid, the worst served twice, then the greatest expected gain."""
        if len(seen.rows) < 3:
            return WorstServed().choose(seen)
        return least(seen, -self.look(seen).gain)

    def look(self, seen: Seen) -> Look:
        """Return the process, and the expected gain of the optimistic value."""
        return optimistic(seen, *self.predict(seen))

    def believe(self, seen: Seen, index: int) -> Tensor:
        """Return the mean at the context, with the slopes from there."""
        before = list(self.raw), self.fitted
        mean = self.predict(seen)[0][index]
        self.raw, self.fitted = before
        slopes = fit_sides(seen.contexts, seen.picks, seen.rows)
        return mean + Pairs(seen.contexts, slopes).rows(torch.tensor([index]))[0]

    def state_dict(self) -> dict[str, Any]:
        """Return the process."""
        return {"raw": list(self.raw), "fitted": self.fitted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from it."""
        self.raw, self.fitted = list(state["raw"]), int(state["fitted"])


def constant(rows: Tensor, picks: list[int]) -> bool:
    """Return whether own returns vary less than a row does, targets' means taken off."""
    rows = rows - rows.mean(0)
    own = rows[torch.arange(len(picks)), picks]
    return bool(own.std(correction=0) < rows.std(1, correction=0).mean())


def falls_both_ways(contexts: Tensor, picks: list[int], rows: Tensor) -> bool:
    """Return whether slopes of the two sides differ in sign in more than half the dimensions."""
    below, above = fit_sides(contexts, picks, rows - rows.mean(0)).chunk(2)
    return bool(((below > 0) ^ (above > 0)).double().mean() > 0.5)


class Switch(Rule):
    """M/GP-MBTL: M-MBTL while rows look like a mountain, from the sixth on GP-MBTL where not."""

    def __init__(self) -> None:
        self.process = LearnedSlopes()
        self.gp_rounds = 0

    def choose(self, seen: Seen) -> int:
        """Return the next of the one or the other."""
        if len(seen.rows) < 6 or (
            constant(seen.rows, seen.picks)
            and falls_both_ways(seen.contexts, seen.picks, seen.rows)
        ):
            return mountain(seen.contexts, seen.taken)
        self.process.fitted = len(seen.picks) - 1  # fitted to what is known now alone
        self.gp_rounds += 1
        return self.process.choose(seen)

    def believe(self, seen: Seen, index: int) -> Tensor:
        """Return what GP-MBTL believes."""
        return self.process.believe(seen, index)

    def state_dict(self) -> dict[str, Any]:
        """Return the process, and how often it chose."""
        return {"process": self.process.state_dict(), "gp_rounds": self.gp_rounds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from it."""
        self.process.load_state_dict(state["process"])
        self.gp_rounds = int(state["gp_rounds"])
