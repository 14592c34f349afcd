"""The replay buffer against a plain list of steps, through random histories."""

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from reverie.buffers import Layout, ReplayBuffer

LAYOUT = Layout(2, 1, {"tag": 1})
# A row is its number times these, plus its flags: zero for number 0, the masked slot.
COLUMNS = torch.tensor([1.0, 2.0, -1.0, 0.5, 3.0, 4.0, 0.0, 0.0, -2.0])
FLAGS = ("terminated", "truncated")
DRAWS = 400  # of at most 18 slots: one is missed with a chance of 1e-9

# One world's slot: how it ended, and whether it is a transition at all.
SLOT = st.sampled_from([(0, 0, True)] * 5 + [(1, 0, True), (0, 1, True), (1, 1, True)]
                       + [(0, 0, False), (0, 1, False)])  # fmt: skip
STEP = st.lists(SLOT, min_size=3, max_size=3)  # of up to three worlds


class Oracle:
    """Every step since the last `clear`; a row is (number, valid, continues the row before)."""

    def __init__(self, capacity, num_envs):
        self.capacity, self.num_envs = capacity, num_envs
        self.flags = [(0, 0)]  # of row number i; 0 is no row
        self.clear()

    def clear(self):
        self.steps = []
        self.broken = [True] * self.num_envs  # the next row does not continue the last

    def add(self, step):
        row = []
        for world, (terminated, truncated, valid) in enumerate(step):
            row.append((len(self.flags), valid, not self.broken[world]))
            self.flags.append((terminated, truncated))
            self.broken[world] = bool(terminated or truncated or not valid)
        self.steps.append(row)

    @property
    def oldest(self):
        return max(0, len(self.steps) - self.capacity)

    def kept(self):
        """Time, world and number of the rows that can be sampled."""
        return [
            (t, w, row[0])
            for t in range(self.oldest, len(self.steps))
            for w, row in enumerate(self.steps[t])
            if row[1]
        ]

    def walk(self, t, w, length, burn_in):
        """The numbers in the window around row (t, w), 0 where there is none."""
        after, before, at = [], [], t
        while len(after) < length and at < len(self.steps) and self.steps[at][w][1]:
            if at > t and not self.steps[at][w][2]:
                break
            after.append(self.steps[at][w][0])
            at += 1
        at = t
        while len(before) < burn_in and at > self.oldest and self.steps[at][w][2]:
            at -= 1
            before.append(self.steps[at][w][0])
        gap = [0] * (burn_in - len(before)), [0] * (length - len(after))
        return tuple(gap[0] + before[::-1] + after + gap[1])

    def starts(self):
        """Numbers of the rows that are known to begin an episode: the row before is not gone."""
        return {
            number
            for t, w, number in self.kept()
            if not self.steps[t][w][2] and (t > self.oldest or t == 0)
        }


class Machine(RuleBasedStateMachine):
    @initialize(
        steps=st.integers(1, 6),
        worlds=st.integers(1, 3),
        seed=st.integers(0, 9),
        host=st.booleans(),
    )
    def build(self, steps, worlds, seed, host):
        self.oracle = Oracle(steps, worlds)
        self.host = host
        self.buffer = self.new(seed)

    def new(self, seed):
        worlds = self.oracle.num_envs
        buffer = ReplayBuffer(LAYOUT, self.oracle.capacity * worlds, worlds, seed=seed)
        buffer._on_host = self.host  # False takes the path of a GPU buffer, on the CPU
        return buffer

    def rows(self, numbers):
        packed = numbers[..., None] * COLUMNS
        flags = torch.tensor(self.oracle.flags, dtype=torch.float32)[numbers]
        for i, name in enumerate(FLAGS):
            packed[..., LAYOUT.slices[name]] = flags[..., i]
        return packed

    def write(self, steps):
        steps = [step[: self.oracle.num_envs] for step in steps]
        for step in steps:
            self.oracle.add(step)
        recent = self.oracle.steps[-len(steps) :]
        numbers = torch.tensor([[number for number, _, _ in row] for row in recent])
        valid = torch.tensor([[v for _, v, _ in row] for row in recent])
        return self.rows(numbers), None if valid.all() else valid

    @rule(step=STEP)
    def add_one(self, step):
        packed, valid = self.write([step])
        self.buffer.add(LAYOUT.unpack(packed[0]), None if valid is None else valid[0])

    @rule(steps=st.lists(STEP, min_size=1, max_size=20))
    def add_many(self, steps):
        packed, valid = self.write(steps)
        if self.oracle.num_envs == 1 and len(steps) > 1:
            packed, valid = packed[:, 0], None if valid is None else valid[:, 0]
        self.buffer.add(LAYOUT.unpack(packed), valid)

    @rule()
    def break_episodes(self):
        self.buffer.break_episodes()
        self.oracle.broken = [True] * self.oracle.num_envs

    @rule()
    def clear(self):
        self.buffer.clear()
        self.oracle.clear()

    @rule(seed=st.integers(1, 9))
    def save_and_load(self, seed):
        old, self.buffer = self.buffer, self.new(seed)
        self.buffer.load_state_dict(old.state_dict())
        if len(old):
            a, b = old.sample_indices(8), self.buffer.sample_indices(8)
            assert torch.equal(a, b), "a loaded buffer draws other rows"

    @invariant()
    def rows_are_the_oracles(self):
        kept = self.oracle.kept()
        assert len(self.buffer) == len(kept)
        if not kept:
            with pytest.raises(ValueError, match="no valid transition"):
                self.buffer.sample(1)
            return
        packed = LAYOUT.pack(self.buffer.sample(DRAWS))
        numbers = packed[:, 0].long()
        assert torch.equal(packed, self.rows(numbers)), "a row's columns are of several rows"
        assert set(numbers.tolist()) == {number for _, _, number in kept}

    @invariant()
    def windows_are_the_oracles(self):
        kept = self.oracle.kept()
        if not kept:
            return
        turn = len(self.oracle.flags)
        length, burn_in = 1 + turn % 5, turn % 4
        batch, mask = self.buffer.sample_windows(DRAWS, length, burn_in)
        packed = LAYOUT.pack(batch)
        numbers = packed[..., 0].long()
        assert torch.equal(packed, self.rows(numbers)), "masked slots are zero, others whole rows"
        assert torch.equal(mask, numbers > 0)
        expected = {self.oracle.walk(t, w, length, burn_in) for t, w, _ in kept}
        assert {tuple(window) for window in numbers.tolist()} == expected

    @invariant()
    def starts_are_the_oracles(self):
        starts = self.oracle.starts()
        if starts:
            assert set(self.buffer.initial_obs(DRAWS)[:, 0].int().tolist()) == starts
        else:
            with pytest.raises(ValueError, match="no episode start"):
                self.buffer.initial_obs(1)


TestReplayBuffer = Machine.TestCase
TestReplayBuffer.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
