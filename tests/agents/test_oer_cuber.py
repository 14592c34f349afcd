"""CUBER: directions of old inputs, whom a new task helps, and steps that are taken back."""

import copy

import pytest
import torch
from rivalled import batch, learner_of, task_of

from reverie.agents.networks import step
from reverie.agents.oer import cuber
from reverie.agents.oer.cuber import CUBER, Space
from reverie.agents.oer.policy import ContinualPolicy
from reverie.agents.training import trained


def test_directions_of_inputs_by_hand():
    """Energies 9, 4 and 1 of 14; then 16 in a new direction, 4 and 1 in old ones, twice."""
    space = Space(4)
    space.add(torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0])), 0.9)  # 13 of 14 are .93
    assert space.bases.abs().T.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]
    assert space.tasks[0].tolist() == [0, 1]
    space.add(torch.diag(torch.tensor([1.0, 2.0, 0.0, 4.0])), 0.99)  # all of 21
    assert space.bases.abs().T.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    assert space.tasks[1].tolist() == [0, 1, 2]
    space.add(torch.diag(torch.tensor([1.0, 2.0, 0.0, 4.0])), 0.9)  # 20 of 21
    assert space.tasks[2].tolist() == [1, 2] and space.bases.shape == (4, 3)
    assert space.of(2).abs().T.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    # what only tasks 1 and 2 need is the third; what task 2 does not, the first
    assert space.without([1, 2]).abs().T.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]
    assert space.without([0, 1]).abs().T.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    assert space.without([0]).shape == (4, 3) and space.without([0, 1, 2]).shape == (4, 0)
    exact = Space(2)
    exact.add(torch.eye(2), 1.0)
    assert exact.bases.shape == (2, 2)


def test_directions_stay_at_right_angles_when_all_energy_is_asked_for():
    """From the eleventh task on (1.003 of it): none is left of inputs in known directions."""
    space, draws = Space(9), torch.Generator().manual_seed(0)
    for _ in range(5):
        space.add(torch.randn(200, 9, generator=draws), 1.003)
    assert space.bases.shape == (9, 9)
    assert torch.allclose(space.bases.T @ space.bases, torch.eye(9), atol=1e-5)


def made(monkeypatch, tasks=2):
    """A layer of one input and a bias, in front of a unit; old task 0 has seen (1, 1) only."""
    policy = ContinualPolicy(1, 1, (1,), tasks, kind="cuber")
    with torch.no_grad():
        policy.trunk[0].weight.fill_(1.0)
        policy.trunk[0].bias.fill_(1.0)
    return CUBER(policy, 5.0), policy


