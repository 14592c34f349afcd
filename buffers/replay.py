"""The replay buffer: one packed tensor, one index draw, one gather."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import unread
from .transitions import Layout, Transitions
from .windows import Windows, gather_windows, start_slots


class ReplayBuffer:
    """A ring of `capacity` transitions from `num_envs` parallel worlds; a `Source`.

    Rows lie as [T, N, width] float32 on `device`, N worlds side by side. An episode number per
    slot, not the end flags, says which rows belong together. Draws come from the buffer's own
    generator, seeded with `seed`. Off the CPU neither `add` nor `sample` waits (`unread.py`).

    Raises ValueError for a capacity that `num_envs` does not divide.
    """

    def __init__(
        self,
        layout: Layout,
        capacity: int,
        num_envs: int = 1,
        *,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        if capacity < num_envs or capacity % num_envs:
            raise ValueError(
                f"capacity must be a positive multiple of num_envs={num_envs}, got {capacity}; "
                f"try {max(num_envs, capacity - capacity % num_envs)}"
            )
        self.layout = layout
        self.capacity = capacity
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self._steps = capacity // num_envs  # T
        self._flat = torch.empty(capacity + 1, layout.width, device=self.device)
        self._flat[capacity] = torch.nan  # no row: what is drawn where none is valid and known
        self._rows = self._flat[:capacity].view(self._steps, num_envs, layout.width)
        self._episode = torch.zeros(self._steps, num_envs, dtype=torch.int64, device=self.device)
        self._invalid = torch.ones(self._steps, num_envs, dtype=torch.bool, device=self.device)
        self._current = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self._on_host = self.device.type == "cpu"
        if self._on_host:  # column writes through numpy cost a third of torch's
            self._np = self._rows.numpy()
            self._np_episode, self._np_invalid = self._episode.numpy(), self._invalid.numpy()
            self._np_current = self._current.numpy()
        o, a, n = layout.obs_dim, layout.act_dim, num_envs
        self._shapes = ((n, o), (n, a), (n,), (n, o), (n,), (n,))
        self._flags = slice(2 * o + a + 1, 2 * o + a + 3)  # terminated and truncated
        self.total = 0  # vector steps ever added; the write head is total % T
        self._base = 0  # steps before this one were cleared
        self._counted: int | None = 0  # invalid slots; None until somebody asks
        self._ranks: dict[int, Tensor] = {}  # on a device: of K groups, counts of valid slots
        self._starts: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    @classmethod
    def for_env(cls, env: Any, capacity: int, *, seed: int = 0, **keywords: Any) -> "ReplayBuffer":
        """Return a buffer for the rows of these worlds; keywords as the constructor's."""
        layout = Layout(env.obs_dim, env.act_dim)
        return cls(layout, capacity - capacity % env.num_envs, env.num_envs, seed=seed, **keywords)

    @staticmethod
    def row_bytes(layout: Layout) -> int:
        """Return the bytes of a transition: its numbers, its episode and whether it is valid."""
        return 4 * layout.width + 9

    def __len__(self) -> int:
        """Rows that can be sampled."""
        return (self.total - self.oldest) * self.num_envs - self._num_invalid

    @property
    def _num_invalid(self) -> int:
        if self._counted is None:  # waits for a device
            there = (self.total - self.oldest) * self.num_envs
            self._counted = there - int((~self._invalid).sum())
        return self._counted

    def add(self, batch: Transitions, valid: Tensor | None = None) -> None:
        """Append one vector step [N], or T steps at once [T, N] ([T] when there is one world).

        `valid` [N] or [T, N], bool: a False slot keeps the grid, ends its world's episode and is
        never sampled. Raises ValueError on another width, KeyError on a missing column.
        """
        lead = tuple(batch.reward.shape)
        if valid is not None and valid.shape != lead:
            raise ValueError(f"valid has shape {tuple(valid.shape)}, the batch {lead}")
        if lead == (self.num_envs,):
            fields = batch[:6]
            if not self.layout.extra and tuple([x.shape for x in fields]) == self._shapes:
                self._add_step(fields, valid)  # what a training loop gives: all is checked
            else:
                self._add_step(tuple(self.layout.columns(batch).values()), valid)
        elif len(lead) == 2 and lead[1] == self.num_envs:
            rows = self.layout.pack(batch).to(self.device)
            gone = torch.zeros(lead, dtype=torch.bool) if valid is None else ~valid
            for at in range(0, lead[0], self._steps):
                chunk = slice(at, at + self._steps)
                self._add_many(rows[chunk], gone.to(self.device)[chunk])
        elif len(lead) == 1 and self.num_envs == 1:
            self.add(batch.map(lambda x: x[:, None]), None if valid is None else valid[:, None])
        else:
            raise ValueError(
                f"a batch of shape {lead} does not fit a buffer of num_envs={self.num_envs}: give "
                f"({self.num_envs},) for one step or (T, {self.num_envs}) for T steps"
            )

    @property
    def oldest(self) -> int:
        """The oldest vector step that is still there, counted since the start."""
        return max(self._base, self.total - self._steps)

    def _add_step(self, columns: tuple[Tensor, ...], valid: Tensor | None) -> None:
        t = self.total % self._steps
        if self._on_host:
            if self._num_invalid and self.total - self.oldest == self._steps:
                self._counted = self._num_invalid - int(np.count_nonzero(self._np_invalid[t]))
            torch.column_stack(columns, out=self._rows[t])  # one call packs and casts
            self._np_episode[t] = self._np_current
            self._np_invalid[t] = False
            flags = self._np[t, :, self._flags]
            if np.count_nonzero(flags):
                self._np_current += flags.any(axis=1)
            if valid is not None and np.count_nonzero(valid.numpy()) < self.num_envs:
                self._np_invalid[t] = gone = ~valid.numpy()
                self._np_current += gone & ~flags.any(axis=1)
                self._counted = self._num_invalid + int(np.count_nonzero(gone))
        else:
            unread.write_step(self, columns, valid)
        self.total += 1

    def _add_many(self, rows: Tensor, gone: Tensor) -> None:
        """Append T packed steps [T, N, width] at once, no more than the ring holds."""
        t = (torch.arange(len(rows), device=self.device) + self.total) % self._steps
        ended = (rows[..., self._flags] > 0).any(-1) | gone
        after = self._current + ended.cumsum(0)
        self._rows[t], self._invalid[t], self._episode[t] = rows, gone, after - ended.long()
        if len(rows):
            self._current.copy_(after[-1])
        self.total += len(rows)
        self._counted, self._ranks = None, {}

    def break_episodes(self) -> None:
        """Say that the next rows do not continue the last ones: a restart, another collection."""
        self._current += 1

    def sample(self, n: int) -> Transitions:
        """Draw n transitions uniformly with replacement, in fresh memory."""
        return self.layout.unpack(self._flat.index_select(0, self.sample_indices(n)))

    def sample_indices(self, n: int) -> Tensor:
        """Draw n slots [n], int64, uniformly over the valid ones, for `gather`."""
        size = (self.total - self.oldest) * self.num_envs
        if size == (self._num_invalid if self._on_host else 0):
            raise ValueError("the buffer holds no valid transition to sample; add some first")
        if not self._on_host:
            return unread.draw(self, (self.generator,), n)[0]
        index = self._draw(size, n)
        if self._num_invalid:
            invalid = self._invalid.view(-1)
            while bool((bad := invalid[index]).any()):
                index = torch.where(bad, self._draw(size, n), index)
        return index

    def _draw(self, size: int, n: int) -> Tensor:
        index = torch.randint(size, (n,), generator=self.generator, device=self.device)
        if self._base and size < self.capacity:  # cleared once: the rows do not begin at slot 0
            index = (index + self._base * self.num_envs) % self.capacity
        return index

    def rows(self) -> Tensor:
        """Return copies of the valid packed rows [M, width], oldest first."""
        kept = self.export_rows(self.oldest, self.total)
        return kept["rows"][~kept["invalid"]].to(self.device)

    def gather(self, index: Tensor) -> Transitions:
        """Return the transitions at slots `index` [n], in fresh memory."""
        return self.layout.unpack(self._flat.index_select(0, index))

    def sample_windows(self, n: int, length: int, burn_in: int = 0) -> Windows:
        """Draw n windows of `length` steps from uniform anchors, up to `burn_in` before each."""
        anchor, ring = self.sample_indices(n), (self._steps, self.num_envs, self.oldest, self.total)
        slots = self._flat, self._episode.view(-1), self._invalid.view(-1)
        rows, mask = gather_windows(slots, anchor, length, burn_in, ring)
        return Windows(self.layout.unpack(rows), mask)

    def initial_obs(self, n: int) -> Tensor:
        """Draw n observations [n, O] uniformly from the starts of the stored episodes."""
        if self._starts[0] != self.total:
            ring = (self._steps, self.num_envs, self.oldest, self.total)
            slots = start_slots(self._episode, self._invalid, ring, self.oldest > self._base)
            self._starts = (self.total, slots)
        starts = self._starts[1]
        if not len(starts):
            raise ValueError(
                "no episode start is in the buffer: every stored episode began earlier"
            )
        pick = torch.randint(len(starts), (n,), generator=self.generator, device=self.device)
        return self._flat[starts[pick], : self.layout.obs_dim]

    def clear(self) -> None:
        """Forget every transition; the generator goes on."""
        self._base = self.total
        self._counted, self._ranks = 0, {}
        self._invalid.fill_(True)
        self._starts = (-1, self._starts[1])
        self.break_episodes()

    def export_rows(self, first: int, last: int) -> dict[str, Tensor]:
        """Return copies of the vector steps first..last-1, counted since the start."""
        if not self.oldest <= first <= last <= self.total:
            raise ValueError(f"steps {first}..{last} are not in the buffer of {self.total} steps")
        t = torch.arange(first, last, device=self.device) % self._steps
        return {
            "rows": self._rows[t].cpu(),
            "episode": self._episode[t].cpu(),
            "invalid": self._invalid[t].cpu(),
        }

    def import_rows(self, first: int, parts: dict[str, Tensor]) -> None:
        """Write back what `export_rows` returned for steps from `first` on."""
        rows = parts["rows"]
        want = (rows.shape[0], self.num_envs, self.layout.width)
        if tuple(rows.shape) != want or rows.shape[0] > self._steps:
            raise ValueError(f"rows of shape {tuple(rows.shape)} do not fit {want}")
        t = (torch.arange(rows.shape[0], device=self.device) + first) % self._steps
        self._rows[t] = rows.to(self.device)
        self._episode[t] = parts["episode"].to(self.device)
        self._invalid[t] = parts["invalid"].to(self.device)

    def state_dict(self, rows: bool = True) -> dict[str, Any]:
        """Everything that a continuation needs; without the rows where shards hold them."""
        state: dict[str, Any] = {
            "total": self.total,
            "base": self._base,
            "capacity": self.capacity,
            "current": self._current.clone(),
            "generator": self.generator.get_state(),
        }
        if rows:
            state["first"] = self.oldest
            state["data"] = self.export_rows(state["first"], self.total)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`; rows kept elsewhere are given to `import_rows` before."""
        if int(state["capacity"]) != self.capacity:
            raise ValueError(
                f"the state is of a buffer of capacity {state['capacity']}, this one has "
                f"{self.capacity}"
            )
        if "data" in state:
            self.import_rows(state["first"], state["data"])
        self.total, self._base = int(state["total"]), int(state["base"])
        self._current.copy_(state["current"])
        self.generator.set_state(state["generator"])
        unread.forget_others(self)
        self._starts = (-1, self._starts[1])
