"""Worlds, a policy and data whose every number can be worked out by hand."""

import json
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from reverie.envs.api import StepResult
from reverie.experiments.runs.config import RunOptions
from reverie.experiments.runs.run import Run


class Known:
    """A `BatchEnv` of N worlds that show [world, episode, t]; a step of world w pays w + 1.

    Episode e of world w lasts lengths[w][e] steps, again and again; world 0's terminate, the
    others' are cut. `paid`: what the first column of the action adds to the reward. `bad`: the
    (vector step, world) that are no transition.
    """

    device = torch.device("cpu")
    obs_dim, act_dim, discrete, max_episode_steps = 3, 1, False, None

    def __init__(self, lengths, paid=64.0, bad=(), restores=True):
        self.lengths, self.num_envs = lengths, len(lengths)
        self.paid, self.bad, self.restores = paid, set(bad), restores
        self.seeds, self.actions, self.stepped, self.bad_worlds = [], [], 0, 0
        self.notes = {"engine": "known"}
        self.at = torch.zeros(self.num_envs, 2)  # episode, t

    def current_obs(self):
        return torch.cat([torch.arange(self.num_envs)[:, None].float(), self.at], 1)

    def reset(self, seed=None):
        self.seeds.append(seed)
        self.at.zero_()
        return self.current_obs()

    def step(self, action):
        self.actions.append(action[:, 0].tolist())
        valid = torch.tensor([(self.stepped, w) not in self.bad for w in range(self.num_envs)])
        self.stepped += 1
        self.bad_worlds += int((~valid).sum())
        self.at[:, 1] += 1
        final = self.current_obs()
        length = [x[int(e) % len(x)] for x, e in zip(self.lengths, self.at[:, 0], strict=True)]
        over = self.at[:, 1] >= torch.tensor(length)
        terminated = over & (torch.arange(self.num_envs) == 0) & valid
        truncated = over & ~terminated | ~valid
        reward = torch.arange(self.num_envs) + 1 + self.paid * action[:, 0]
        ended = terminated | truncated
        self.at[ended, 0] += 1
        self.at[ended, 1] = 0
        return StepResult(self.current_obs(), reward * valid, terminated, truncated, final, valid)

    def health(self):
        return {"bad_worlds": self.bad_worlds}

    def state_dict(self):
        return {"at": self.at.clone(), "stepped": self.stepped}

    def load_state_dict(self, state):
        self.at, self.stepped = state["at"].clone(), state["stepped"]


class Counter:
    """An `Agent` that acts k / 64 at the k-th step that it remembers, k = 0, 1, ...

    On `Known` worlds an episode of n steps in world w then returns n (w + 1) + n (n - 1) / 2.
    Its metric is how many updates it has had.
    """

    columns = ()

    def __init__(self):
        self.batches, self.explored, self.updates = [], [], 0

    def initial_state(self, n):
        return (torch.zeros(n, 1),)

    def act(self, obs, state, *, explore):
        self.explored.append(explore)
        return state[0] / 64, (state[0] + 1,)

    def update(self, batch, **more):
        self.batches.append(batch)
        self.updates += 1
        return {"updates": torch.tensor(float(self.updates))}

    def state_dict(self):
        return {"updates": self.updates}

    def load_state_dict(self, state):
        self.updates = state["updates"]


@dataclass(frozen=True)
class Options:
    """What the loops read of a configuration."""

    steps: int = 24
    seed: int = 0
    learning_starts: int = 0
    batch_size: int = 4
    utd: float = 0.0
    run: RunOptions = field(default_factory=RunOptions)


def options(out, *, log=0, judge=0, save=0, **more):
    run = RunOptions(
        out=str(out), name="run", threads=1, log_every=log, eval_every=judge,
        checkpoint_every=save, tensorboard=False, progress=False,
    )  # fmt: skip
    return Options(run=run, **more)


def a_run(config, resume=False):
    return Run("known", config, label="known", steps=config.steps, seed=0, resume=resume)


@contextmanager
def a_begun_run(config, resume=False):
    """Give a run that had nothing to load, or whose state is not wanted."""
    with a_run(config, resume) as run:
        with run.restored():
            pass
        yield run


def rows(path, kind):
    """Return the rows of a kind in a run's metrics.jsonl."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]
