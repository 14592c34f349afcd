"""Norms of a critic ensemble's features."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORMS = ("none", "layer", "batch")


class EnsembleNorm(nn.Module):
    """Layer norm, or batch norm with running statistics, of E members' features."""

    mean: Tensor
    var: Tensor

    def __init__(self, kind: str, members: int, features: int, momentum: float = 0.01) -> None:
        super().__init__()
        self.kind, self.momentum = kind, momentum
        self.scale = nn.Parameter(torch.ones(members, 1, features))
        self.shift = nn.Parameter(torch.zeros(members, 1, features))
        if kind == "batch":
            self.register_buffer("mean", torch.zeros(members, 1, features))
            self.register_buffer("var", torch.ones(members, 1, features))

    def forward(self, x: Tensor, learn: bool) -> Tensor:
        """Normalise [E, B, H]; with batch norm, `learn` uses and keeps the batch's statistics."""
        if self.kind == "layer":
            return torch.addcmul(self.shift, F.layer_norm(x, x.shape[-1:]), self.scale)
        x = x.to(self.scale.dtype)  # statistics in full precision: autocast may be on
        if learn:
            var, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
            with torch.no_grad():
                self.mean.lerp_(mean, self.momentum)
                self.var.lerp_(var, self.momentum)
        else:
            var, mean = self.var, self.mean
        return torch.addcmul(self.shift, (x - mean) * torch.rsqrt(var + 1e-5), self.scale)
