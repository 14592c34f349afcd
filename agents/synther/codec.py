"""Between packed rows of transitions and the features that the diffusion models."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...buffers import Layout
from .config import DiffusionConfig

EDGE = 0.999  # beyond it the arctanh of an action grows without bound


class Rules(NamedTuple):
    """What a task says of a row, where it says it: nothing of that need be modelled."""

    terminated: Callable[[Tensor], Tensor] | None = None  # next_obs [B, O] -> [B] bool
    reward: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None  # obs, action, next_obs -> [B]


def rules_of(env: Any) -> Rules:
    """Return the rules of a task of ours, played natively in one context; none of other worlds."""
    task, p = getattr(env, "task", None), getattr(env, "p", None)
    if task is None or p is None or p.per_world or getattr(env, "xp", None) is not np:
        return Rules()

    def ended(next_obs: Tensor) -> Tensor:
        if task.terminated is None:
            return torch.zeros(len(next_obs), dtype=torch.bool)
        return torch.from_numpy(task.terminated_from_obs(np, next_obs.double().numpy(), p))

    def paid(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        native = env.to_native(action.numpy()).astype(np.float64)
        rows = (x.double().numpy() for x in (obs, next_obs))
        first, then = rows
        return torch.from_numpy(task.reward_from_obs(np, first, native, then, p))

    says_end = task.terminated is None or task.terminated_from_obs is not None
    return Rules(ended if says_end else None, paid if task.reward_from_obs is not None else None)


class Codec:
    """Features [B, dim] of packed rows [B, width], in their order, with unit variance.

    Of a row obs, action, reward, next_obs and terminated are modelled, reward and terminated
    only where no rule gives them; extra columns are not. `terminated` is never normalised.
    """

    def __init__(
        self,
        layout: Layout,
        config: DiffusionConfig,
        rules: Rules | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.layout, self.config = layout, config
        self.out = Layout(layout.obs_dim, layout.act_dim)  # of generated rows
        rules = rules or Rules()
        self.ended = rules.terminated if config.terminal == "rule" else None
        self.paid = rules.reward if config.reward == "rule" else None
        at = layout.obs_dim + layout.act_dim  # of the reward
        width = at + 1 + layout.obs_dim
        columns = [c for c in range(width) if not (c == at and self.paid is not None)]
        plain = [at] if config.reward == "raw" else []
        if config.terminal != "none" and self.ended is None:
            columns.append(width)
            plain.append(width)
        self.dim, self.device = len(columns), torch.device(device)
        self._columns = torch.tensor(columns, device=self.device)
        self._plain = torch.tensor([c in plain for c in columns], device=self.device)
        self.mean = torch.zeros(self.dim, device=self.device)
        self.std = torch.ones(self.dim, device=self.device)

    def names(self) -> list[str]:
        """Return the modelled columns by name, e.g. obs[3], in the order of the features."""
        flat = column_names(self.out)
        return [flat[c] for c in self._columns.tolist()]

    def _raw(self, rows: Tensor) -> Tensor:
        out = rows.to(self.device).index_select(1, self._columns)
        if self.config.actions == "arctanh":
            action = out[:, self.layout.obs_dim : self.layout.obs_dim + self.layout.act_dim]
            action.copy_(action.clamp(-EDGE, EDGE).atanh())
        return out

    def fit(self, rows: Tensor) -> None:
        """Take mean and standard deviation of rows [n, width], n at least 2."""
        raw = self._raw(rows).double()  # in float32 a constant's mean is off by more than 1e-5
        mean, std = raw.mean(0), raw.std(0) + 1e-5  # as published
        self.mean = torch.where(self._plain, 0.0, mean).float()
        self.std = torch.where(self._plain, 1.0, std).float()

    def encode(self, rows: Tensor) -> Tensor:
        """Return features [B, dim] of packed rows [B, width]."""
        return (self._raw(rows) - self.mean) / self.std

    def decode(self, features: Tensor) -> Tensor:
        """Return packed rows [B, width of `out`], nothing truncated, of features [B, dim]."""
        raw = features * self.std + self.mean
        rows = raw.new_zeros(len(raw), self.out.width)
        rows[:, self._columns] = raw
        view = self.out.unpack(rows)
        if self.config.actions == "arctanh":
            view.action.tanh_()
        elif self.config.clip:
            view.action.clamp_(-1, 1)
        if self.ended is not None:
            view.terminated.copy_(self.ended(view.next_obs.cpu()))
        elif self.config.terminal != "raw":
            view.terminated.copy_(view.terminated > 0.5)
        if self.paid is not None:
            view.reward.copy_(self.paid(*(x.cpu() for x in (view.obs, view.action, view.next_obs))))
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics."""
        return {"mean": self.mean.clone(), "std": self.std.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the statistics of `state_dict`; ValueError where they are of other columns."""
        mean, std = (torch.as_tensor(state[k], device=self.device).clone() for k in ("mean", "std"))
        if mean.shape != (self.dim,) or std.shape != (self.dim,):
            raise ValueError(
                f"the state has {len(mean)} features, this model {self.dim}: it is of "
                "another layout, or its task's rules were given and are not now"
            )
        self.mean, self.std = mean, std


def check_rows(rows: Tensor, layout: Layout, least: int) -> None:
    """Raise ValueError for rows that a model of `layout` cannot be fit to, naming the column."""
    if rows.ndim != 2 or rows.shape[1] != layout.width:
        raise ValueError(
            f"rows of shape {tuple(rows.shape)} do not fit a model of {layout}, which takes "
            f"[n, {layout.width}]: give packed rows of that layout, or make a model of theirs"
        )
    if len(rows) < least:
        raise ValueError(
            f"{len(rows)} rows are fewer than a batch of {least}: collect more rows first, or "
            "give a smaller batch_size"
        )
    names = column_names(layout)
    bad = ~torch.isfinite(rows).all(0)
    if bool(bad.any()):
        column = int(bad.int().argmax())
        row = int((~torch.isfinite(rows[:, column])).int().argmax())
        raise ValueError(
            f"{names[column]} of row {row} is {float(rows[row, column])}, expected finite numbers: "
            "leave such rows out"
        )
    flags = ((rows == 0) | (rows == 1)).all(0) & (rows[0] != rows).any(0)
    modelled = layout.obs_dim + layout.act_dim
    found = flags[:modelled].nonzero()[:, 0].tolist()
    if found:
        raise ValueError(
            f"{', '.join(names[c] for c in found[:4])} {'is' if len(found) == 1 else 'are'} 0 or 1 "
            "in every row, as one-hot columns are: a diffusion of real numbers would not keep "
            "them so; fit a model for each of their values, and leave these columns out"
        )


def constant(rows: Tensor, layout: Layout) -> list[str]:
    """Return the names of the observation and action columns that never change in the rows."""
    same = (rows == rows[0]).all(0)[: layout.obs_dim + layout.act_dim]
    return [name for name, one in zip(column_names(layout), same.tolist(), strict=False) if one]


def column_names(layout: Layout) -> list[str]:
    """Return the names of the columns of packed rows, e.g. obs[3]."""
    out = []
    for name, column in layout.slices.items():
        if isinstance(column, int):
            out.append(name)
        else:
            out += [f"{name}[{i}]" for i in range(column.stop - column.start)]
    return out
