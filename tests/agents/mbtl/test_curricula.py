"""Curricula over contexts: whom they play next, worked out by hand."""

import numpy as np
import pytest
import torch

from reverie.agents import SAC, RandomPolicy, SACConfig
from reverie.agents.mbtl.curricula import Learnable, Replayed, Uniform, td_errors
from reverie.agents.mbtl.library import Library
from reverie.buffers import Transitions
from reverie.envs import Contexts, make
from reverie.experiments.loops.chosen import Chosen


def share(rule, of, draws=4000):
    return np.bincount([rule.next() for _ in range(draws)], minlength=of) / draws


def test_plr_by_hand():
    """Scores 1, 5, 3 of contexts 0, 2, 3, told in this order; beta 1 makes weights 1/rank."""
    rule = Replayed(4, seed=0, beta=1.0, rho=0.25)
    for context, score in ((0, 1.0), (2, 5.0), (3, 3.0)):
        rule.told(context, score)
    by_score = np.array([1 / 3, 0, 1, 1 / 2]) / (11 / 6)
    by_age = np.array([2, 0, 1, 0]) / 3
    assert rule.probabilities().tolist() == pytest.approx(0.75 * by_score + 0.25 * by_age)
    want = 0.5 * rule.probabilities().numpy() + 0.5 * np.array([0, 1, 0, 0])  # 1 is unseen
    assert share(rule, 4) == pytest.approx(want, abs=0.03)
    rule.told(1, 9.0)
    assert rule.probabilities().argmax() == 1 and rule.count == 4
    assert float(rule.probabilities().sum()) == pytest.approx(1)


def test_sfl_by_hand():
    """p (1 - p) of rates 0, .5, .9, 1, .4: contexts 1 and 4 are chosen."""
    rule = Learnable(5, seed=0, top=2)
    assert share(rule, 5) == pytest.approx([0.2] * 5, abs=0.03)
    rule.look(torch.tensor([0, 0.5, 0.9, 1, 0.4]))
    assert rule.chosen.tolist() == [1, 4]
    assert share(rule, 5) == pytest.approx([0.1, 0.35, 0.1, 0.1, 0.35], abs=0.03)


@pytest.mark.parametrize(
    "build", [lambda: Uniform(4, 1), lambda: Replayed(4, 1), lambda: Learnable(4, 1, 2)]
)
def test_a_rule_goes_on_from_its_state(build):
    rule, other = build(), build()
    for i in range(9):
        rule.told(rule.next(), float(i))
    if isinstance(rule, Learnable):
        rule.look(torch.tensor([0.1, 0.5, 0.5, 0.2]))
    other.load_state_dict(rule.state_dict())
    assert [rule.next() for _ in range(20)] == [other.next() for _ in range(20)]


def test_td_errors_by_hand():
    agent = SAC(2, 1, SACConfig(hidden=(4,), gamma=0.5, alpha=0.1), seed=0)
    obs, action, next_obs = torch.ones(3, 2), torch.zeros(3, 1), torch.full((3, 2), 0.5)
    ends = torch.tensor([0.0, 1.0, 0.0])
    batch = Transitions(obs, action, torch.tensor([1.0, 1.0, 2.0]), next_obs, ends, 1 - ends)
    with torch.no_grad():
        after, log_prob = agent.actor.sample(next_obs, torch.zeros(3, 1))
        value = agent.target(next_obs, after).min(0).values - 0.1 * log_prob
        q = agent.critic(obs, action).mean(0)
    want = [abs(1 + 0.5 * value[0] - q[0]), abs(1 - q[1]), abs(2 + 0.5 * value[2] - q[2])]
    assert td_errors(agent, batch).tolist() == pytest.approx([float(x) for x in want], abs=1e-5)


class Listed:
    """Plays a list of contexts, and keeps what it is told."""

    def __init__(self, order):
        self.order, self.told = list(order), []

    def next(self):
        return self.order.pop(0)

    def ended(self, context, episode):
        self.told.append((context, episode))


def worlds(n=2, steps=4):
    grid = Contexts(("gear",), np.array([[0.5], [1.0], [2.0]]))
    return make("reverie/CartPoleSwingUp-v0", 3 * n, context=grid, max_episode_steps=steps)


def test_each_episode_is_of_the_chosen_context_and_only_it_is_simulated():
    env = Chosen(worlds(), Listed([2, 0, 1, 1, 0, 2]))
    plain = worlds()
    obs, first, seen = env.reset(), plain.reset(), []
    physics = env.env.physics
    step = physics.step
    physics.step = lambda c, n, ids=None: (seen.append(ids.tolist()), step(c, n, ids))
    # `reset` chose anew: contexts 1 and 1, then after four steps 0 and 2.
    assert env.context_id.tolist() == [1, 1] and torch.equal(obs, first[[1, 4]])
    actions = RandomPolicy(1, seed=0)
    for _ in range(4):
        action = actions.act(obs)[0]
        every = torch.zeros(6, 1)
        every[[1, 4]] = action
        r, p = env.step(action), plain.step(every)
        assert torch.equal(r.final_obs, p.final_obs[[1, 4]])
        assert torch.equal(r.reward, p.reward[[1, 4]])
        obs = r.obs
    assert seen == [[1, 4]] * 4 and r.truncated.tolist() == [True, True]
    assert env.context_id.tolist() == [0, 2] and env.context[:, 0].tolist() == [0.5, 2.0]
    assert torch.equal(obs, first[[0, 5]])  # these worlds waited at their start
    told = env.chooser.told
    assert [c for c, _ in told] == [1, 1] and [len(e.reward) for _, e in told] == [4, 4]
    assert torch.equal(told[0][1].obs[0], first[1])
    assert torch.equal(told[1][1].next_obs[-1], r.final_obs[1])


def test_chosen_worlds_go_on_inside_an_episode():
    a, b = (Chosen(worlds(), Listed([0] * 8 + [2] * 8)) for _ in range(2))
    a.reset()
    for _ in range(2):
        a.step(torch.ones(2, 1))
    b.load_state_dict(a.state_dict())
    b.chooser.order = list(a.chooser.order)
    for _ in range(5):
        left, right = a.step(torch.ones(2, 1)), b.step(torch.ones(2, 1))
        assert all(torch.equal(x, y) for x, y in zip(left, right, strict=True))
    pairs = zip(a.chooser.told, b.chooser.told, strict=True)
    assert all(torch.equal(x[1].obs, y[1].obs) and len(x[1].obs) == 4 for x, y in pairs)


def test_a_library_serves_each_context_by_its_policy():
    class Says:
        def __init__(self, value):
            self.value = value

        def initial_state(self, n):
            return ()

        def act(self, obs, state=(), *, explore=False):
            return torch.full((len(obs), 1), self.value), state

    library = Library([Says(0.1), Says(0.2), Says(0.3)], [2, 0, 2])
    action, _ = library.act(torch.zeros(6, 4))
    assert action[:, 0].tolist() == pytest.approx([0.3, 0.1, 0.3, 0.3, 0.1, 0.3])
    assert library.act(torch.zeros(1, 4))[0].tolist() == [[pytest.approx(0.3)]]
    with pytest.raises(ValueError, match="1 policies cannot serve as"):
        Library([Says(0.1)], [0, 1])
