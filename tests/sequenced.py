"""A sequence of three tasks of four steps, of data and worlds that are known."""

import numpy as np
import pytest
import torch
from known import Known

from reverie.agents import TD3Config
from reverie.agents.actors import ActorPolicy
from reverie.agents.oer.learner import OER, OERConfig
from reverie.agents.playing import EVAL_SEED, Evaluation
from reverie.buffers import Card, Dataset, Transitions
from reverie.experiments import oer
from reverie.experiments.loops import continual
from reverie.experiments.runs.config import RunOptions

FAMILY = "reverie/CheetahVel-v0"


LOW, HIGH = (-10.0, 0.0, 10.0), (0.0, 40.0, 20.0)  # returns of uniform actions and of experts


def card(task):
    return Card(env=FAMILY, random_return=LOW[task % 3], reference_return=HIGH[task % 3])


def data_of(task, about=None, n=20):
    """Rows of a task: its number t in every reward, states around 100 t."""
    g = torch.Generator().manual_seed(task)
    obs = 100.0 * task + torch.randn(n, 3, generator=g)
    ends = torch.zeros(n)
    ends[-1] = 1
    action = torch.full((n, 1), 0.1 * (task + 1))
    reward = torch.full((n,), float(task))
    return Dataset.of(
        Transitions(obs, action, reward, obs, torch.zeros(n), ends), about or card(task)
    )


@pytest.fixture
def sequence(tmp_path, monkeypatch):
    """A function that runs three tasks of four steps; what was seen, in `sequence.seen`."""
    seen = {"batches": [], "moments": [], "judges": [], "frozen": [], "kept": []}

    def make_judge(about, options, **kwargs):
        judge = Known([[2], [2]])
        judge.max_episode_steps = 2
        judge.number = len(seen["judges"]) % 3
        seen["judges"].append((about, options, kwargs))
        return judge

    def evaluate(policy, judge, *, seed, stop):
        assert seed == EVAL_SEED and not stop()
        frozen = isinstance(policy, ActorPolicy)  # known by the states that it is scaled to
        task = round(float(policy.mean.mean()) / 100) if frozen else policy.task
        seen["moments"].append((task, policy.mean if frozen else policy.policy.mean[task].clone()))
        seen["frozen"].append(frozen)
        value = 100.0 * task + judge.number  # of a policy of a task in a judge
        return Evaluation(np.full((2, 1), value), np.ones((2, 1), np.int64))

    real = OER.update

    def update(self, batch):
        seen["batches"].append((self.task, batch.reward.unique().tolist()))
        return real(self, batch)

    monkeypatch.setattr(oer, "task_data", lambda c, task, threads, stop: data_of(task))
    monkeypatch.setattr(oer, "make_judge", make_judge)
    monkeypatch.setattr(continual, "evaluate", evaluate)
    monkeypatch.setattr(OER, "update", update)
    remember = OER.remember

    def kept(self, memory):
        seen["kept"].append((self.task, memory))
        remember(self, memory)

    monkeypatch.setattr(OER, "remember", kept)
    monkeypatch.setattr(OER, "label", lambda self, obs, action: action)

    def go(name="run", resume=False, eval_every=6, **changes):
        run = RunOptions(
            out=str(tmp_path), name=name, threads=1, log_every=2, eval_every=eval_every,
            eval_episodes=2, checkpoint_every=6, tensorboard=False, progress=False,
        )  # fmt: skip
        settings = dict(
            env=FAMILY, tasks=3, steps=12, task_steps=4, batch_size=5, budget=6,
            selector="random", run=run, agent=OERConfig(td3=TD3Config(hidden=(8, 8), bc_alpha=2.5)),
        )  # fmt: skip
        return oer.main(oer.Config(**{**settings, **changes}), resume=resume)

    go.seen = seen
    return go
