"""Open-loop predictions: one real beginning, the real actions, and as many dreams as masks."""

import torch
from torch import Tensor

from ...buffers import ReplayBuffer
from . import masks as dropout
from .api import WorldModel
from .masks import Masks

FAR = 10  # steps of the longer of the two errors
WINDOWS = 512  # beginnings that errors are measured from


def open_loop(
    model: WorldModel, obs: Tensor, action: Tensor, masks: Masks = (), clip: bool = False
) -> Tensor:
    """Return next_obs and reward [N, L, O + 1] of actions [N, L, A] from obs [N, O].

    Means, each from the one before under the same masks; `clip`: within the data's range.
    """
    state, said = model.initial_state(len(obs)), []
    for t in range(action.shape[1]):
        p = model.predict(obs, action[:, t], state, masks, None)
        out, state = torch.cat([p.next_obs, p.reward[:, None]], 1), p.state
        if clip:
            out = out.clamp(model.scales.low, model.scales.high)
        obs = out[:, :-1]
        said.append(out)
    return torch.stack(said, 1)


def some_masks(model: WorldModel, n: int, p: float, seed: int) -> Masks:
    """Return masks of rate p for n dreams, one of the model's own for each, or members of it."""
    generator = torch.Generator().manual_seed(seed)
    if model.members > 1:
        return (torch.randint(model.members, (n,), generator=generator),)
    if model.fixed_masks is not None:
        pick = torch.randint(len(model.fixed_masks), (n,), generator=generator)
        return dropout.parts(model.fixed_masks[pick], model.mask_widths)
    if not p or not model.mask_widths:
        return ()
    drawn = dropout.trained((n, sum(model.mask_widths)), p, generator)
    return dropout.parts(drawn, model.mask_widths)


def errors(
    model: WorldModel, data: ReplayBuffer, std: Tensor, p: float, seed: int = 0
) -> dict[str, float]:
    """Return the errors of one and of ten steps, without masks and under one for each beginning.

    Root mean squares over beginnings and observed numbers, each in its `std` [O]; no ten where the
    data has no episode as long.
    """
    batch, mask = data.sample_windows(WINDOWS, FAR)
    told = {"": (), "masked_": some_masks(model, WINDOWS, p, seed)}
    out = {}
    for name, masks in told.items():
        said = open_loop(model, batch.obs[:, 0], batch.action, masks)[..., :-1]
        wrong = ((said - batch.next_obs) / std).square().mean(-1)
        for steps, word in ((1, "one"), (FAR, "ten")):
            there = mask[:, steps - 1] > 0
            if bool(there.any()):
                out[f"{name}{word}_step_error"] = float(wrong[there, steps - 1].mean().sqrt())
    return out
