"""Searches and circuits in worlds that are no task: a dream of three lines, worked out by hand."""

import numpy as np
import pytest
import torch

from reverie.agents import evaluate
from reverie.agents.candidates import population_returns
from reverie.agents.controllers import ControllerPolicy, namespace
from reverie.agents.ncap import Circuit
from reverie.agents.search import CMAES, SearchConfig
from reverie.envs.api import BatchEnv, StepResult

HORIZON = 8


class Dream:
    """Two joints that move by a quarter of the action; their mean pays; beyond 1 it is over."""

    obs_dim, act_dim, discrete, max_episode_steps = 3, 2, False, HORIZON
    device, restores = torch.device("cpu"), True

    def __init__(self, num_envs, start=()):
        self.num_envs, self.notes = num_envs, {"engine": "a dream"}
        self.start = torch.tensor(start or [0.0] * num_envs)[:, None].expand(-1, 2)
        self.context_id = torch.zeros(num_envs, dtype=torch.int64)
        self.context = torch.zeros(num_envs, 0)
        self.reset()

    def reset(self, seed=None):
        self.joint, self.t = self.start.clone(), torch.zeros(self.num_envs)
        return self.current_obs()

    def current_obs(self):
        return torch.cat([self.joint, self.t[:, None] * 2 / HORIZON - 1], 1)

    def step(self, action):
        self.joint, self.t = self.joint + action / 4, self.t + 1
        reward = self.joint.mean(1)
        terminated = (self.joint > 1).any(1)
        final, truncated = self.current_obs(), (self.t >= HORIZON) & ~terminated
        ended = terminated | truncated
        self.joint = torch.where(ended[:, None], self.start, self.joint)
        self.t = torch.where(ended, 0.0, self.t)
        valid = torch.ones_like(ended)
        return StepResult(self.current_obs(), reward, terminated, truncated, final, valid)

    def health(self):
        return {}

    def state_dict(self):
        return {"joint": self.joint, "t": self.t}

    def load_state_dict(self, state):
        self.joint, self.t = state["joint"], state["t"]

    def close(self):
        pass


class Linear:
    """Both joints get a = clip(gain x + bias), x the first joint."""

    size = 2

    def initial(self, generator=None):
        return torch.zeros(2)

    def bind(self, parameters):
        return parameters.split(1, -1)

    def act(self, bound, obs):
        gain, bias = bound
        xp = namespace(obs)
        return xp.clip(gain * xp.stack([obs[..., 0]] * 2, -1) + bias, -1, 1)


# Full speed: 1/4 (1 + ... + 5), over at 5/4. Half: 1/8 (1 + ... + 8). Full speed, then still
# before 1: 1/4 (1 + 2 + 3 + 4) + 4, the best that there is. Still: nothing.
KNOWN = {(0.0, 1.0): 3.75, (0.0, 0.5): 4.5, (-8.0, 8.0): 6.5, (0.0, 0.0): 0.0}


def test_a_dreams_returns_are_those_of_its_three_lines():
    """A world whose episode is over plays on and is no longer counted; E starts a candidate."""
    dream = Dream(8, start=[0.0, 0.5] * 4)
    assert isinstance(dream, BatchEnv)
    returns = population_returns(dream, Linear(), torch.tensor(list(KNOWN)), seed=0)
    assert returns[:, 0].tolist() == list(KNOWN.values())
    # From 1/2: 3/4 + 1 + 5/4; eight steps of 5/8 to 9/8, over at the fifth; 3/4, then 1; 1/2
    assert returns[:, 1].tolist() == [3.0, 4.375, 7.75, 4.0]


def test_a_policy_and_a_population_play_the_same_dream():
    parameters = torch.tensor(list(KNOWN))
    alone = [evaluate(ControllerPolicy(Linear(), p), Dream(2)).returns for p in parameters]
    together = population_returns(Dream(8), Linear(), parameters, seed=0)
    assert np.array_equal(np.stack(alone)[..., 0], together.numpy())


def test_a_circuit_plays_in_a_dream():
    """The head is driven 1 at each step, the second joint follows the bend before: 0, 1/4, ...

    The head comes to 1/4, 1/2, 3/4, 1, 5/4; the second to 0, 1/16, 3/16, 3/8, 5/8: half of
    3.75 and 1.25.
    """
    circuit = Circuit(2, limit=1.0, horizon=HORIZON)
    returns = population_returns(Dream(2), circuit, circuit.initial()[None], seed=0)
    assert returns.tolist() == [[2.5, 2.5]]


@pytest.mark.parametrize(("what", "least"), [("linear", 6.2), ("circuit", 4.0)])
def test_cma_es_improves_what_plays_in_a_dream(what, least):
    """6.5 is the best of a linear one; of a circuit, whose second joint lags, it is less."""
    controller = Linear() if what == "linear" else Circuit(2, limit=1.0, horizon=HORIZON)
    search = CMAES(controller.initial(), SearchConfig(population=10, sigma=0.5), seed=0)
    start = population_returns(Dream(1), controller, search.best[None], seed=0)
    for _ in range(40):
        candidates = search.ask()
        search.tell(population_returns(Dream(10), controller, candidates, seed=0)[:, 0])
    end = population_returns(Dream(1), controller, search.best[None], seed=0)
    assert float(start) <= 2.5 and float(end) >= least


def test_a_dream_that_never_ends_has_no_returns():
    dream = Dream(2)
    dream.max_episode_steps = None
    with pytest.raises(ValueError, match="no time limit"):
        population_returns(dream, Linear(), torch.zeros(1, 2), seed=0)
