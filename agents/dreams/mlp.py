"""A deterministic model with dropout: a mask of it is one world."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...buffers import Transitions
from ..api import State
from ..networks import initialise
from ..seeding import generator
from . import masks as dropout
from .api import Prediction
from .config import ModelConfig
from .masks import Masks
from .scales import Scales, known
from .streams import Stream


class DropoutMLP(nn.Module):
    """SiLU layers on z-scored observation and action; masks on the observation and each layer.

    Its outputs are next_obs or its change, reward, and the logit of termination. Squared error on
    z-scores; the logit counts where the data has ends.
    """

    members = 1
    fixed_masks: Tensor | None

    def __init__(self, obs_dim: int, act_dim: int, config: ModelConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config, self.obs_dim, self.act_dim = config, obs_dim, act_dim
        self.scales = Scales(obs_dim, config.target)
        self.mask_widths = (obs_dim, *config.hidden)
        sizes = [obs_dim + act_dim, *config.hidden]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        norms = config.hidden if config.layer_norm else ()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in norms)
        self.head = nn.Linear(sizes[-1], obs_dim + 2)
        initialise(self, generator(seed, "world model weights"))
        self.register_buffer("fixed_masks", fixed_masks(config, self.mask_widths, seed))

    def forward(self, obs: Tensor, action: Tensor, masks: Masks = ()) -> Tensor:
        """Return z-scored target and reward, and the logit of termination [B, O + 2]."""
        x = self.scales.inputs(obs)
        x = torch.cat([x * masks[0] if masks else x, action], -1)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if self.norms:
                x = self.norms[i](x)
            x = F.silu(x, inplace=not self.norms)
            if masks:
                x = x * masks[i + 1]
        out: Tensor = self.head(x)
        return out

    def initial_state(self, n: int) -> State:
        """Return (): what comes next follows from the observation."""
        return ()

    @torch.no_grad()
    def predict(
        self, obs: Tensor, action: Tensor, state: State, masks: Masks, generator: Stream | None
    ) -> Prediction:
        """Predict one step; nothing is drawn."""
        out = self(obs, action, masks)
        next_obs, reward = self.scales.outputs(obs, out[:, :-1])
        return Prediction(next_obs, reward, out[:, -1].sigmoid() * self.scales.ends, state)

    def scale(self, rows: Transitions, horizon: int) -> None:
        """Take the statistics of rows [B]."""
        self.scales.fit(rows, horizon)

    def train_masks(self, batch: Transitions, generator: torch.Generator) -> Masks:
        """Draw a mask for each row of a batch [B], or pick one of the fixed ones."""
        return row_masks(self.config, self.mask_widths, self.fixed_masks, batch, generator)

    def loss(self, batch: Transitions, mask: Tensor, masks: Masks) -> Tensor:
        """Return the mean squared error over rows and outputs, and the cross entropy of ends."""
        out = self(batch.obs, batch.action, masks)
        told = mask * known(batch)
        error = (out[..., :-1] - self.scales.targets(batch)).square().mean(-1)
        loss = mean_over(error, told)
        if not bool(self.scales.ends):
            return loss
        ends = F.binary_cross_entropy_with_logits(out[..., -1], batch.terminated, reduction="none")
        return loss + mean_over(ends, mask)


def mean_over(values: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of values where their weight is 1; those at 0 may be anything."""
    return torch.where(weight > 0, values, 0.0).sum() / weight.sum().clamp(min=1)


def fixed_masks(config: ModelConfig, widths: tuple[int, ...], seed: int) -> Tensor | None:
    """Return a model's masks that stay as they are, if it has such."""
    if not config.fixed:
        return None
    return dropout.fixed(widths, config.fixed, config.p_train, generator(seed, "fixed masks"))


def row_masks(
    config: ModelConfig,
    widths: tuple[int, ...],
    table: Tensor | None,
    batch: Transitions,
    generator: torch.Generator,
) -> Masks:
    """Draw masks for the rows of a batch, or for its windows' (`train_scope`); () at rate 0."""
    shape = batch.reward.shape if config.train_scope == "step" else batch.reward.shape[:1]
    if table is not None:
        masks = table[torch.randint(len(table), batch.reward.shape[:1], generator=generator)]
    elif config.p_train:
        masks = dropout.trained((*shape, sum(widths)), config.p_train, generator)
    else:
        return ()
    return dropout.parts(masks, widths)
