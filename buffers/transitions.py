"""What a learner learns from: one batch of transitions, and how it lies in memory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

NEXT_KNOWN = "next_known"  # extra column: 0 where the data does not tell the successor
NO_EXTRA: Mapping[str, Tensor] = MappingProxyType({})


class Transitions(NamedTuple):
    """Transitions with leading dimensions B (one or more), float32.

    `next_obs` is the true successor, never the observation after a reset. Only `terminated`
    stops bootstrapping; `truncated` says that the episode was cut, not that it ended. Data that
    does not tell what followed a terminated row repeats `obs` and has an extra column
    `next_known`, 0 there: models of the dynamics must leave such rows out.
    """

    obs: Tensor  # [B, O]
    action: Tensor  # [B, A], each in [-1, 1]
    reward: Tensor  # [B]
    next_obs: Tensor  # [B, O]
    terminated: Tensor  # [B], 0 or 1
    truncated: Tensor  # [B], 0 or 1
    extra: Mapping[str, Tensor] = NO_EXTRA  # name -> [B] (width 1) or [B, k]

    @property
    def ended(self) -> Tensor:
        """Whether the episode ended here, by its task or by a limit [B], bool."""
        return (self.terminated + self.truncated) > 0

    def map(self, f: Callable[[Tensor], Tensor]) -> "Transitions":
        """Return the transitions with `f` applied to every column."""
        return Transitions(
            f(self.obs),
            f(self.action),
            f(self.reward),
            f(self.next_obs),
            f(self.terminated),
            f(self.truncated),
            {name: f(value) for name, value in self.extra.items()},
        )


def columns(batch: Transitions) -> dict[str, Any]:
    """Return the columns by name, as a state holds them."""
    return {**batch._asdict(), "extra": dict(batch.extra)}


def concatenate(batches: Sequence[Transitions]) -> Transitions:
    """Join batches [B_i] into one, keeping the extra columns that all of them have."""
    return _joined(batches, torch.cat)


def stack(batches: Sequence[Transitions]) -> Transitions:
    """Lay K batches [B] side by side, [K, B], keeping the extra columns that all of them have."""
    return _joined(batches, torch.stack)


def _joined(batches: Sequence[Transitions], by: Callable[[list[Tensor]], Tensor]) -> Transitions:
    first, *rest = batches
    columns = [by(list(x)) for x in zip(*(b[:-1] for b in batches), strict=True)]
    shared = [name for name in first.extra if all(name in b.extra for b in rest)]
    extra = {name: by([b.extra[name] for b in batches]) for name in shared}
    return Transitions._make((*columns, extra))


@dataclass(frozen=True)
class Layout:
    """The packed float32 row of a transition.

    Columns stand in the order obs, action, reward, next_obs, terminated, truncated, extras: obs
    and action together are the critic's input, the prefix is what a generative model learns.
    """

    obs_dim: int
    act_dim: int
    extra: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bad = {name: k for name, k in self.extra.items() if k < 1}
        if self.obs_dim < 1 or self.act_dim < 1 or bad:
            raise ValueError(
                f"every width must be at least 1: obs_dim={self.obs_dim}, act_dim={self.act_dim}, "
                f"extra={dict(self.extra)}"
            )
        taken = sorted(set(self.extra) & set(Transitions._fields))
        if taken:
            raise ValueError(f"extra columns must not be named as fields of Transitions: {taken}")

    @cached_property
    def slices(self) -> dict[str, slice | int]:
        """Column of each field: a slice, or an int where the field has no column dimension."""
        widths: dict[str, int | None] = {
            "obs": self.obs_dim,
            "action": self.act_dim,
            "reward": None,
            "next_obs": self.obs_dim,
            "terminated": None,
            "truncated": None,
        }
        widths |= {name: None if k == 1 else k for name, k in self.extra.items()}
        out: dict[str, slice | int] = {}
        at = 0
        for name, width in widths.items():
            out[name] = at if width is None else slice(at, at + width)
            at += 1 if width is None else width
        return out

    @cached_property
    def width(self) -> int:
        """Number of float32 columns."""
        return 2 * self.obs_dim + self.act_dim + 3 + sum(self.extra.values())

    def unpack(self, rows: Tensor) -> Transitions:
        """View packed rows [..., width] as transitions; no copy."""
        o, a = self.obs_dim, self.act_dim
        at = o + a + 1
        return Transitions(
            obs=rows[..., :o],
            action=rows[..., o : o + a],
            reward=rows[..., at - 1],
            next_obs=rows[..., at : at + o],
            terminated=rows[..., at + o],
            truncated=rows[..., at + o + 1],
            extra={name: rows[..., self.slices[name]] for name in self.extra}
            if self.extra
            else NO_EXTRA,
        )

    def pack(self, batch: Transitions) -> Tensor:
        """Copy transitions into fresh packed rows [..., width]."""
        rows = torch.empty(*batch.reward.shape, self.width, device=batch.obs.device)
        for name, value in self.columns(batch).items():
            rows[..., self.slices[name]] = value
        return rows

    def columns(self, batch: Transitions) -> dict[str, Tensor]:
        """Name -> tensor of every column of this layout; raises for a missing or misshapen one."""
        missing = [name for name in self.extra if name not in batch.extra]
        if missing:
            raise KeyError(
                f"the batch lacks the columns {missing} of the layout; it has "
                f"{sorted(batch.extra)}. Give them in Transitions.extra."
            )
        out = dict(zip(Transitions._fields[:6], batch[:6], strict=True))
        out |= {name: batch.extra[name] for name in self.extra}
        lead = tuple(batch.reward.shape)
        for name, value in out.items():
            column = self.slices[name]
            want = lead if isinstance(column, int) else (*lead, column.stop - column.start)
            if tuple(value.shape) != want:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {want}")
        return out

    def require(self, names: Sequence[str], who: str) -> None:
        """Raise unless every extra column that `who` declares is there."""
        missing = [name for name in names if name not in self.extra]
        if missing:
            raise ValueError(
                f"{who} needs the columns {missing}, but the replay layout has only "
                f"{sorted(self.extra)}; add them as Layout(..., extra={{{missing[0]!r}: width}})"
            )
