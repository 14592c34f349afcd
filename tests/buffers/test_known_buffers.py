"""Windows of the ring, written out."""

import torch

from reverie.buffers import Layout, ReplayBuffer


def test_an_invalid_row_ends_its_episode_and_is_in_no_window():
    """Rows 0 to 4 of one world, no flag set; row 2 is no transition."""
    buffer = ReplayBuffer(Layout(1, 1), 8)
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
