"""What learns a task of OER: IQL in TD3's place."""

import copy

import pytest
import torch

from reverie.agents import TD3Config
from reverie.agents.networks import DeterministicActor
from reverie.agents.oer.inner import by_iql
from reverie.agents.oer.learner import OER, OERConfig
from reverie.agents.oer.memory import Kept
from reverie.agents.offline.iql import IQL, IQLConfig
from reverie.buffers import Transitions

MEAN, STD = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])
OBS, NEXT = torch.tensor([[3.0, 10.0], [5.0, -2.0]]), torch.tensor([[5.0, -2.0], [1.0, 6.0]])
Z, NEXT_Z = torch.tensor([[1.0, 2.0], [2.0, -1.0]]), torch.tensor([[2.0, -1.0], [0.0, 1.0]])
BATCH = Transitions(
    OBS, torch.tensor([[0.5], [-0.5]]), torch.tensor([1.0, 2.0]), NEXT,
    torch.tensor([0.0, 1.0]), torch.zeros(2),
)  # fmt: skip
SETTINGS = IQLConfig(hidden=(8, 8), gamma=0.5)


def learner_in(task, **settings):
    """A learner by IQL in `task`, after two updates in each task before."""
    config = OERConfig(td3=TD3Config(hidden=(8, 8)), **settings)
    learner = OER(2, 1, 3, config, seed=0, learns=by_iql(2, 1, SETTINGS))
    for t in range(task + 1):
        learner.begin(t, MEAN, STD)
        if t < task:
            learner.update(BATCH)
            learner.update(BATCH)
            learner.settle()
    return learner


def test_mu_learns_by_iql_on_z_scores_and_pi_follows_at_every_second_step():
    learner = learner_in(1, mu_init="previous")
    alone = learner_in(1, mu_init="previous").inner
    assert isinstance(learner.inner, IQL)
    scaled = BATCH._replace(obs=Z, next_obs=NEXT_Z)
    one, two = learner.update(BATCH), learner.update(BATCH)
    assert "clone_loss" not in one and "clone_loss" in two
    for metrics in (one, two):
        for name, value in alone.update(scaled).items():
            assert torch.equal(metrics[name], value), name
    assert torch.equal(learner.mu(OBS), alone.actor(Z).detach())


def test_mu_of_the_next_task_goes_on_with_the_actor_and_other_critics():
    learner = learner_in(0)
    learner.update(BATCH)
    before = copy.deepcopy(learner.inner)
    for start, same in (("previous", True), ("fresh", False)):
        other = copy.deepcopy(learner)
        other.config = OERConfig(td3=TD3Config(hidden=(8, 8)), mu_init=start)
        other.begin(1, MEAN, STD)
        assert torch.equal(other.inner.actor(Z), before.actor(Z)) == same
        assert not torch.equal(other.inner.critic(Z, BATCH.action), before.critic(Z, BATCH.action))


def test_the_td_error_takes_iqls_own_value():
    learner = learner_in(1)
    inner = learner.inner
    q = inner.critic(Z, BATCH.action)[0].detach()
    value = inner.value(NEXT_Z).detach()
    # the second row ends its episode: its target is the reward, 2
    want = torch.stack([(1 + 0.5 * value[0] - q[0]).abs(), (2 - q[1]).abs()])
    torch.testing.assert_close(learner.td_error(BATCH), want)


def test_one_policy_by_iql_has_the_replay_in_its_loss():
    """Half of alpha (pi - u)^2 for each of two old tasks, whose labels are 0.9 and -0.7."""
    learner = learner_in(2, dbc=False, alpha=3.0)
    for t, label in ((0, 0.9), (1, -0.7)):
        learner.remember(Kept(OBS[:1], torch.tensor([[label]]), t))
    before = copy.deepcopy(learner.policy)
    inner = learner.inner
    with torch.no_grad():
        best = inner.target_critic(Z, BATCH.action).min(0).values
        weight = (3.0 * (best - inner.value(Z))).exp().clamp(max=100)
    metrics = learner.update(BATCH)
    own = (weight * (before(Z, 2, raw=False) - BATCH.action).square().sum(-1)).mean()
    kept = [(before(OBS[:1], t) - x).square().mean() for t, x in ((0, 0.9), (1, -0.7))]
    loss = own + 3.0 * (kept[0] + kept[1]) / 2
    torch.testing.assert_close(metrics["actor_loss"], loss.detach())
    grads = torch.autograd.grad(loss, list(before.parameters()))
    for p, want in zip(learner.policy.parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, want)


def test_the_step_of_iqls_actor_can_be_another():
    actor, steps = DeterministicActor(2, 1, (8, 8)), []
    iql = IQL(2, 1, SETTINGS, actor=actor)
    assert iql.actor is actor
    before = copy.deepcopy(actor.state_dict())
    iql.actor_step = lambda optimizer, loss: steps.append((optimizer, loss))
    iql.update(BATCH)
    assert len(steps) == 1 and steps[0][0] is iql.optimizers["actor"]
    assert all(torch.equal(before[k], v) for k, v in actor.state_dict().items())
    with pytest.raises(ValueError, match="actors of its own"):
        IQL(2, 1, SETTINGS, seed=(0, 1), actor=actor)
