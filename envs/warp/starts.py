"""Where episodes start, on the device: a block of coming reset states for each world."""

from typing import Any

import torch
from torch import Tensor

from ..random import CounterDraws
from ..task import Params, Task
from ..worlds import rows_of


def to_host(x: Tensor) -> Any:
    """Return a copy as a numpy array; `cpu()` alone would share a CPU tensor's memory."""
    return x.cpu().numpy().copy()


class DeviceStarts:
    """The same starts as `Starts`: those of the counter-based stream, drawn on the device.

    A step ends at most one episode of a world, so a block of B episodes lasts B steps. The host
    counts them and draws the next block; nothing waits for the device.
    """

    block = 16

    def __init__(self, task: Task, p: Params, xp: Any, streams: Tensor, seed: int) -> None:
        self.task, self.p, self.xp, self.streams, self.seed = task, p, xp, streams, seed
        n = len(streams)
        self.episode = torch.zeros(n, dtype=torch.int64, device=streams.device)  # the next one
        self._first = torch.zeros_like(self.episode)  # of the block at hand
        self._world = torch.arange(n, device=streams.device)
        self._table = torch.zeros(n, self.block, p.nq + p.nv, device=streams.device)
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Go to the first episode of `seed` in every world."""
        self.seed = seed
        self.episode.zero_()
        self._fill()

    def next(self) -> Tensor:
        """Return the coming start [N, nq + nv] float32 of every world; may be recorded."""
        return self._table[self._world, self.episode - self._first]

    def count(self) -> None:
        """Say that a step, or a restart, was made: draw the next block when this one may end."""
        self._age += 1
        if self._age == self.block:
            self._fill()

    def _fill(self) -> None:
        device = self.streams.device
        with torch.device(device):
            ahead = torch.arange(self.block)
            episode = (self.episode[:, None] + ahead).reshape(-1)
            worlds = self._world.repeat_interleave(self.block)
            draws = CounterDraws(self.xp, self.seed, self.streams[worlds], episode)
            qpos, qvel = self.task.reset(self.xp, draws, rows_of(self.p, worlds))
        start = torch.cat([qpos, qvel], dim=1).float()
        self._table.copy_(start.view_as(self._table))
        self._first.copy_(self.episode)
        self._age = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the seed and each world's next episode."""
        return {"seed": self.seed, "episode": to_host(self.episode)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`, of either engine."""
        self.seed = int(state["seed"])
        self.episode.copy_(torch.as_tensor(state["episode"]))
        self._fill()
