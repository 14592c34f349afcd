"""The Gaussian ensemble that OER's selectors use, as a world model: a member is a mask."""

import torch
from torch import Tensor, nn

from ...buffers import Transitions
from ..api import State, no_memory
from ..dynamics import DynamicsConfig, DynamicsEnsemble
from .api import Prediction
from .config import ModelConfig
from .masks import Masks
from .scales import Scales, known
from .streams import Stream


class DreamEnsemble(nn.Module):
    """E Gaussian networks; a dream holds one for a step (TS1) or for an episode (TSinf).

    (Chua et al. 2018.) Its masks are the members [N] that the worlds hold; without any it
    predicts their mean. It says nothing of ends: a dream needs the task's own rule for them.
    """

    mask_widths: tuple[int, ...] = ()
    fixed_masks: Tensor | None = None

    def __init__(self, obs_dim: int, act_dim: int, config: ModelConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config, self.obs_dim, self.act_dim = config, obs_dim, act_dim
        self.members = config.members
        self.scales = Scales(obs_dim, config.target)
        settings = DynamicsConfig(config.members, config.hidden, config.lr, config.batch_size)
        self.net = DynamicsEnsemble(
            obs_dim,
            act_dim,
            settings,
            layer_norm=config.layer_norm,
            target=config.target,
            seed=seed,
        )

    initial_state = no_memory

    @torch.no_grad()
    def predict(
        self, obs: Tensor, action: Tensor, state: State, masks: Masks, generator: Stream | None
    ) -> Prediction:
        """Predict one step by the members in `masks`, drawn from their Gaussians or their means."""
        mean, log_std = self.net(obs, action)
        if masks:
            who, rows = masks[0], torch.arange(len(obs))
            out = mean[who, rows]
            if generator is not None:
                out = out + log_std[who, rows].exp() * generator.normal(out.shape[1])
        else:
            out = mean.mean(0)
        raw = out * self.net.std_out + self.net.mean_out
        first = raw[:, :-1]
        next_obs = obs + first if self.config.target == "delta" else first
        return Prediction(next_obs, raw[:, -1], torch.zeros(len(obs)), state)

    @torch.no_grad()
    def disagreement(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return how far the members' means are apart [N]: root of their mean variance, z-scored.

        (Neubay's U, without the members' own noise.)
        """
        mean, _ = self.net(obs, action)
        apart: Tensor = mean.var(0, correction=0).mean(-1).sqrt()
        return apart

    def scale(self, rows: Transitions, horizon: int) -> None:
        """Take the statistics of rows [B]."""
        self.scales.fit(rows, horizon)
        self.net.scale(rows)

    def train_masks(self, batch: Transitions, generator: torch.Generator) -> Masks:
        """Draw which rows each member sees [E, B]: half of a batch."""
        return ((torch.rand(self.members, len(batch.reward), generator=generator) < 0.5).float(),)

    def loss(self, batch: Transitions, mask: Tensor, masks: Masks) -> Tensor:
        """Return the members' negative log likelihoods of the rows that they see, summed."""
        seen = masks[0] if masks else torch.ones(self.members, len(mask))
        return self.net.loss(batch, (seen * mask * known(batch))[..., None])
