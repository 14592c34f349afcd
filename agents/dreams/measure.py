"""How wrong a model is, and what of that other arms are matched to or cut by."""

import torch
from torch import Tensor

from ...buffers import Transitions
from . import masks as dropout
from .api import Doubting, WorldModel
from .masks import Masks
from .scales import known

DRAWS = 16  # masks of each row in `matched_noise`


def one_step_mse(model: WorldModel, rows: Transitions, masks: Masks = ()) -> Tensor:
    """Return the mean squared error [O + 1] of predicted means of next_obs and reward, rows [B].

    In the data's units; a recurrent model begins each row with an empty memory.
    """
    there = known(rows) > 0
    said = model.predict(rows.obs, rows.action, model.initial_state(len(there)), masks, None)
    error = torch.cat([said.next_obs - rows.next_obs, (said.reward - rows.reward)[:, None]], 1)
    return error[there].square().mean(0)


def explained(model: WorldModel, rows: Transitions) -> Tensor:
    """Return R^2 [O + 1] of the change of each observed number, and of the reward."""
    change = torch.cat([rows.next_obs - rows.obs, rows.reward[:, None]], 1)[known(rows) > 0]
    return 1 - one_step_mse(model, rows) / change.var(0, correction=0)


def matched_noise(model: WorldModel, rows: Transitions, p: float, *, seed: int = 0) -> Tensor:
    """Return the deviations [O + 1] of Gaussian noise as wrong as masks of rate p are.

    On the same model without masks it gives each column the masks' one-step error on these rows,
    e.g. held-out ones: var = mse(masks) - mse(none), 0 where masks do not make it worse.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (len(rows.reward), sum(model.mask_widths))
    draws = [dropout.trained(shape, p, generator) for _ in range(DRAWS)]
    errors = [one_step_mse(model, rows, dropout.parts(m, model.mask_widths)) for m in draws]
    more = torch.stack(errors).mean(0) - one_step_mse(model, rows)
    return more.clamp(min=0).sqrt()


def disagreement_limit(model: Doubting, rows: Transitions, zeta: float = 1.0) -> float:
    """Return the zeta-quantile of the members' disagreement over rows [B] (1: its maximum)."""
    return float(model.disagreement(rows.obs, rows.action).quantile(zeta))
