"""ExSSNeT: masks as bits, scores straight through, weights that are a task's alone, KKT."""

import pytest
import torch
from rivalled import batch, learner_of, require_no_drift

from reverie.agents.oer import exssnet
from reverie.agents.oer.exssnet import ExSSNeT, neighbours_r2
from reverie.agents.oer.policy import ContinualPolicy
from reverie.agents.oer.supermasks import Supermasks, pack, unpack
from reverie.agents.training import trained

FRESH = {"penalty": "exssnet", "mu_init": "previous"}


def test_masks_are_kept_as_bits():
    mask = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 1, 1]], dtype=torch.bool)
    assert pack(mask).tolist() == [1 + 4, 1 + 2]
    assert torch.equal(unpack(pack(mask), mask.shape), mask)
    masks = Supermasks([torch.Size((2, 5)), torch.Size((3, 1))], 4)
    assert masks.bytes == 2 + 1 and masks.packed0.shape == (4, 2)
    masks.put(1, [mask, mask[0, :3, None]], learned=True)
    assert torch.equal(masks.of(0, 1), mask.float()) and masks.of(0, 1).requires_grad
    masks.put(2, [~mask, mask[1, 2:, None]], learned=False)
    assert torch.equal(masks.of(0, 1), mask) and not masks.of(0, 2).requires_grad
    assert [m.flatten().tolist() for m in masks.kept(2)][1] == [False, True, True]


def small(keep, monkeypatch):
    """A layer of 2 x 3 weights in front of one head each of two tasks, signs + - + / - + -."""
    monkeypatch.setattr(exssnet, "KEEP", keep)
    policy = ContinualPolicy(3, 1, (2,), 2, kind="exssnet")
    with torch.no_grad():
        policy.trunk[0].weight.copy_(torch.tensor([[0.3, -0.1, 0.2], [-0.3, 0.1, -0.2]]))
        policy.head_weight.copy_(torch.tensor([[[1.0, -1.0]], [[2.0, 1.0]]]))
        policy.head_bias.zero_()
    _, optimizer = trained(policy, 0.1)
    net = ExSSNeT(policy)
    return policy, optimizer, net


def test_weights_begin_as_constants_of_random_sign(monkeypatch):
    policy, _, _ = small(0.5, monkeypatch)
    size = (2 / (0.5 * 3)) ** 0.5
    want = torch.tensor([[1.0, -1, 1], [-1, 1, -1]]) * size
    torch.testing.assert_close(policy.trunk[0].weight.detach(), want)
    assert not policy.trunk[0].bias.any()


def test_scores_are_trained_straight_through_masks(monkeypatch):
    """Three of six weights are played with; the gradient of a score is its mask's, by sign."""
    policy, optimizer, net = small(0.5, monkeypatch)
    net.begin(0)
    with torch.no_grad():
        net.scores.copy_(torch.tensor([0.5, -0.4, 0.1, -0.2, 0.3, 0.05]))
    net._choose()
    assert policy.masks.kept(0)[0].tolist() == [[True, True, False], [False, True, False]]
    weight, x = policy.trunk[0].weight.detach().clone(), torch.tensor([[1.0, 0.5, 2.0]])
    size = float(weight[0, 0])
    hidden = policy.features(x)
    torch.testing.assert_close(hidden, size * torch.tensor([[1 - 0.5, 0.5]]))
    loss = (policy(x, 0, raw=False)).sum()  # tanh(h0 - h1) at h0 = h1: slope 1
    before = net.scores.detach().clone()
    net.step(optimizer, loss, x)
    by_mask = weight * torch.tensor([[1.0], [-1.0]]) * x
    want = by_mask.flatten() * before.sign()
    torch.testing.assert_close(net.scores.grad, want)
    # Adam's first step is the rate, against the sign
    torch.testing.assert_close(net.scores.detach(), before - 0.01 * want.sign())
    assert torch.equal(policy.trunk[0].weight.detach(), weight)  # no weight has moved
    assert (policy.head_bias != 0).tolist() == [[True], [False]]


