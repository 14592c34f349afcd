"""R-Walk on one weight and one bias, by hand."""

import pytest
import torch

from reverie.agents.oer import rwalk
from reverie.agents.oer.policy import ContinualPolicy
from reverie.agents.oer.rwalk import RWalk


def walk(monkeypatch, net, policy, slopes):
    """Take steps of 1 / 10 down losses slope x (weight + 2 bias)."""
    flat = torch.nn.Parameter(torch.empty(0))
    optimizer = torch.optim.SGD([flat], lr=0.1)

    def down(optimizer, loss, mine):
        grads = torch.autograd.grad(loss, list(policy.trunk.parameters()))
        with torch.no_grad():
            for p, g in zip(policy.trunk.parameters(), grads, strict=True):
                p -= 0.1 * g

    monkeypatch.setattr(rwalk, "step_within", down)
    for slope in slopes:
        loss = slope * (policy.trunk[0].weight.sum() + 2 * policy.trunk[0].bias.sum())
        net.step(optimizer, loss, torch.zeros(1, 1))


def test_scores_fisher_and_penalty_by_hand(monkeypatch):
    """Two steps a stretch. Gradients (1, 2), (2, 4): F = .9 (4, 16) + .1 (1, 4) = (3.7, 14.8).

    The loss fell by .1 (1 + 4) and .1 (4 + 16): .5 and 2. Moves -.3, -.6: 1/2 F move^2 = .1665,
    2.664; scores 3.003 and .751.
    """
    monkeypatch.setattr(rwalk, "EVERY", 2)
    policy = ContinualPolicy(1, 1, (1,), 3, kind="r-walk")
    net = RWalk(policy, 3.0)
    net.begin(0)
    walk(monkeypatch, net, policy, [1.0, 2.0])
    torch.testing.assert_close(net.fisher, torch.tensor([3.7, 14.8]))
    scores = torch.tensor([0.5 / 0.1665, 2.0 / 2.664])
    torch.testing.assert_close(net.walked, scores, rtol=1e-4, atol=0)
    net.end(torch.zeros(1, 1))
    cost = torch.tensor([3.7 / 14.8 + 1, 1 + float(scores[1] / scores[0])])
    torch.testing.assert_close(net.cost, cost, rtol=1e-4, atol=0)
    assert net.penalty() == 0 and net.numbers == 4 * 2
    with torch.no_grad():
        policy.trunk[0].weight += 2.0
        policy.trunk[0].bias -= 1.0
    net.begin(1)
    assert net.from_here.tolist() == [float(p.detach()) for p in policy.trunk.parameters()]
    moved = 3 * float(cost[0] * 4 + cost[1])
    assert float(net.penalty().detach()) == pytest.approx(moved, rel=1e-4)
    # one stretch in which the loss, of gradients (-1, -2), rises by the penalty's pull
    before = net.score.clone()
    walk(monkeypatch, net, policy, [-1.0, -1.0])
    assert net.fisher[0] < 3.7 and net.walked[0] < 0  # pulled back: the loss rose by the weight
    walked = net.walked = torch.tensor([-50.0, 4.0])
    net.end(torch.zeros(1, 1))
    torch.testing.assert_close(net.score, (before + walked) / 2)
    # the first has a score below 0: its Fisher alone counts
    torch.testing.assert_close(net.cost, net.fisher / net.fisher.max() + torch.tensor([0.0, 1.0]))
