"""An ensemble of probabilistic dynamics models: what would happen, and how sure that is."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..buffers import Source, Transitions
from ..buffers.transitions import NEXT_KNOWN
from .api import Bounds, within
from .networks import EnsembleLinear, initialise, step
from .norms import EnsembleNorm
from .seeding import generator
from .spectral import FIRST, SpectralNorm
from .training import adam, flatten


@dataclass(frozen=True)
class DynamicsConfig:
    """Settings of the ensemble."""

    members: int = 5
    """models"""
    hidden: tuple[int, ...] = (256, 256)
    """hidden layer widths"""
    lr: float = 1e-3
    """Adam learning rate (the OER authors: 1e-4 for 500,000 steps)"""
    batch_size: int = 256
    """transitions per gradient step, of which each member sees half"""
    steps: int = 10_000
    """gradient steps of a fit"""
    spectral: bool = False
    """spectral norm of all layers but what gives the log standard deviations (the OER authors)"""
    bounds: ClassVar[Bounds] = {
        "members": (1, 1000),
        "hidden": (1, 16_384),
        "lr": (0, 1),
        "batch_size": (1, 10**7),
        "steps": (1, 10**9),
    }


class DynamicsEnsemble(nn.Module):
    """E Gaussian models of (next_obs - obs, reward) given (obs, action), evaluated together.

    Inputs and outputs are z-scored by the data that it was fitted to. As in d3rlpy 1.1.1, which
    OER builds on, with its spectral norm where that is asked for. `layer_norm`: of each hidden
    layer. `target`: delta, or next for models of next_obs itself.
    """

    mean_in: Tensor
    std_in: Tensor
    mean_out: Tensor
    std_out: Tensor

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        config: DynamicsConfig | None = None,
        *,
        layer_norm: bool = False,
        target: str = "delta",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = c = config or DynamicsConfig()
        within(c, **c.bounds)
        self.obs_dim, out, self.target = obs_dim, obs_dim + 1, target
        sizes = [obs_dim + act_dim, *c.hidden]
        self.layers = nn.ModuleList(EnsembleLinear(c.members, i, o) for i, o in pairwise(sizes))
        normed = c.hidden if layer_norm else ()
        self.norms = nn.ModuleList(EnsembleNorm("layer", c.members, width) for width in normed)
        self.head = EnsembleLinear(c.members, sizes[-1], 2 * out)
        self.max_log_std = nn.Parameter(torch.full((out,), 0.5))
        self.min_log_std = nn.Parameter(torch.full((out,), -5.0))
        for name, width in (("in", sizes[0]), ("out", out)):
            self.register_buffer(f"mean_{name}", torch.zeros(width))
            self.register_buffer(f"std_{name}", torch.ones(width))
        initialise(self, generator(seed, "dynamics weights"))
        self.spectral: SpectralNorm | None = None
        if c.spectral:
            self.spectral = SpectralNorm(self._bounded(), generator(seed, "dynamics norm"))
            self.spectral.improve(self._bounded(), FIRST)
        self.generator = generator(seed, "dynamics")
        self._optimizer: torch.optim.Adam | None = None

    def forward(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation [E, B, O + 1] of the z-scored outputs."""
        x = (torch.cat([obs, action], -1) - self.mean_in) / self.std_in
        x = x.expand(self.config.members, -1, -1)
        for i, layer in enumerate(self.layers):
            x = layer(x) if self.spectral is None else self._divided(i, layer, x)
            if self.norms:
                x = self.norms[i](x, False)
            x = F.silu(x)
        head = self.head(x) if self.spectral is None else self._divided(-1, self.head, x)
        mean, raw = head.chunk(2, -1)
        # Soft bounds (Chua et al. 2018, appendix A.1).
        log_std = self.max_log_std - F.softplus(self.max_log_std - raw)
        return mean, self.min_log_std + F.softplus(log_std - self.min_log_std)

    def _bounded(self) -> list[Tensor]:
        """Return the weights that spectral norm divides: of the head those of the means."""
        layers: Any = self.layers
        return [*(layer.weight for layer in layers), self.head.weight[..., : self.obs_dim + 1]]

    def _divided(self, i: int, layer: Any, x: Tensor) -> Tensor:
        """Return what a layer makes of x [E, B, I], with spectral norm; -1 is the head."""
        assert self.spectral is not None
        weight = self.spectral(i % (len(self.layers) + 1), self._bounded()[i])
        rest = layer.weight[..., weight.shape[2] :]
        return torch.baddbmm(layer.bias, x, torch.cat([weight, rest], 2))

    def _targets(self, batch: Transitions) -> Tensor:
        out: Tensor = (self._raw(batch) - self.mean_out) / self.std_out
        return out

    def _raw(self, batch: Transitions) -> Tensor:
        first = batch.next_obs - batch.obs if self.target == "delta" else batch.next_obs
        return torch.cat([first, batch.reward[:, None]], -1)

    def fit(self, source: Source, moments: Transitions, steps: int | None = None) -> Tensor:
        """Take gradient steps on batches of `source`; return the last loss.

        `moments`: transitions that give the z-scores, e.g. the whole dataset; ignored if fitted.
        Rows of which the data does not tell the successor are left out.
        """
        loss = torch.zeros(())
        for _ in range(self.config.steps if steps is None else steps):
            loss = self.fit_step(source, moments)
        return loss

    def fit_step(self, source: Source, moments: Transitions) -> Tensor:
        """Take one gradient step, the first after scaling by `moments`; return the loss."""
        if self._optimizer is None:
            self.scale(moments)
            self._optimizer = self._make_optimizer()
        batch = source.sample(self.config.batch_size)
        shape = (self.config.members, len(batch.reward), 1)
        mask = (torch.rand(shape, generator=self.generator) < 0.5).float()
        if (known := batch.extra.get(NEXT_KNOWN)) is not None:
            mask = mask * known[:, None]
        if self.spectral is not None:
            self.spectral.improve(self._bounded())
        loss = self.loss(batch, mask)
        step(self._optimizer, loss)
        return loss.detach()

    def _make_optimizer(self) -> torch.optim.Adam:
        return adam(flatten(self), self.config.lr)

    def scale(self, data: Transitions) -> None:
        """Take the z-scores of the data."""
        if (known := data.extra.get(NEXT_KNOWN)) is not None:
            data = data.map(lambda x: x[known > 0])
        inputs = torch.cat([data.obs, data.action], -1)
        for name, x in (("in", inputs), ("out", self._raw(data))):
            getattr(self, f"mean_{name}").copy_(x.mean(0))
            getattr(self, f"std_{name}").copy_(x.std(0) + 1e-6)

    def loss(self, batch: Transitions, mask: Tensor) -> Tensor:
        """Return the negative log likelihood of the rows in `mask` [E, B, 1] (each its own)."""
        mean, log_std = self(batch.obs, batch.action)
        error = self._targets(batch) - mean
        each = 0.5 * error.square() * (-2 * log_std).exp() + log_std
        bounds = 0.01 * (self.max_log_std.sum() - self.min_log_std.sum())
        loss: Tensor = (each * mask).sum(-1).mean(1).sum() + bounds
        return loss

    @torch.no_grad()
    def predict(self, obs: Tensor, action: Tensor, *, member: bool = True) -> tuple[Tensor, Tensor]:
        """Return next_obs [B, O] and reward [B]: of one member each, or of the members' mean."""
        mean, log_std = self(obs, action)
        if member:
            n = len(obs)
            who = torch.randint(self.config.members, (n,), generator=self.generator)
            noise = torch.randn(mean.shape[1:], generator=self.generator)
            rows = torch.arange(n)
            out = mean[who, rows] + log_std[who, rows].exp() * noise
        else:
            out = mean.mean(0)
        out = out * self.std_out + self.mean_out
        first = out[:, : self.obs_dim]
        return obs + first if self.target == "delta" else first, out[:, self.obs_dim]

    @torch.no_grad()
    def disagreement(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the variance [B] across members' sampled z-scored outputs, summed over them."""
        mean, log_std = self(obs, action)
        noise = torch.randn(mean.shape, generator=self.generator)
        spread: Tensor = (mean + log_std.exp() * noise).var(0, correction=0).sum(-1)
        return spread

    @torch.no_grad()
    def log_prob(self, batch: Transitions) -> Tensor:
        """Return the mean log density [B] that the members give the transitions (z-scored).

        It is -inf where the data does not tell the successor.
        """
        mean, log_std = self(batch.obs, batch.action)
        error = (self._targets(batch) - mean) * (-log_std).exp()
        each = -0.5 * error.square() - log_std - 0.5 * math.log(2 * math.pi)
        density: Tensor = each.sum(-1).mean(0)
        known = batch.extra.get(NEXT_KNOWN)
        return density if known is None else torch.where(known > 0, density, -torch.inf)

    def get_extra_state(self) -> dict[str, Any]:
        """Optimiser and generator: with them `state_dict` is all that a continuation needs."""
        return {
            "generator": self.generator.get_state(),
            "optimizer": None if self._optimizer is None else self._optimizer.state_dict(),
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `get_extra_state`; torch calls it in `load_state_dict`."""
        self.generator.set_state(state["generator"])
        self._optimizer = None
        if state["optimizer"] is not None:
            self._optimizer = self._make_optimizer()
            self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
