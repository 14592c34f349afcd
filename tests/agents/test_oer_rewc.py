"""R-EWC: without rotation it is EWC; with it, what no state can see costs nothing."""

import pytest
import torch
from rivalled import batch, learner_of, task_of

from reverie.agents.networks import DeterministicActor
from reverie.agents.oer import rewc
from reverie.agents.oer.fisher import affine, fisher_of, sides
from reverie.agents.oer.merging import flat_of
from reverie.agents.oer.rewc import Anchor, rotations


def test_a_cost_in_rotated_coordinates_by_hand():
    """A quarter turn of the inputs: what W changes at its first input is 4, at its second 1."""
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])  # U1; (W - W*) U1 = (dw_2, -dw_1)
    anchor = Anchor(torch.eye(1), turn, torch.tensor([[1.0, 4.0]]), torch.tensor([[5.0, 6.0]]))
    assert float(anchor.cost(torch.tensor([[6.0, 8.0]]))) == 4 * 1**2 + 1 * 2**2


def test_rotations_make_the_second_moments_diagonal():
    given, grads = torch.randn(40, 3) @ torch.randn(3, 3), torch.randn(2, 40, 4)
    left, right = rotations(given, grads)
    for turn, x in ((right, given), (left, grads.flatten(0, 1))):
        torch.testing.assert_close(turn.T @ turn, torch.eye(len(turn)), atol=1e-5, rtol=0)
        inside = (x @ turn).T @ (x @ turn) / len(given)
        off = inside - inside.diag().diag()
        assert float(off.abs().max()) < 1e-4 * float(inside.max())


@pytest.mark.parametrize("rotated", [False, True])
def test_without_rotation_it_is_ewc(rotated, monkeypatch):
    """weight / 2 sum F (theta - theta*)^2 of two old tasks, and pi's gradient has it."""
    if not rotated:
        eyes = lambda x, g: (torch.eye(g.shape[2]), torch.eye(x.shape[1]))  # noqa: E731
        monkeypatch.setattr(rewc, "rotations", eyes)
    learner, want, turned = learner_of(penalty="r-ewc", penalty_weight=3.0), [], []
    for task in range(2):
        task_of(learner, task)
        actor = DeterministicActor(2, 1, (8, 6))
        learner.policy.give(task, actor)
        z = (batch(task).obs - learner.policy.mean[task]) / learner.policy.std[task]
        want.append((fisher_of(actor, z), flat_of(learner.policy.trunk)))
        for i, (x, g) in enumerate(sides(actor, z)):
            left, right = rewc.rotations(x, g)
            fisher = sum((a @ left).square().T @ (x @ right).square() for a in g) / len(x)
            turned.append((i, left, right, fisher, affine(learner.policy.trunk)[i].detach()))
    assert learner.rival.penalty() > 0  # of the first task: the second has moved pi
    learner.begin(2, learner.policy.mean[0], learner.policy.std[0])
    with torch.no_grad():
        for p in learner.policy.trunk.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    now = flat_of(learner.policy.trunk)
    ewc = sum(1.5 * (f * (now - at).square()).sum() for f, at in want)
    got = learner.rival.penalty()
    assert torch.isclose(got, ewc, rtol=1e-4) != rotated
    layers = affine(learner.policy.trunk)
    costs = [(f * (u2.T @ (layers[i] - at) @ u1).square()).sum() for i, u2, u1, f, at in turned]
    torch.testing.assert_close(got, 1.5 * sum(costs))
    z = learner.scaled(batch(2)).obs
    target = learner.inner.actor(z).detach()
    loss = (learner.policy(z, 2, raw=False) - target).square().mean() + got
    grads = torch.autograd.grad(loss, list(learner.policy.trunk.parameters()))
    learner.clone(z, target)
    for p, g in zip(learner.policy.trunk.parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-3, atol=1e-5)
    # rotations, Fisher and weights of layers 2 -> 8 and 8 -> 6, of two tasks
    layer = (8 * 8 + 3 * 3 + 2 * 8 * 3) + (6 * 6 + 9 * 9 + 2 * 6 * 9)
    assert learner.rival.numbers == 2 * layer


def test_what_no_state_of_the_task_sees_costs_nothing():
    """All states on one line: EWC's diagonal holds the weights across it, the rotated does not."""
    actor = DeterministicActor(2, 1, (4,))
    line = torch.randn(50, 1, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0, 2]])
    ((given, grads),) = sides(actor, line)
    left, right = rotations(given, grads)
    (at,) = affine([actor.net[0]])
    fisher = rewc.squared(given @ right, grads @ left)
    across = at.detach() + torch.tensor([[2.0, -1.0, 0.0]])  # (2, -1) is at right angles to (1, 2)
    along = at.detach() + torch.tensor([[1.0, 2.0, 0.0]])
    turned = Anchor(left, right, fisher, at.detach())
    plain = Anchor(torch.eye(4), torch.eye(3), rewc.squared(given, grads), at.detach())
    assert float(turned.cost(across)) < 1e-6 * float(turned.cost(along))
    assert float(plain.cost(across)) > 0.1 * float(plain.cost(along))
