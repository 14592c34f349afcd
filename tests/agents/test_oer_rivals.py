"""Rivals of a replay: PackNet, LwF and merged experts, as pi's way not to forget."""

import copy
from typing import get_args

import pytest
import torch
from rivalled import MEAN, STD, batch, learner_of, require_no_drift, task_of

from reverie.agents.oer import exssnet
from reverie.agents.oer.lwf import LwF
from reverie.agents.oer.packnet import PackNet
from reverie.agents.oer.policy import FREE, ContinualPolicy
from reverie.agents.oer.rivals import RIVALS, Penalty
from reverie.agents.training import trained
from reverie.experiments.runs.codec import decode, encode


def test_a_packed_task_never_drifts_however_long_others_train():
    require_no_drift(learner_of(penalty="packnet"), batch(9).obs)


def test_shares_of_the_weights_by_hand():
    """Six weights, three tasks: 2 of 6, then 2 of 4, then the last 2; the largest in size first."""
    policy = ContinualPolicy(3, 1, (2,), 3, kind="packnet")
    net, (layer,) = PackNet(policy), policy.trunk
    net.begin(0)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.1, -0.6, 0.2], [0.5, 0.3, -0.4]]))
    net.end(None)
    owner = policy.owner0
    assert owner.tolist() == [[FREE, 0, FREE], [0, FREE, FREE]]
    torch.testing.assert_close(layer.weight, torch.tensor([[0, -0.6, 0], [0.5, 0, 0]]))
    net.begin(1)
    with torch.no_grad():
        layer.weight[owner == 1] = torch.tensor([1.0, -2.0, 3.0, 0.5])
    net.end(None)
    assert owner.tolist() == [[FREE, 0, 1], [0, 1, FREE]]
    net.begin(2)
    net.end(None)
    assert owner.tolist() == [[2, 0, 1], [0, 1, 2]] and net.numbers == 6 / 4


def test_a_task_plays_with_its_own_weights_and_those_before():
    policy = ContinualPolicy(3, 1, (2,), 3, kind="packnet")
    net, (layer,) = PackNet(policy), policy.trunk
    policy.owner0.copy_(torch.tensor([[2, 0, 1], [0, 1, 2]]))
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1.0, 7.0).view(2, 3))
        layer.bias.zero_()
    x = torch.ones(1, 3)
    assert policy.features(x, 0).tolist() == [[2, 4]]
    assert policy.features(x, 1).tolist() == [[5, 9]]
    assert policy.features(x, 2).tolist() == [[6, 15]]
    net.begin(1)  # what it may move: its weights and its head; biases are the first task's
    names = dict(policy.named_parameters())
    parts = dict(zip(names, net.mine.split([p.numel() for p in names.values()]), strict=True))
    assert parts["trunk.0.weight"].tolist() == [False, False, True, False, True, False]
    assert not parts["trunk.0.bias"].any()
    assert parts["head_weight"].tolist() == [False, False, True, True, False, False]
    net.begin(0)
    parts = dict(zip(names, net.mine.split([p.numel() for p in names.values()]), strict=True))
    assert parts["trunk.0.bias"].all()


def test_the_old_heads_say_what_they_said_on_the_new_tasks_states():
    """Loss and weight times the mean of two gaps, each in its own task's z-scores."""
    learner = learner_of(penalty="lwf", penalty_weight=3.0)
    for task in range(2):
        task_of(learner, task)
    learner.begin(2, MEAN, STD)
    assert isinstance(learner.rival, LwF)
    old, raw = copy.deepcopy(learner.policy), batch(2).obs
    learner.update(batch(2))  # pi has moved from what it was
    now = copy.deepcopy(learner.policy)
    z = (raw - MEAN) / STD
    target = learner.inner.actor(z).detach()
    gaps = [(now(raw, i) - old(raw, i).detach()).square().mean() for i in range(2)]
    assert min(gaps) > 0
    loss = (now(z, 2, raw=False) - target).square().mean() + 3.0 * (gaps[0] + gaps[1]) / 2
    learner.clone(z, target)
    grads = torch.autograd.grad(loss, list(now.parameters()))
    for p, want in zip(learner.policy.parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, want)
    assert learner.rival.numbers == 0


