"""A replay buffer's rows on a device, drawn and written without ever waiting for it.

What is valid is known there and nowhere else: a draw is a rank among the valid slots, and the slot
of that rank is looked up in their running count. Where no slot is valid, the draw is the slot
after the last, whose row is NaN: it stops a run at its next log row, as nothing can be raised here.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MANY = 1 << 62  # what ranks are the remainders of: a count of 1e9 is drawn evenly within 1e-9


def write_step(b: Any, columns: Sequence[Tensor], valid: Tensor | None) -> None:
    """Write one vector step [N] at the head of a `ReplayBuffer`."""
    t = b.total % b._steps
    row, gone = b._rows[t], b._invalid[t]
    torch.column_stack([c.to(b.device, non_blocking=True) for c in columns], out=row)
    if valid is None:
        gone.fill_(False)
    else:
        torch.logical_not(valid.to(b.device, non_blocking=True), out=gone)
    b._episode[t] = b._current
    b._current += (row[:, b._flags] > 0).any(dim=1) | gone
    b._ranks, b._counted = {}, None


def forget_others(b: Any) -> None:
    """Mark every slot as no row that is not of the steps oldest..total-1."""
    t = torch.arange(b.oldest, b.total, device=b.device) % b._steps
    kept = b._invalid[t]
    b._invalid.fill_(True)
    b._invalid[t] = kept
    b._counted, b._ranks = None, {}


def draw(b: Any, generators: Sequence[torch.Generator], n: int) -> Tensor:
    """Return n of the valid slots of each of K groups of neighbouring worlds [K, n], int64.

    Uniformly with replacement, group k's by generator k.
    """
    k, worlds = len(generators), b.num_envs // len(generators)
    if k not in b._ranks:  # once for all draws between two writes
        valid = ~b._invalid.view(b._steps, k, worlds)
        b._ranks[k] = valid.transpose(0, 1).reshape(k, -1).cumsum(1)
    ranks = b._ranks[k]
    drawn = [torch.randint(MANY, (n,), generator=g, device=b.device) for g in generators]
    rank = torch.stack(drawn) % ranks[:, -1:].clamp(min=1)
    at: Tensor = torch.searchsorted(ranks, rank, right=True)  # where the count goes up to rank + 1
    if k == 1:
        return at
    first = torch.arange(k, device=b.device)[:, None] * worlds
    at = at // worlds * b.num_envs + first + at % worlds
    return at.clamp(max=b.capacity)
