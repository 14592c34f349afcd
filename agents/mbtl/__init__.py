"""Model-based transfer learning: which contexts to train on (Cho et al. 2024, arXiv:2408.04498)."""

from .matrix import Matrix, MatrixCard, load_matrix
from .selector import Locked, Rule, Seen, Selector, replay
from .table import RULES, selector_of

__all__ = [
    "RULES",
    "Locked",
    "Matrix",
    "MatrixCard",
    "Rule",
    "Seen",
    "Selector",
    "load_matrix",
    "replay",
    "selector_of",
]
