"""D.1, D.2: what a mask holds, how often, and how long."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reverie.agents.dreams import masks
from reverie.agents.dreams.config import DreamConfig, ModelConfig
from reverie.agents.dreams.env import DreamEnv
from reverie.agents.dreams.models import build
from reverie.agents.dreams.starts import Starts
from reverie.agents.dreams.streams import Stream, child, episode_keys
from reverie.envs.random import uniforms


def dream(num_envs=4, model=None, obs_dim=3, horizon=60, **settings):
    """Dreams of a model with drawn weights, all from one start, in units as they are."""
    model = model or build(obs_dim, 2, ModelConfig(hidden=(16, 16)), seed=1)
    model.scales.facts[1] = horizon
    obs = torch.tensor([[0.5, -1.0, 0.25]])
    state = model.initial_state(1)
    config = DreamConfig(clip=False, **settings)
    return DreamEnv(model, Starts(obs, state), num_envs, config, seed=3)


def held(env):
    """The masks that each step sees, in the order of steps [T, N, width]."""
    out, draw = [], env.varying.masks

    def spy(keys, elapsed):
        given = draw(keys, elapsed)
        out.append(torch.cat(given, 1).clone())
        return given

    env.varying.masks = spy
    return out


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
def test_masks_keep_their_share_at_one_value(p):
    keys = episode_keys(0, np.arange(400), np.zeros(400, np.int64))
    generator = torch.Generator().manual_seed(0)
    for drawn in (masks.drawn(Stream(keys), 261, p), masks.trained((400, 261), p, generator)):
        assert drawn.shape == (400, 261)  # 1e5 draws
        assert abs(float((drawn > 0).float().mean()) - (1 - p)) < 0.005
        assert set(drawn.unique().tolist()) == {0.0, float(torch.tensor(1 / (1 - p)))}
        columns = (drawn > 0).float().mean(0)  # no column is drawn otherwise: 5 SE of 400 draws
        assert float((columns - (1 - p)).abs().max()) < 5 * (p * (1 - p) / 400) ** 0.5


def test_a_rate_of_a_dream_is_not_that_of_the_fit():
    model = build(3, 2, ModelConfig(hidden=(16,), p_train=0.05))
    batch = SimpleNamespace(reward=torch.zeros(300))
    in_a_fit = torch.cat(model.train_masks(batch, torch.Generator().manual_seed(0)), 1)
    env = dream(model=model, scope="step", p=0.1)
    seen = held(env)
    env.step(torch.zeros(4, 2))
    assert float(in_a_fit.max()) == pytest.approx(1.0526, abs=1e-4)
    assert float(seen[0].max()) == pytest.approx(1.1111, abs=1e-4)


def test_the_stream_is_that_of_the_simulators():
    world, episode = np.arange(5), np.array([0, 3, 1, 0, 7])
    ours = Stream(episode_keys(11, world, episode)).words(4) >> np.uint64(11)
    theirs = uniforms(np, 11, world, episode, 0, 4)
    assert np.array_equal(ours * 2.0**-53, theirs)


def test_draws_are_uniform_and_normal():
    draws = Stream(child(episode_keys(0, np.arange(1000), np.zeros(1000, np.int64)), 2))
    u, z = draws.uniform(100), draws.normal(100)
    assert float(u.min()) >= 0 and float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 3 * (1 / 12 / 1e5) ** 0.5
    assert abs(float(z.mean())) < 3 / 1e5**0.5 and abs(float(z.var()) - 1) < 3 * (2 / 1e5) ** 0.5
    assert abs(float(z.pow(4).mean()) - 3) < 3 * (96 / 1e5) ** 0.5  # var of z^4 is 96


@pytest.mark.parametrize("kind", ["mlp", "lstm", "gru"])
def test_actions_are_never_masked_and_rate_0_is_no_dropout(kind):
    model = build(3, 2, ModelConfig(kind=kind, hidden=(16,)))
    obs, action = torch.randn(64, 3), torch.randn(64, 2)
    state = model.initial_state(64)
    ones = tuple(torch.ones(64, w) for w in model.mask_widths)
    whole = model.predict(obs, action, state, (), None)
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole[:3], model.predict(obs, action, state, ones, None)[:3], strict=True)
    )
    assert model.mask_widths[0] == 3  # the observation's, not the action's
    none = (torch.zeros(64, 3), *ones[1:])
    a, b = (model.predict(obs, x, state, none, None) for x in (action, action + 1))
    c = model.predict(obs + 1, action, state, none, None)
    assert not torch.equal(a.reward, b.reward) and torch.equal(a.reward, c.reward)
    env, plain = dream(model=model, p=0.0, scope="step"), dream(model=model, scope="none")
    steps = [e.step(torch.zeros(4, 2)) for e in (env, plain)]
    assert torch.equal(steps[0].obs, steps[1].obs)


def lifetimes(steps=24, **settings):
    """Number each world's masks by when they were first seen [steps, N], over two episodes."""
    env = dream(horizon=12, p=0.5, **settings)
    seen = held(env)
    for _ in range(steps):
        env.step(torch.zeros(4, 2))
    return torch.tensor([
        [next(u for u in range(t + 1) if torch.equal(seen[u][w], seen[t][w])) for w in range(4)]
        for t in range(steps)
    ])  # fmt: skip