def test_weights_of_a_mask_that_are_new_are_trained_and_no_others(monkeypatch):
    policy, optimizer, net = small(0.5, monkeypatch)
    x, scores = torch.tensor([[1.0, -0.5, 2.0], [-1.0, 0.5, 1.0]]), torch.arange(6.0) / 10 + 0.1
    net.begin(0)
    with torch.no_grad():
        net.scores.copy_(scores)  # the lower row
    net._choose()
    net.end(x)
    one = policy.trunk[0].weight.detach().clone()
    for _ in range(3):
        net.step(optimizer, policy(x, 0, raw=False).sum(), x)
    two = policy.trunk[0].weight.detach().clone()
    assert (two != one).tolist() == [[False] * 3, [True] * 3]
    assert torch.equal(net.scores.detach(), scores)
    assert net.row() == {"mask_overlap": 0, "free": 0.5, "transfer_from": -1, "transfer_r2": 0}
    said = policy(x, 0, raw=False).detach()
    net.begin(1)
    with torch.no_grad():
        net.scores.copy_(torch.tensor([0.0, 0, 3, 4, 5, 0]))  # two of the first task's, one new
    net._choose()
    net.step(optimizer, policy(x, 1, raw=False).sum(), x)
    net.scores.data.copy_(torch.tensor([0.0, 0, 3, 4, 5, 0]))
    net._choose()
    net.end(x)
    for _ in range(3):
        net.step(optimizer, policy(x, 1, raw=False).sum(), x)
    three = policy.trunk[0].weight.detach()
    assert (three != two).tolist() == [[False, False, True], [False] * 3]
    assert torch.equal(policy(x, 0, raw=False), said)  # the momentum of its weights too
    assert net.row()["mask_overlap"] == pytest.approx(2 / 3)
    assert net.row()["free"] == pytest.approx(2 / 6) and net.numbers == 2 * 1 / 4


def test_tasks_never_drift_however_long_others_train(monkeypatch):
    monkeypatch.setattr(exssnet, "KEEP", 0.3)
    learner = learner_of(**FRESH)
    require_no_drift(learner, batch(9).obs)
    heads = 3 * (6 + 1 + 2 * 2)
    assert learner.bytes == 4 * heads + 3 * (2 + 6)  # 16 and 48 weights, a bit each


def test_neighbours_tell_actions_by_hand():
    """Six rows of nine are asked, by two each; held out are 3 rows of mean 2."""
    features = torch.tensor([[0.0], [1], [10], [11], [20], [21], [0.4], [10.4], [20.4]])
    action = torch.tensor([[0.0], [2], [1], [3], [2], [4], [0], [2], [4]])
    # told 1, 2, 3: squared errors 1, 0, 1 of 4 + 0 + 4
    assert neighbours_r2(features, action, k=2) == pytest.approx(1 - 2 / 8)
    assert neighbours_r2(features, action.flip(0), k=2) < 0


@pytest.mark.parametrize("useful", [True, False])
def test_a_task_begins_with_the_mask_whose_features_tell_its_actions(useful, monkeypatch):
    """Task 1's mask sees the observation that the actions follow, task 0's another."""
    monkeypatch.setattr(exssnet, "KEEP", 0.5)
    policy = ContinualPolicy(2, 1, (2,), 3, kind="exssnet")
    net = ExSSNeT(policy)
    with torch.no_grad():
        policy.trunk[0].weight.fill_(1.0)
    for task, scores in enumerate([[2.0, 0, 1, 0], [0, 2, 0, 1]]):
        net.begin(task)
        net.scores.data.copy_(torch.tensor(scores))
        net._choose()
        net.end(torch.zeros(1, 2))
    net.begin(2)
    drawn = net.scores.detach().clone()
    obs = torch.rand(600, 2, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(600, 1, generator=torch.Generator().manual_seed(1))
    net.meet(obs, obs[:, 1:] if useful else noise)
    source, r2 = net.source
    if not useful:
        assert (source, r2) == (-1, 0) and torch.equal(net.scores.detach(), drawn)
        return
    assert source == 1 and r2 > 0.8 and net.row()["transfer_r2"] == r2
    assert torch.equal(policy.masks.kept(2)[0], policy.masks.kept(1)[0])
    # the same sizes on other places, each place with its sign
    assert torch.equal(net.scores.detach().abs().sort()[0], drawn.abs().sort()[0])
    assert torch.equal(net.scores.detach().sign(), drawn.sign())


def test_what_begins_from_pi_is_refused():
    with pytest.raises(ValueError, match="no mask yet"):
        learner_of(penalty="exssnet")
