"""Spectral norm of an ensemble's weights (Miyato et al. 2018, arXiv:1802.05957)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FIRST = 15  # power iterations before the first use, as torch's own


class SpectralNorm(nn.Module):
    """Divides weights [E, I, O] by their largest singular values, one for each member.

    Of each it keeps an estimate u [E, O, 1] of the first singular vector, which `improve` betters
    by a power iteration; gradients flow through the value as torch's do, not through u.
    """

    def __init__(self, weights: Sequence[Tensor], generator: torch.Generator) -> None:
        super().__init__()
        self.count = len(weights)
        for i, w in enumerate(weights):
            u = torch.randn(len(w), w.shape[2], 1, generator=generator)
            self.register_buffer(f"u{i}", F.normalize(u, dim=1))

    @torch.no_grad()
    def improve(self, weights: Sequence[Tensor], rounds: int = 1) -> None:
        """Take power iterations on the weights as they are."""
        for i, w in enumerate(weights):
            u = getattr(self, f"u{i}")
            for _ in range(rounds):
                u.copy_(F.normalize(w.mT @ (w @ u), dim=1))

    def forward(self, i: int, weight: Tensor) -> Tensor:
        """Return the i-th weights, divided."""
        u = getattr(self, f"u{i}")
        with torch.no_grad():
            v = F.normalize(weight @ u, dim=1)
        divided: Tensor = weight / (v.mT @ weight @ u)
        return divided
