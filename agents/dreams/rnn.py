"""The MDN-RNN of World Models and Dropout's Dream Land, with a cell of our own for its masks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...buffers import Transitions
from ..api import State
from ..networks import initialise
from ..seeding import generator
from .api import Prediction
from .config import ModelConfig
from .masks import Masks
from .mixture import means, nll, sampled
from .mlp import fixed_masks, mean_over, row_masks
from .scales import Scales, known
from .streams import Stream


class MDNRNN(nn.Module):
    """One LSTM or GRU layer; a mixture of K Gaussians for each dimension, reward, termination.

    gates = W [z * m_z ; a ; h * m_h] + b (Gal & Ghahramani 2016: one mask for all gates); neither
    the cell state nor the h that goes to the heads and the controller is masked, nor an action.
    `reward`: without a head for it, it is its mean over the data (1 per step in Doom).
    """

    members = 1
    fixed_masks: Tensor | None

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        config: ModelConfig,
        *,
        reward: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.obs_dim, self.act_dim, self.reward = config, obs_dim, act_dim, reward
        self.scales = Scales(obs_dim, config.target)
        self.hidden, self.lstm = config.hidden[0], config.kind == "lstm"
        h, inputs = self.hidden, obs_dim + act_dim
        self.mask_widths = (obs_dim, h)
        if self.lstm:  # input, forget, output gates and the candidate, one matrix product
            self.cell = nn.Linear(inputs + h, 4 * h)
        else:  # reset and update gates, candidate; the reset gate acts on the product (cuDNN's)
            self.cell, self.recurrent = nn.Linear(inputs, 3 * h), nn.Linear(h, 3 * h)
        self.norm = nn.LayerNorm(h) if config.layer_norm else nn.Identity()
        self.head = nn.Linear(h, 3 * config.mixtures * obs_dim + reward + 1)
        initialise(self, generator(seed, "world model weights"))
        if self.lstm:
            with torch.no_grad():
                self.cell.bias[h : 2 * h] = 1.0  # remember at first (Jozefowicz et al. 2015)
        self.register_buffer("fixed_masks", fixed_masks(config, self.mask_widths, seed))

    def initial_state(self, n: int) -> State:
        """Return h and, of an LSTM, c [n, H] at the start of an episode: zeros."""
        return tuple(torch.zeros(n, self.hidden) for _ in range(2 if self.lstm else 1))

    def advance(self, z: Tensor, action: Tensor, state: State, masks: Masks = ()) -> State:
        """Return the memory after z-scored observations [N, O] and actions [N, A]."""
        h, width = state[0], self.hidden
        if masks:
            z, h = z * masks[0], h * masks[1]
        seen = [z, action, h]
        if self.lstm:
            gates = _product(seen, self.cell.weight, self.cell.bias)
            i, f, o = _sigmoid(gates[:, : 3 * width]).chunk(3, 1)
            c = torch.addcmul(f * state[1], i, gates[:, 3 * width :].tanh())
            return o * c.tanh(), c
        gates = _product(seen, *self._both())
        r, u = _sigmoid(gates[:, : 2 * width]).chunk(2, 1)
        n = torch.addcmul(gates[:, 2 * width : 3 * width], r, gates[:, 3 * width :])
        return (torch.lerp(n.tanh_(), state[0], u),)

    def _both(self) -> tuple[Tensor, Tensor]:
        """Return a GRU's two products as one: reset, update, and the candidate's two halves."""
        two, (x, h) = 2 * self.hidden, (self.cell, self.recurrent)
        apart = torch.block_diag(x.weight[two:], h.weight[two:])  # type: ignore[no-untyped-call]
        weight = torch.cat([torch.cat([x.weight[:two], h.weight[:two]], 1), apart])
        return weight, torch.cat([x.bias[:two] + h.bias[:two], x.bias[two:], h.bias[two:]])

    def heads(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mixtures [..., 3, O, K], z-scored reward [...] and logit of termination [...]."""
        x = self.norm(h)
        if x.dim() == 2:  # of a dream: numbers of a kind lie side by side, as `sampled` wants them
            out = torch.addmm(self.head.bias[:, None], self.head.weight, x.T).T
        else:
            out = self.head(x)
        of_dims = 3 * self.config.mixtures * self.obs_dim
        mixtures = out[..., :of_dims].view(*h.shape[:-1], 3, self.obs_dim, -1)
        reward = out[..., of_dims] if self.reward else torch.zeros_like(out[..., -1])
        return mixtures, reward, out[..., -1]

    @torch.no_grad()
    def predict(
        self, obs: Tensor, action: Tensor, state: State, masks: Masks, generator: Stream | None
    ) -> Prediction:
        """Predict one step: a component and a value of it for each dimension, or the mean."""
        after = self.advance(self.scales.inputs(obs), action, state, masks)
        of_dims, reward, end = self.heads(after[0])
        if generator is None:
            z = means(of_dims)
        else:
            dims = self.obs_dim
            z = sampled(of_dims, generator.uniform(dims), generator.normal(dims))
        next_obs, paid = self.scales.outputs(obs, torch.cat([z, reward[:, None]], 1))
        return Prediction(next_obs, paid, end.sigmoid() * self.scales.ends, after)

    def scale(self, rows: Transitions, horizon: int) -> None:
        """Take the statistics of rows [B]."""
        self.scales.fit(rows, horizon)

    def train_masks(self, batch: Transitions, generator: torch.Generator) -> Masks:
        """Draw masks for windows [B, L], of each step or of each window, or pick fixed ones."""
        return row_masks(self.config, self.mask_widths, self.fixed_masks, batch, generator)

    def loss(self, batch: Transitions, mask: Tensor, masks: Masks) -> Tensor:
        """Return the loss of windows [B, burn_in + L]: nats per dimension, squared error of the
        reward and cross entropy of ends, each a mean over the steps in `mask` after the burn-in.
        """
        z, state, hs = self.scales.inputs(batch.obs), self.initial_state(len(mask)), []
        for t in range(mask.shape[1]):
            now = tuple(m[:, t] if m.dim() == 3 else m for m in masks)
            after = self.advance(z[:, t], batch.action[:, t], state, now)
            there = mask[:, t, None] > 0
            pairs = zip(after, state, strict=True)
            state = tuple(torch.where(there, new, old) for new, old in pairs)
            hs.append(state[0])
        skip = self.config.burn_in
        batch, mask = batch.map(lambda x: x[:, skip:]), mask[:, skip:].float()
        of_dims, reward, end = self.heads(torch.stack(hs[skip:], 1))
        targets, told = self.scales.targets(batch), mask * known(batch)
        varies = self.scales.varies[:-1].float()  # what does not has no end of likelihood
        nats = nll(of_dims, targets[..., :-1]) @ varies / varies.sum().clamp(min=1)
        loss = mean_over(nats, told)
        if self.reward:
            loss = loss + mean_over((reward - targets[..., -1]).square(), told)
        if not bool(self.scales.ends):
            return loss
        ends = F.binary_cross_entropy_with_logits(end, batch.terminated, reduction="none")
        return loss + mean_over(ends, mask)


def _free() -> bool:
    """Return whether nothing is recorded: what was computed may be written over."""
    return not torch.is_grad_enabled()


def _product(parts: list[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """Return x W^T + b. Of a dream the bias is a column of W: by itself it is copied to each row
    before the product, which costs a third of it.
    """
    if not _free():
        return F.linear(torch.cat(parts, 1), weight, bias)
    ones = parts[0].new_ones(len(parts[0]), 1)
    return torch.cat([*parts, ones], 1) @ torch.cat([weight, bias[:, None]], 1).T


def _sigmoid(x: Tensor) -> Tensor:
    return x.sigmoid_() if _free() else x.sigmoid()
