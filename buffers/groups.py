"""Batches for many learners at once: each draws from its own worlds, or its own source, alone."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import unread
from .replay import ReplayBuffer
from .source import Source, load_state, state_of
from .transitions import Transitions, stack


class Groups:
    """K groups of neighbouring worlds in a replay buffer; a `Source` of [K, n] transitions.

    Group k's draws are those that a buffer of its worlds alone, seeded with `seeds[k]`, makes (on a
    device too). Raises ValueError where the worlds do not make K equal groups.
    """

    def __init__(self, buffer: ReplayBuffer, seeds: Sequence[int]) -> None:
        if not seeds or buffer.num_envs % len(seeds):
            raise ValueError(
                f"{buffer.num_envs} worlds do not make {len(seeds)} equal groups: give a multiple"
            )
        self.buffer, self.worlds = buffer, buffer.num_envs // len(seeds)
        device = buffer.device
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._first = torch.arange(len(seeds), device=device)[:, None] * self.worlds

    def sample(self, n: int) -> Transitions:
        """Draw n transitions of each group uniformly with replacement, in fresh memory."""
        slots = self.sample_indices(n)
        rows = self.buffer.gather(slots.view(-1))
        return rows.map(lambda x: x.view(*slots.shape, *x.shape[1:]))

    def sample_indices(self, n: int) -> Tensor:
        """Draw n of the buffer's slots for each group, [K, n] int64, uniformly over valid ones."""
        b = self.buffer
        if b.total == b.oldest:
            raise ValueError("the buffer holds no transition to sample; add some first")
        if not b._on_host:
            return unread.draw(b, self.generators, n)
        slots = self._slots(torch.stack([self._draw(g, n) for g in self.generators]))
        if len(b) == (b.total - b.oldest) * b.num_envs:
            return slots
        for k, generator in enumerate(self.generators):
            while bool((bad := self._invalid[slots[k]]).any()):
                if bool(bad.all()) and not self._valid_in(k):
                    raise ValueError(f"group {k} holds no valid transition to sample; add some")
                again = self._slots(self._draw(generator, n).expand(len(slots), n))[k]
                slots[k] = torch.where(bad, again, slots[k])
        return slots

    def _valid_in(self, k: int) -> bool:
        b = self.buffer
        every = torch.arange((b.total - b.oldest) * self.worlds, device=b.device)
        own = self._slots(every.expand(len(self.generators), -1))[k]
        return not bool(self._invalid[own].all())

    @property
    def _invalid(self) -> Tensor:
        return self.buffer._invalid.view(-1)

    def _draw(self, generator: torch.Generator, n: int) -> Tensor:
        size = (self.buffer.total - self.buffer.oldest) * self.worlds
        return torch.randint(size, (n,), generator=generator, device=self.buffer.device)

    def _slots(self, local: Tensor) -> Tensor:
        """Return the slots [K, n] in the whole ring of slots in a ring of one group."""
        b, steps = self.buffer, self.buffer.capacity // self.buffer.num_envs
        first = 0 if b.total - b.oldest == steps else b.oldest
        at = (local // self.worlds + first) % steps
        return at * b.num_envs + self._first + local % self.worlds

    def state_dict(self) -> dict[str, Any]:
        """Return the generators; the rows are the buffer's to save."""
        return {"generators": [g.get_state() for g in self.generators]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        for g, kept in zip(self.generators, state["generators"], strict=True):
            g.set_state(kept)


class Members:
    """The sources of K learners side by side; a `Source` of [K, n] transitions.

    Member k's draws are those of its own source, which may share its rows with the others.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = list(sources)

    def sample(self, n: int) -> Transitions:
        """Draw n transitions of each source, in fresh memory."""
        return stack([s.sample(n) for s in self.sources])

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the sources; rows of data are their files'."""
        return {"members": [state_of(s) for s in self.sources]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        for s, kept in zip(self.sources, state["members"], strict=True):
            load_state(s, kept)