def test_how_long_a_mask_is_kept():
    t = torch.arange(24)[:, None].expand(-1, 4)
    assert torch.equal(lifetimes(scope="step"), t)
    assert torch.equal(lifetimes(scope="episode"), t // 12 * 12)
    assert torch.equal(lifetimes(scope="k-steps", every=5), t // 12 * 12 + t % 12 // 5 * 5)


def test_worlds_differ_and_only_one_that_restarts_gets_another_mask():
    env = dream(p=0.5)
    seen = held(env)
    env.step(torch.zeros(4, 2))
    assert len(seen[0].unique(dim=0)) == 4
    env._restart(np.array([2]))
    env.step(torch.zeros(4, 2))
    assert (seen[0] == seen[1]).all(1).tolist() == [True, True, False, True]


def test_an_episodes_mask_is_one_world():
    """The same state, action and noise: the same outcome at t = 1 and t = 50, another later."""
    for scope, same in (("episode", True), ("step", False)):
        env = dream(scope=scope, horizon=200, p=0.5)
        obs, action, said = env._obs.clone(), torch.ones(4, 2) / 2, []
        for _ in range(51):
            env._obs = obs
            said.append(env.step(action).obs)
        assert torch.equal(said[1], said[50]) is same
        env._restart(np.array([1]))
        env._obs = obs
        after = env.step(action).obs
        assert (after == said[50]).all(1).tolist() == [same, False, same, same]


def test_fixed_masks_are_a_few_kept_for_good():
    drawn = masks.fixed((3, 20), 4, 0.25, torch.Generator().manual_seed(0))
    assert drawn.shape == (4, 23)
    assert (drawn[:, :3] > 0).sum(1).tolist() == [2] * 4  # round(.75 * 3)
    assert (drawn[:, 3:] > 0).sum(1).tolist() == [15] * 4
    assert float(drawn[:, :3].max()) == 1.5 and float(drawn[:, 3:].max()) == pytest.approx(4 / 3)
    model = build(3, 2, ModelConfig(hidden=(20,), p_train=0.25, fixed=4))
    env = dream(64, model=model, scope="fixed-n")
    seen = held(env)
    env.step(torch.zeros(64, 2))
    assert len(seen[0].unique(dim=0)) == 4
    batch = SimpleNamespace(reward=torch.zeros(64))
    given = torch.cat(model.train_masks(batch, torch.Generator().manual_seed(0)), 1)
    assert torch.equal(given.unique(dim=0), seen[0].unique(dim=0))
    with pytest.raises(ValueError, match="fixed-n and ModelConfig"):
        dream(model=model, scope="episode")


def test_the_mean_over_masks_varies_as_one_over_their_number():
    def variance(copies):
        env = dream(2000, scope="mc-mean", copies=copies)
        return float(env.step(torch.zeros(2000, 2)).obs.var(0).sum())

    one = variance(1)
    assert variance(4) == pytest.approx(one / 4, rel=0.15)
    assert variance(16) == pytest.approx(one / 16, rel=0.15)