@pytest.mark.parametrize("how", ["average", "fisher", "ties"])
def test_merged_mus_start_from_the_first_and_pi_is_their_merger(how):
    learner = learner_of(mu_init="first", merge=how)
    task_of(learner, 0)
    first = copy.deepcopy(learner.inner.actor.state_dict())
    for task in (1, 2):
        learner.begin(task, MEAN + task, STD)
        assert all(torch.equal(v, first[k]) for k, v in learner.inner.actor.state_dict().items())
        metrics = learner.update(batch(task))
        assert "clone_loss" not in metrics
        learner.anchor(batch(task).obs)
    experts = torch.stack(learner.merging.experts)
    got = torch.cat([p.detach().flatten() for p in learner.policy.trunk.parameters()])
    assert len(experts) == 3 and not torch.equal(experts[1], experts[2])
    if how == "average":
        torch.testing.assert_close(got, experts.mean(0))
    assert torch.equal(learner.policy.head_weight[2], learner.inner.actor.net[-1].weight)
    trunk = 2 * 8 + 8 + 8 * 6 + 6
    assert learner.bytes == 4 * (3 * (6 + 1 + 2 * 2) + (6 if how == "fisher" else 3) * trunk)


@pytest.mark.parametrize(
    "settings",
    [
        {"penalty": "packnet"},
        {"penalty": "lwf"},
        {"penalty": "exssnet", "mu_init": "previous"},
        {"penalty": "r-ewc"},
        {"penalty": "cuber"},
        {"penalty": "r-walk"},
        {"mu_init": "first", "merge": "fisher"},
        {"mu_init": "first", "merge": "fisher", "merge_when": "running"},
    ],
    ids=str,
)
@pytest.mark.parametrize("inside", [True, False])
def test_a_saved_rival_continues_bit_for_bit(settings, inside, monkeypatch):
    """Stopped inside the second task, or after its end; then a third."""

    def run(stop):
        learner = learner_of(**settings)
        for task in range(3):
            learner.begin(task, MEAN + task, STD)
            for k in range(4):
                learner.update(batch(task))
                if stop and task == 1 and inside and k == 1:
                    learner = restored(learner)
            learner.settle()
            learner.anchor(batch(task).obs)
            if stop and task == 1 and not inside:
                learner = restored(learner)
            z = learner.scaled(batch(task)).obs
            if learner.merging is None:
                learner.clone(z, learner.inner.actor(z).detach())
        return learner

    def restored(learner):
        state = decode(*encode(learner.state_dict()))  # as from a checkpoint
        other = learner_of(**settings)
        other.load_state_dict(state)
        return other

    monkeypatch.setattr(exssnet, "KEEP", 0.5)
    (whole, tree), (cut, again) = (encode(run(stop).state_dict()) for stop in (False, True))
    assert tree == again and all(torch.equal(value, cut[name]) for name, value in whole.items())


def test_momentum_does_not_move_what_is_frozen():
    """A head of the first task that had speed stands still in the second."""
    policy = ContinualPolicy(2, 1, (4,), 2, kind="packnet")
    _, optimizer = trained(policy, 0.1, torch.Generator().manual_seed(0))
    net, x = PackNet(policy), torch.ones(3, 2)
    net.begin(0)
    for _ in range(3):
        net.step(optimizer, policy(x, 0, raw=False).sum(), x)
    net.end(None)
    before = policy.head_weight[0].clone()
    net.begin(1)
    net.step(optimizer, policy(x, 1, raw=False).sum(), x)
    assert torch.equal(policy.head_weight[0], before)


def test_every_rival_can_be_asked_for():
    assert set(get_args(Penalty)) == {"none", "ewc", "si", "agem", "gem", *RIVALS}
