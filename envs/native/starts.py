"""Where episodes start: each world's coming reset states, drawn in blocks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..api import Array
from ..random import CounterDraws, GymnasiumDraws
from ..task import Params, Task
from ..worlds import rows_of


class Starts:
    """Reset states of N worlds from the counter-based stream.

    World i follows stream `streams[i]`. A block of coming episodes is drawn at once for a world,
    so that a reset is a look-up.
    """

    def __init__(self, task: Task, p: Params, xp: Any, streams: Array, seed: int) -> None:
        self.task, self.p, self.xp, self.streams = task, p, xp, streams
        num_envs = len(streams)
        self.block = max(1, min(64, 4096 // num_envs))
        self.episode = np.zeros(num_envs, np.int64)  # the next one of each world
        self._loaded = np.full(num_envs, -self.block, np.int64)
        self._start = np.empty((num_envs, self.block, p.nq + p.nv))
        self.seed = seed

    def reseed(self, seed: int) -> None:
        """Go to the first episode of `seed` in every world."""
        self.seed = seed
        self.episode[:] = 0
        self._loaded[:] = -self.block

    def next(self, ids: Array) -> tuple[Array, Array]:
        """Return qpos and qvel of the next episode of worlds `ids`."""
        episode = self.episode[ids]
        slot = episode - self._loaded[ids]  # `_loaded`: the first episode of the block at hand
        if np.count_nonzero(slot >= self.block) or np.count_nonzero(slot < 0):
            first = episode - episode % self.block
            stale = self._loaded[ids] != first
            self._fill(ids[stale], first[stale])
            slot = episode - first
        self.episode[ids] = episode + 1
        both = self._start[ids, slot]
        return both[:, : self.p.nq], both[:, self.p.nq :]

    def _fill(self, ids: Array, blocks: Array) -> None:
        episode = (blocks[:, None] + np.arange(self.block)).ravel()
        worlds = np.repeat(ids, self.block)
        draws = CounterDraws(self.xp, self.seed, self.streams[worlds], episode)
        qpos, qvel = self.task.reset(self.xp, draws, rows_of(self.p, worlds))
        start = np.concatenate([qpos, qvel], axis=1)
        self._start[ids] = start.reshape(len(ids), self.block, -1)
        self._loaded[ids] = blocks

    def state_dict(self) -> dict[str, Any]:
        """Return the seed and each world's next episode."""
        return {"seed": self.seed, "episode": self.episode.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.reseed(int(state["seed"]))
        self.episode[:] = state["episode"]


class GymnasiumStarts:
    """Reset states in gymnasium's own draws: PCG64 generators seeded seed + stream."""

    def __init__(self, task: Task, p: Params, xp: Any, streams: Array, seed: int) -> None:
        self.task, self.p, self.xp, self.streams = task, p, xp, streams
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Seed world i with seed + its stream."""
        self.use([_pcg64(seed + int(i)) for i in self.streams])

    def use(self, generators: Sequence[np.random.Generator]) -> None:
        """Draw from these generators, one for each world."""
        self.generators = list(generators)

    def next(self, ids: Array) -> tuple[Array, Array]:
        """Return qpos and qvel of the next episode of worlds `ids`."""
        draws = GymnasiumDraws([self.generators[i] for i in ids])
        return self.task.reset(self.xp, draws, rows_of(self.p, ids))

    def state_dict(self) -> dict[str, Any]:
        """Return each generator's state."""
        return {"generators": [g.bit_generator.state for g in self.generators]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        for g, saved in zip(self.generators, state["generators"], strict=True):
            g.bit_generator.state = saved


def _pcg64(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
