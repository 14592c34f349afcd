"""The conflict of tasks: cosines worked out by hand."""

import pytest
import torch

from reverie.agents import TD3Config
from reverie.agents.networks import Critic, DeterministicActor
from reverie.agents.oer.conflict import Conflict, trunk_gradient
from reverie.agents.oer.learner import OER, OERConfig


def linear_critic(k):
    """Q = k a, of one observation and one action."""
    critic = Critic(1, 1, (), 1)
    with torch.no_grad():
        critic.head.weight.copy_(torch.tensor([[[0.0, k]]]))
        critic.head.bias.zero_()
    return critic


def one_unit(weight=1.0, bias=1.0, out=0.5):
    """a = tanh(out relu(weight s + bias))."""
    actor = DeterministicActor(1, 1, (1,))
    first, _, last = actor.net
    with torch.no_grad():
        for p, value in ((first.weight, weight), (first.bias, bias), (last.weight, out)):
            p.fill_(value)
        last.bias.zero_()
    return actor


def test_a_gradient_by_hand():
    """d(-k tanh(v h)) / d(w, b) = -k (1 - tanh^2(v h)) v (s, 1), the mean over s = 1 and s = -2.

    At s = -2 the unit is off: half of the gradient at s = 1, where h = 2.
    """
    got = trunk_gradient(linear_critic(3.0), one_unit(), torch.tensor([[1.0], [-2.0]]))
    slope = -3.0 * (1 - torch.tanh(torch.tensor(1.0)) ** 2) * 0.5 / 2
    torch.testing.assert_close(got, slope * torch.tensor([1.0, 1.0]))


def test_the_matrix_by_hand():
    """Task 0 wants more at s = 1, task 1 less at s = 0: along (1, 1) and against (0, 1).

    Their cosine is -1 / sqrt 2 at the first policy. At the second, whose first layer is -s + 2, all
    slopes are others, and the directions are the same; a third task is as the first, but stronger.
    """
    c = Conflict()
    for k, s, actor in ((1.0, 1.0, one_unit()), (-2.0, 0.0, one_unit(-1.0, 2.0)),
                        (5.0, 1.0, one_unit(0.5, 0.5))):  # fmt: skip
        c.critics.append(linear_critic(k))
        c.actors.append(actor)
        c.states.append(torch.tensor([[s]]))
    x = -(0.5**0.5)
    want = torch.tensor([[1, x, 1], [x, 1, x], [1, x, 1]])
    torch.testing.assert_close(c.matrix(), want)
    row = c.row()
    assert row["conflict"] == pytest.approx((4 * x + 2) / 6)
    assert row["conflict_least"] == pytest.approx(x) and row["conflict_1_2"] == pytest.approx(x)
    assert len(row) == 9 + 2


def test_at_each_policy_the_reference_is_its_own_task():
    """Task 1's states are two, s = 1 and s = -2; the second is seen by the second policy alone."""
    c = Conflict()
    c.critics = [linear_critic(1.0), linear_critic(1.0)]
    c.actors = [one_unit(), one_unit(0.0, 1.0)]
    c.states = [torch.tensor([[1.0]]), torch.tensor([[1.0], [-2.0]])]
    # at mu_0 both go along (1, 1); at mu_1, everywhere h = 1: (1, 1) and ((1 - 2) / 2, 1)
    got = c.matrix()
    assert got[1, 0] == pytest.approx(1.0) and got[0, 0] == pytest.approx(1.0)
    assert got[0, 1] == pytest.approx(0.5 / (2**0.5 * 1.25**0.5), rel=1e-5)


@pytest.mark.parametrize("dbc", [True, False])
def test_what_is_kept_of_a_task(dbc):
    """mu with its head, the critic as it is, and states in the task's z-scores."""
    mean, std = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])
    learner = OER(2, 1, 2, OERConfig(td3=TD3Config(hidden=(8, 8)), dbc=dbc), seed=0)
    learner.begin(0, torch.zeros(2), torch.ones(2))
    learner.begin(1, mean, std)
    c, obs = Conflict(), torch.tensor([[3.0, 10.0], [5.0, -2.0]])
    c.add(learner, obs)
    z = torch.tensor([[1.0, 2.0], [2.0, -1.0]])
    assert torch.equal(c.states[0], z) and torch.equal(c.actors[0](z), learner.inner.actor(z))
    assert torch.equal(c.critics[0](z, obs[:, :1]), learner.inner.critic(z, obs[:, :1]))
    with torch.no_grad():
        next(learner.inner.critic.parameters()).add_(1.0)
    assert not torch.equal(c.critics[0](z, obs[:, :1]), learner.inner.critic(z, obs[:, :1]))
