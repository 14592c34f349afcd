"""Which slots of a ring belong together."""

from typing import NamedTuple

import torch
from torch import Tensor

from .transitions import Transitions


class Windows(NamedTuple):
    """Consecutive transitions of single episodes, [B, burn_in + length], and which slots are real.

    Slot `burn_in` is the anchor. Slots before the episode's start, after its end or beyond the
    write head are zero and False in the mask.
    """

    batch: Transitions
    mask: Tensor


def window_slots(
    anchor: Tensor, offset: Tensor, steps: int, num_envs: int, oldest: int, total: int
) -> tuple[Tensor, Tensor]:
    """Return the slots [B, L] at `offset` [L] steps from `anchor` [B], and which of them exist.

    The ring holds the vector steps oldest..total-1 at row t % steps, `num_envs` slots each.
    """
    # Age counts from the oldest row, so that the write head is an edge and not a seam.
    age = (anchor // num_envs - oldest) % steps
    ages = age[:, None] + offset
    inside = (ages >= 0) & (ages < total - oldest)
    rows = (ages.clamp(0, steps - 1) + oldest) % steps
    return rows * num_envs + (anchor % num_envs)[:, None], inside


def episode_starts(episode: Tensor, invalid: Tensor, cut: bool) -> Tensor:
    """Return the mask [T, N] of first rows of episodes, for rows in the order of time.

    `cut`: rows before these were overwritten, so whether the oldest begin an episode is not known.
    """
    first = torch.ones_like(episode, dtype=torch.bool)
    first[1:] = episode[1:] != episode[:-1]
    if cut:
        first[:1] = False
    return first & ~invalid


def gather_windows(
    slots: tuple[Tensor, Tensor, Tensor],
    anchor: Tensor,
    length: int,
    burn_in: int,
    ring: tuple[int, int, int, int],
) -> tuple[Tensor, Tensor]:
    """Return rows [B, burn_in + length, width] around anchors [B], and which are real.

    `slots`: rows, episode numbers and invalid marks of every slot; `ring` as in `window_slots`.
    """
    if length < 1 or burn_in < 0:
        raise ValueError(f"need length >= 1 and burn_in >= 0, got {length} and {burn_in}")
    rows, episode, invalid = slots
    offset = torch.arange(-burn_in, length, device=rows.device)
    anchor = anchor.clamp(max=len(episode) - 1)  # a device's draw of no row: none is real then
    index, inside = window_slots(anchor, offset, *ring)
    mask = inside & (episode[index] == episode[anchor][:, None]) & ~invalid[index]
    return torch.where(mask[..., None], rows[index], 0.0), mask  # not a product: 0 * NaN


def start_slots(
    episode: Tensor, invalid: Tensor, ring: tuple[int, int, int, int], cut: bool
) -> Tensor:
    """Return the slots that begin an episode, of [T, N] in the ring's order; `cut` as below."""
    steps, num_envs, oldest, total = ring
    order = torch.arange(oldest, total, device=episode.device) % steps
    t, world = episode_starts(episode[order], invalid[order], cut).nonzero(as_tuple=True)
    return order[t] * num_envs + world
