"""GEM: its quadratic program by hand, and the step that a learner takes along it."""

import itertools

import pytest
import torch

from reverie.agents import TD3Config
from reverie.agents.oer.gem import gem
from reverie.agents.oer.learner import OER, OERConfig
from reverie.agents.oer.memory import Kept
from reverie.agents.oer.penalties import project
from reverie.buffers import Transitions

OBS = torch.tensor([[1.0, 2.0], [2.0, -1.0], [0.5, -0.3]])
BATCH = Transitions(
    OBS, torch.tensor([[0.5], [-0.5], [0.2]]), torch.tensor([1.0, 2.0, 0.0]), OBS,
    torch.ones(3), torch.zeros(3),
)  # fmt: skip


def test_a_step_raises_no_memorys_loss_and_is_the_nearest_such():
    g = torch.tensor([1.0, 1.0, 1.0])
    across = torch.tensor([[-1.0, 0.0, 0.0], [0.0, -2.0, 0.0]])
    torch.testing.assert_close(gem(g, across), torch.tensor([0.0, 0.0, 1.0]))
    # v = (1, 1 / 2); with a margin of 1 / 2 another (-1 / 2, -1, 0)
    torch.testing.assert_close(gem(g, across, 0.5), torch.tensor([-0.5, -1.0, 1.0]))
    # the second memory is served by what the first asks for: g + v (-1, 0), v = 1
    slanted = torch.tensor([[-1.0, 0.0], [-1.0, -1.0]])
    torch.testing.assert_close(
        gem(torch.tensor([1.0, 0.0]), slanted), torch.zeros(2), atol=1e-6, rtol=0
    )
    # only the first is against it; both together bind: (1, 0) -> onto the edge between them
    edge = torch.tensor([[-1.0, 1.0], [-1.0, 0.1]])
    got = gem(torch.tensor([1.0, 0.0]), edge)
    assert (edge @ got >= -1e-6).all()
    grid = torch.tensor(list(itertools.product(torch.linspace(-1, 2, 301).tolist(), repeat=2)))
    free = grid[(grid @ edge.T >= 0).all(1)]
    nearest = (free - torch.tensor([1.0, 0.0])).norm(dim=1).min()
    assert (got - torch.tensor([1.0, 0.0])).norm() == pytest.approx(float(nearest), abs=0.02)


def test_one_memory_is_agems_projection_and_agreement_changes_nothing():
    for seed in range(6):
        g, m = torch.randn(2, 9, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(gem(g, m[None]), project(g, m), rtol=1e-4, atol=1e-5)
    assert gem(g, torch.stack([g, 2 * g])) is g


@pytest.mark.parametrize("labels", [*itertools.product((1.0, -1.0), repeat=2)])
def test_a_learner_steps_along_it(labels):
    """The one policy's gradient is what `gem` makes of the task's and of the memories'."""
    td3 = TD3Config(hidden=(8, 8), bc_alpha=2.5, policy_delay=1)
    learner = OER(2, 1, 3, OERConfig(td3=td3, dbc=False, penalty="gem", alpha=2.0), seed=0)
    for task, label in enumerate(labels):
        learner.begin(task, torch.zeros(2), torch.ones(2))
        learner.update(BATCH)
        learner.remember(Kept(OBS[:1], torch.tensor([[label]]), task))
    learner.begin(2, torch.zeros(2), torch.ones(2))
    before = OER(2, 1, 3, learner.config, seed=0).policy
    before.load_state_dict(learner.policy.state_dict())
    learner.update(BATCH)
    action = before(OBS, 2)
    q = learner.inner.critic(OBS, action)[0]
    loss = -2.5 * q.mean() / q.detach().abs().mean() + (action - BATCH.action).square().mean()
    kept = [2.0 * (before(OBS[:1], t) - x).square().mean() for t, x in enumerate(labels)]
    every = list(before.parameters())
    own, *others = (
        torch.cat([g.flatten() for g in torch.autograd.grad(x, every)]) for x in (loss, *kept)
    )
    got = torch.cat([p.grad.flatten() for p in learner.policy.parameters()])
    torch.testing.assert_close(got, gem(own, torch.stack(others)), rtol=1e-3, atol=1e-5)
