"""Windows of the ring and states of mixtures, written out."""

import pytest
import torch

from reverie.buffers import Layout, ReplayBuffer, mix
from reverie.buffers.source import leaves, load_state, state_of


@pytest.mark.parametrize("on_host", [True, False])
def test_an_invalid_row_ends_its_episode_and_is_in_no_window(on_host):
    """Rows 0 to 4 of one world, no flag set; row 2 is no transition."""
    buffer = ReplayBuffer(Layout(1, 1), 8)
    buffer._on_host = on_host
    for s in range(5):
        row = buffer.layout.unpack(torch.tensor([[s + 1.0, 0, s, s + 2, 0, 0]]))
        buffer.add(row, torch.tensor([s != 2]))
    batch, mask = buffer.sample_windows(300, 3, burn_in=1)
    seen = {
        tuple(int(s) if real else None for s, real in zip(row, m, strict=True))
        for row, m in zip(batch.reward.tolist(), mask.tolist(), strict=True)
    }
    none = None
    assert seen == {
        (none, 0, 1, none), (0, 1, none, none), (none, 3, 4, none), (3, 4, none, none),
    }  # fmt: skip
    assert sorted(set(buffer.initial_obs(100)[:, 0].tolist())) == [1, 4]
    assert len(buffer) == 4


class Dream:
    """A source without a state."""

    def __init__(self, buffer):
        self.sample = buffer.sample


def test_the_state_of_a_mixture_is_that_of_its_leaves_and_not_of_what_lies_in_stores():
    """Of a, b and a dream of c, mixed twice, b lies in a store of its own: a alone goes back."""
    a, b, c = (ReplayBuffer(Layout(1, 1), 100, seed=seed) for seed in range(3))
    for first, buffer in ((0, a), (100, b), (200, c)):
        row = buffer.layout.unpack(torch.arange(first, first + 100.0)[:, None].expand(100, 6))
        buffer.add(row._replace(terminated=torch.zeros(100), truncated=torch.zeros(100)))
    dream = Dream(c)
    source = mix([(mix([(a, 0.5), (b, 0.5)]), 0.5), (dream, 0.5)])
    assert [x for x in leaves(source)] == [a, b, dream]
    assert leaves(a) == [a]
    before = state_of(source, [b])
    assert [x is None for x in before] == [False, True, True]
    assert [x is None for x in state_of(source)] == [False, False, True]
    first = source.sample(80).reward
    assert [int((first // 100 == k).sum()) for k in range(3)] == [20, 20, 40]
    load_state(source, before, [b])
    second = source.sample(80).reward
    same = [torch.equal(first[first // 100 == k], second[second // 100 == k]) for k in range(3)]
    assert same == [True, False, False]
    whole = state_of(source)
    third = source.sample(80).reward
    load_state(source, whole)
    fourth = source.sample(80).reward
    assert torch.equal(third[:40], fourth[:40]) and not torch.equal(third[40:], fourth[40:])