def test_whom_a_first_gradient_helps(monkeypatch):
    net, _ = made(monkeypatch, 4)
    net.task, net.spaces[0].bases = 3, torch.eye(2)
    net.spaces[0].tasks = [torch.tensor([0]), torch.tensor([1]), torch.tensor([0, 1])]
    net.gradients = [[torch.tensor([[1.0, 0.0]])], [torch.tensor([[0.0, 1.0]])]]
    net.gradients.append([torch.tensor([[-1.0, 0.0]])])
    # g = (4, 1): in task 0's directions 4, in task 1's 1 (less than half of |g|), in task 2's all
    assert net.choose([torch.tensor([[4.0, 1.0]])]) == [[0]]  # task 2's own gradient is against it
    assert net.choose([torch.tensor([[-4.0, -1.0]])]) == [[2]]
    assert net.choose([torch.tensor([[4.0, 4.0]])]) == [[0]]  # 2, then 0 or 1, of which one is left
    monkeypatch.setattr(cuber, "MOST", 3)
    assert net.choose([torch.tensor([[4.0, 1.0]])]) == [[0]]  # task 1 overlaps too little
    assert sorted(net.choose([torch.tensor([[4.0, 4.0]])])[0]) == [0, 1]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_step_in_old_directions_is_taken_back_but_where_it_helps(sign, monkeypatch):
    """Both gradients are of the unit's output: alike, or against each other."""
    net, policy = made(monkeypatch)
    _, optimizer = trained(policy, 0.1)
    x = torch.ones(4, 1)
    net.begin(0)
    net.step(optimizer, policy.features(x).sum(), x)
    net.end(x)
    before, output = net._layers()[0], float(policy.features(x)[0].detach())
    net.begin(1)
    net.step(optimizer, sign * policy.features(x).sum(), x)
    assert net.helped == [[0] if sign > 0 else []]
    change = net._layers()[0] - before
    if sign < 0:  # all of the change was in the direction (1, 1)
        torch.testing.assert_close(change, torch.zeros(1, 2), atol=1e-6, rtol=0)
        assert net.row() == {"directions": 0.5, "helped": 0}
        return
    torch.testing.assert_close(change, torch.full((1, 2), -0.1), atol=0.02, rtol=0)
    assert net.row() == {"directions": 0.5, "helped": 1}
    # from here on the move itself costs: 5 |(W - W_begin) (1, 1) / sqrt 2|, its gradient 5 / sqrt 2
    seen = []
    monkeypatch.setattr(cuber, "step_within", lambda o, loss, m: seen.append(float(loss.detach())))
    net.step(optimizer, policy.features(x).sum(), x)
    moved = float(change.sum().abs()) / 2**0.5
    now = 4 * float(policy.features(x)[0].detach())
    assert seen == [pytest.approx(now + 5 * moved, rel=1e-4)]
    assert float(policy.features(x)[0].detach()) < output
    # a later gradient that no longer agrees: that step is taken back
    monkeypatch.setattr(cuber, "step_within", lambda o, loss, m: step(o, loss))
    before = net._layers()[0]
    net.step(optimizer, -policy.features(x).sum(), x)
    torch.testing.assert_close(net._layers()[0], before, atol=1e-6, rtol=0)


def test_old_outputs_stay_where_all_of_their_inputs_are_known(monkeypatch):
    """Energy 1 and nobody helped: 60 steps of Adam with its momentum do not move old tasks."""
    monkeypatch.setattr(cuber, "ENERGY", 1.0)
    monkeypatch.setattr(cuber, "MORE", 0.0)
    monkeypatch.setattr(cuber, "OVERLAP", 2.0)
    learner = learner_of(penalty="cuber")
    task_of(learner, 0, steps=30)
    few = batch(0)._replace(obs=batch(0).obs[:2])  # two states: two directions of three
    learner.rival.spaces = [Space(len(s.bases)) for s in learner.rival.spaces]
    learner.rival.gradients = []
    learner.anchor(few.obs)
    said, seen = learner.policy(few.obs, 0).detach(), learner.policy(batch(9).obs, 0).detach()
    task_of(learner, 1, steps=60)
    drift = float((learner.policy(few.obs, 0) - said).detach().abs().max())
    others = float((learner.policy(batch(9).obs, 0) - seen).detach().abs().max())
    assert drift < 2e-6 and others > 1e-3
    spaces, last = learner.rival.spaces, learner.rival.last
    count = sum(s.bases.numel() + sum(len(t) for t in s.tasks) / 4 for s in spaces)
    assert (
        learner.rival.numbers
        == count + 2 * sum(g.numel() for g in last)
        == pytest.approx(count + 2 * (8 * 3 + 6 * 9))
    )


def test_the_last_gradient_of_a_task_is_that_of_its_loss():
    learner = learner_of(penalty="cuber")
    learner.begin(0, *batch(0).obs.std(0).expand(2, -1))
    z = learner.scaled(batch(0)).obs
    learner.update(batch(0))
    before = copy.deepcopy(learner.policy)
    target = learner.inner.actor(z).detach()
    learner.clone(z, target)
    loss = (before(z, 0, raw=False) - target).square().mean()
    w, b = torch.autograd.grad(loss, [before.trunk[0].weight, before.trunk[0].bias])
    torch.testing.assert_close(learner.rival.last[0], torch.cat([w, b[:, None]], 1))
    learner.anchor(batch(0).obs)
    assert torch.equal(learner.rival.gradients[0][0], learner.rival.last[0])
