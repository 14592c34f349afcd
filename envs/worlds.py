"""What N worlds of a task are made of, before an engine runs them."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import contexts as ctx
from .api import Array
from .contexts import Contexts
from .task import Params, Task, resolve


class Worlds:
    """K models of a task in N worlds: world i plays row i mod K.

    `p`: the task's parameters; those named in `p.per_world` differ between worlds and are [N]
    arrays. `streams` [N]: the stream of start states that each world follows; by default the K
    worlds of a group start alike. Raises ValueError for an unknown option or context, and where
    some context would have no world.
    """

    def __init__(
        self,
        task: Task,
        num_envs: int,
        context: Contexts | Mapping[str, Any] | None = None,
        streams: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.task, self.num_envs = task, num_envs
        self.contexts = Contexts.grid(context) if isinstance(context, Mapping) else context
        self.options = dict(options or {})
        params = resolve(task, self.options)
        self.models, rows = ctx.variants(task, params, self.contexts)
        k = len(self.models)
        if k > num_envs:
            raise ValueError(
                f"{k} contexts in {num_envs} worlds: some would never be played; use "
                f"num_envs={k} or more"
            )
        self.row = np.arange(num_envs) % k
        per_world = ctx.stack(rows, self.row)
        self.p = SimpleNamespace(**{**vars(rows[0]), **per_world})
        self.p.per_world = tuple(per_world)
        self.streams = np.arange(num_envs) // k if streams is None else np.asarray(streams)
        if self.streams.shape != (num_envs,):
            raise ValueError(f"streams has shape {self.streams.shape}, expected ({num_envs},)")
        self.model = model = self.models[0]
        self.fps = 1 / (model.opt.timestep * self.p.frame_skip)  # environment steps per second
        self.low, self.high = np.array(model.actuator_ctrlrange).T
        # In float32 so that the controls of a float32 policy are the same on every engine.
        half, mid = ((self.high - self.low) / 2, (self.high + self.low) / 2)
        self.half, self.mid = half.astype(np.float32), mid.astype(np.float32)
        self.unit = bool((half == 1).all() and (mid == 0).all())  # actions are controls as they are

    def context_tensors(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Return context_id [N] int64 and context [N, d] float32."""
        table = np.zeros((1, 0)) if self.contexts is None else self.contexts.table
        ids, values = torch.from_numpy(self.row), torch.from_numpy(table[self.row]).float()
        return ids.to(device), values.to(device)


def rows_of(p: Params, ids: Array) -> Params:
    """Return the parameters of worlds `ids`: entries that differ between worlds are indexed."""
    if not p.per_world:
        return p
    return SimpleNamespace(**{**vars(p), **{name: getattr(p, name)[ids] for name in p.per_world}})
