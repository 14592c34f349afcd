"""The selectors by their names."""

from collections.abc import Callable

from torch import Tensor

from .geometry import mountain, spread
from .improved import Improved
from .own import OwnReturns
from .pairs import PairProcess
from .published import LearnedSlopes, PaperGP, Switch
from .rules import Places, Random, WorstServed, equidistant, pseudo_greedy
from .selector import Rule, Selector

# Name -> rule, of the seed of what it draws and the budget of sources, which `equidistant` needs.
RULES: dict[str, Callable[[int, int], Rule]] = {
    "improved": lambda seed, k: Improved(),
    "own": lambda seed, k: OwnReturns(),
    "paper": lambda seed, k: PaperGP(seed=seed),
    "gp": lambda seed, k: LearnedSlopes(),
    "mountain": lambda seed, k: Places(mountain),
    "switch": lambda seed, k: Switch(),
    "pairs": lambda seed, k: PairProcess(),
    "spread": lambda seed, k: Places(spread),
    "equidistant": lambda seed, k: equidistant(k),
    "pseudo-greedy": lambda seed, k: pseudo_greedy(),
    "random": lambda seed, k: Random(seed),
    "worst-served": lambda seed, k: WorstServed(),
}


def selector_of(name: str, contexts: Tensor, *, k: int, seed: int = 0) -> Selector:
    """Return a selector of `RULES` for contexts [N, d] and k sources; ValueError for another."""
    if name not in RULES:
        raise ValueError(f"no selector {name!r}; there are {', '.join(RULES)}")
    return Selector(contexts, RULES[name](seed, k))
