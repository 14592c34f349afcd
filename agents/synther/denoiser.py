"""The denoiser: a residual multi-layer perceptron that `diffusers` saves and loads."""

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F


class Denoiser(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The raw network F of noisy features and a noise level.

    A residual block is h + Linear(relu(h)), without norm or dropout, as in every configuration
    of conglu1997/SynthER. The noise level enters through 8 frozen random frequencies.
    """

    frequencies: Tensor  # [8], saved with the weights

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, features: int, width: int = 256, depth: int = 6, noise_width: int = 128
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.register_buffer("frequencies", torch.zeros(8))
        self.noise_mlp = nn.Sequential(
            nn.Linear(1 + 2 * 8, noise_width), nn.SiLU(), nn.Linear(noise_width, noise_width)
        )
        self.proj = nn.Linear(features, noise_width)
        self.first = nn.Linear(noise_width, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = nn.Linear(width, features)

    def forward(self, x: Tensor, noise_level: Tensor) -> Tensor:
        """Return F [B, d] of scaled features [B, d] and c_noise, [B] or one for all []."""
        phase = 2 * math.pi * noise_level[..., None] * self.frequencies
        embedding = torch.cat([noise_level[..., None], phase.sin(), phase.cos()], -1)
        h = self.first(self.proj(x) + self.noise_mlp(embedding))
        for block in self.blocks:
            h += block(F.relu(h))
        out: Tensor = self.last(F.relu(h))
        return out
