"""One buffer, many learners: each group of worlds is drawn from as if it were alone."""

import pytest
import torch

from reverie.buffers import Card, Dataset, Layout, ReplayBuffer, Source, Transitions
from reverie.buffers.groups import Groups, Members

GROUPS, WORLDS = 3, 2
SEEDS = (5, 11, 2)


def vector_step(t, worlds):
    """Return a step in which world w's reward is 100 w + t."""
    reward = torch.tensor([100.0 * w + t for w in worlds])
    zeros = torch.zeros(len(worlds))
    return Transitions(reward[:, None], zeros[:, None], reward, reward[:, None] + 1, zeros, zeros)


def filled(steps, capacity=4, invalid=()):
    """A buffer of all worlds, and one of each group's; `invalid` names (step, world)."""
    layout, n = Layout(1, 1), GROUPS * WORLDS
    whole = ReplayBuffer(layout, capacity * n, n)
    own = [ReplayBuffer(layout, capacity * WORLDS, WORLDS, seed=s) for s in SEEDS]
    for t in range(steps):
        valid = torch.tensor([(t, w) not in invalid for w in range(n)])
        whole.add(vector_step(t, range(n)), valid)
        for k, buffer in enumerate(own):
            worlds = range(k * WORLDS, (k + 1) * WORLDS)
            buffer.add(vector_step(t, worlds), valid[list(worlds)])
    return Groups(whole, SEEDS), own


@pytest.mark.parametrize("steps", [1, 3, 4, 7])
@pytest.mark.parametrize("invalid", [(), ((2, 0), (5, 3))])
def test_each_group_draws_what_a_buffer_of_its_own_draws(steps, invalid):
    groups, own = filled(steps, invalid=invalid)
    for _ in range(5):
        batch = groups.sample(8)
        assert batch.reward.shape == (GROUPS, 8) and batch.obs.shape == (GROUPS, 8, 1)
        for k, buffer in enumerate(own):
            alone = buffer.sample(8)
            for a, b in zip(batch[:6], alone[:6], strict=True):
                assert torch.equal(a[k], b)


def test_slots_by_hand():
    """Ring of 4 steps, 6 worlds: slot 3 of group 2 is step 1, its second world: 1 * 6 + 5."""
    groups, _ = filled(3)
    local = torch.tensor([[0, 3], [0, 3], [0, 3]])
    assert groups._slots(local).tolist() == [[0, 7], [2, 9], [4, 11]]
    rewards = groups.buffer.gather(torch.tensor([7, 9, 11])).reward
    assert rewards.tolist() == [101.0, 301.0, 501.0]


def test_after_a_clear_nothing_old_is_drawn():
    groups, _ = filled(3)
    groups.buffer.clear()
    with pytest.raises(ValueError, match="no transition to sample"):
        groups.sample(1)
    groups.buffer.add(vector_step(9, range(6)))
    assert set(groups.sample(20).reward[1].tolist()) == {209.0, 309.0}


def test_saved_generators_go_on():
    groups, _ = filled(4)
    groups.sample(3)
    other = Groups(groups.buffer, (0, 0, 0))
    other.load_state_dict(groups.state_dict())
    assert torch.equal(groups.sample_indices(9), other.sample_indices(9))
    assert isinstance(groups, Source)


def test_worlds_that_make_no_equal_groups_are_refused():
    with pytest.raises(ValueError, match="6 worlds do not make 4 equal groups"):
        Groups(filled(1)[0].buffer, (0, 1, 2, 3))


def test_a_group_without_a_valid_row_is_named():
    groups, _ = filled(1, invalid=((0, 2), (0, 3)))
    with pytest.raises(ValueError, match="group 1 holds no valid transition"):
        groups.sample(4)


def test_sources_side_by_side_draw_as_each_alone_and_go_on():
    """Rewards are the row's number; a further column comes along."""

    def data(seed):
        row = torch.arange(50.0)
        obs, zeros, ends = row[:, None], torch.zeros(50), torch.ones(50)
        columns = {"mark": row + 0.5}
        batch = Transitions(obs, zeros[:, None], row, obs + 1, ends, zeros, columns)
        return Dataset.of(batch, Card(env="x"), seed=seed)

    members = Members([data(s) for s in SEEDS])
    for _ in range(2):
        batch = members.sample(8)
        assert batch.obs.shape == (3, 8, 1) and batch.reward.shape == (3, 8)
        assert torch.equal(batch.extra["mark"], batch.reward + 0.5)
        assert torch.equal(batch.next_obs, batch.obs + 1)
    alone = data(SEEDS[1])
    alone.sample(8)
    assert torch.equal(alone.sample(8).reward, batch.reward[1])
    other = Members([data(0) for _ in SEEDS])
    other.load_state_dict(members.state_dict())
    assert torch.equal(other.sample(8).reward, members.sample(8).reward)
    assert isinstance(members, Source)
