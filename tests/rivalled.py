"""Three small tasks that a learner with a rival of the memories goes through."""

import torch

from reverie.agents import TD3Config
from reverie.agents.oer.learner import OER, OERConfig
from reverie.buffers import Transitions

MEAN, STD = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])
SMALL = TD3Config(hidden=(8, 6), bc_alpha=2.5, policy_delay=1)


def batch(task, n=16):
    g = torch.Generator().manual_seed(task)
    obs, action = torch.randn(n, 2, generator=g), torch.rand(n, 1, generator=g) * 2 - 1
    return Transitions(obs, action, torch.randn(n, generator=g), obs, torch.ones(n), torch.zeros(n))


def learner_of(**settings):
    return OER(2, 1, 3, OERConfig(td3=SMALL, **settings), seed=0)


def task_of(learner, task, steps=6, retrain=3):
    """Learn a task and end it, with pi's further steps where they are asked for."""
    learner.begin(task, MEAN + task, STD)
    for _ in range(steps):
        learner.update(batch(task))
    learner.settle()
    learner.anchor(batch(task).obs)
    if learner.rival is not None and learner.rival.retrains:
        z = learner.scaled(batch(task)).obs
        for _ in range(retrain):
            learner.clone(z, learner.inner.actor(z).detach())


def require_no_drift(learner, obs):
    """Learn three tasks: what was said at the end of each stays said, bit for bit."""
    said = []
    for task in range(3):
        task_of(learner, task)
        said.append(learner.policy(obs, task))
        for old in range(task + 1):
            assert torch.equal(learner.policy(obs, old), said[old]), (task, old)
    assert not torch.equal(said[0], said[1]) and said[2].std() > 0
