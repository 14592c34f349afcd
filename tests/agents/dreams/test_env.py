"""D.8: dreams as an environment, by models whose every step is known."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reverie.agents.candidates import population_returns
from reverie.agents.dreams.api import Prediction
from reverie.agents.dreams.config import DreamConfig, ModelConfig
from reverie.agents.dreams.controllers import TanhNetwork
from reverie.agents.dreams.env import DreamEnv
from reverie.agents.dreams.models import build
from reverie.agents.dreams.starts import Starts, anywhere, initial
from reverie.buffers import Layout, ReplayBuffer, Transitions
from reverie.envs import BatchEnv

HORIZON = 6


class Line:
    """s' = s + a; the reward is s'; `says` is put over what it predicts."""

    obs_dim, act_dim, mask_widths, members, fixed_masks = 1, 1, (), 1, None

    def __init__(self, end=0.0, low=-2.0, high=2.0):
        self.end, self.says = end, {}
        self.scales = SimpleNamespace(
            low=torch.tensor([low, low]), high=torch.tensor([high, high]), horizon=HORIZON
        )

    def initial_state(self, n):
        return ()

    def predict(self, obs, action, state, masks, generator):
        next_obs = obs + action
        said = Prediction(next_obs, next_obs[:, 0], torch.full((len(obs),), self.end), state)
        return said._replace(**self.says)


def line(num_envs=4, model=None, starts=(0.0,), **keywords):
    pool = Starts(torch.tensor(starts)[:, None], ())
    given = {k: keywords.pop(k) for k in ("streams", "ends", "sigma", "limit") if k in keywords}
    return DreamEnv(
        model or Line(), pool, num_envs, DreamConfig(scope="none", **keywords), seed=5, **given
    ) if "scope" not in keywords else DreamEnv(
        model or Line(), pool, num_envs, DreamConfig(**keywords), seed=5, **given
    )  # fmt: skip


def learned(kind="mlp", horizon=20, **settings):
    """A model with drawn weights, in units of a fit to almost nothing."""
    hidden = (16,) if kind in ("lstm", "gru") else (16, 16)
    model = build(3, 2, ModelConfig(kind=kind, hidden=hidden, **settings), seed=2)
    draw = torch.Generator().manual_seed(0)
    obs = torch.randn(50, 3, generator=draw)
    flag = (torch.arange(50) % 5 == 4).float() if kind != "ensemble" else torch.zeros(50)
    after = obs + 0.1 * torch.randn(50, 3, generator=draw)
    model.scale(Transitions(obs, obs[:, :2], obs[:, 0], after, flag, 0 * flag), horizon)
    return model


def dreams(num_envs, kind="mlp", seed=0, streams=None, **settings):
    model = learned(kind)
    draw = torch.Generator().manual_seed(1)
    state = tuple(torch.randn(7, s.shape[1], generator=draw) for s in model.initial_state(1))
    pool = Starts(torch.randn(7, 3, generator=draw), state)
    return DreamEnv(model, pool, num_envs, DreamConfig(**settings), seed=seed, streams=streams)


def actions(steps, n, width=2):
    draw = torch.Generator().manual_seed(9)
    return list(2 * torch.rand(steps, n, width, generator=draw) - 1)


ARMS = [
    ("mlp", {"scope": "episode"}),
    ("mlp", {"scope": "step"}),
    ("mlp", {"scope": "k-steps", "every": 3}),
    ("mlp", {"scope": "mc-mean", "copies": 3}),
    ("lstm", {"scope": "episode", "features": True}),
    ("gru", {"scope": "mc-mean", "copies": 2, "features": True}),
    ("ensemble", {"scope": "step"}),
    ("ensemble", {"scope": "episode"}),
]
every_arm = pytest.mark.parametrize(("kind", "settings"), ARMS)


@every_arm
def test_a_batch_of_dreams_is_as_many_single_ones(kind, settings):
    settings = {**settings, "horizon": 4}
    n, steps = 1024, 6
    moves = actions(steps, n)
    together = dreams(n, kind, seed=3, **settings)
    results = [together.step(a) for a in moves]
    for world in (0, 1, 500, 1023):
        alone = dreams(1, kind, seed=3 + world, **settings)
        for a, r in zip(moves, results, strict=True):
            one = alone.step(a[world : world + 1])
            for x, y in zip(one, r, strict=True):
                assert torch.allclose(x[0].float(), y[world].float(), atol=1e-5)


@every_arm
def test_a_dream_continues_bit_for_bit(kind, settings):
    moves = actions(40, 5)
    a, b = (dreams(5, kind, seed=s, horizon=9, **settings) for s in (4, 8))
    for move in moves[:13]:
        a.step(move)
    b.load_state_dict(a.state_dict())
    assert torch.equal(a.current_obs(), b.current_obs())
    for move in moves[13:]:
        for x, y in zip(a.step(move), b.step(move), strict=True):
            assert torch.equal(x, y)
    assert a.health() == b.health()


@every_arm
def test_a_reset_with_a_seed_is_that_seeds_first_episode(kind, settings):
    moves = actions(12, 5)
    fresh, used = (dreams(5, kind, seed=s, horizon=9, **settings) for s in (4, 8))
    assert isinstance(fresh, BatchEnv)
    for move in moves:
        used.step(move)
    assert torch.equal(fresh.reset(), used.reset(4))
    for move in moves:
        assert torch.equal(fresh.step(move).obs, used.step(move).obs)
    assert not torch.equal(fresh.reset(), fresh.reset(5))


def test_worlds_of_one_stream_dream_the_same():
    env = dreams(6, streams=[0, 1, 2] * 2, scope="step")
    seen = torch.stack([env.step(move.repeat(2, 1)).obs for move in actions(30, 3)])
    assert torch.equal(seen[:, :3], seen[:, 3:])
    assert not torch.equal(seen[:, 0], seen[:, 1])


def test_a_horizon_truncates_and_never_terminates():
    env = line()
    for episode in range(3):
        for t in range(HORIZON):
            r = env.step(torch.full((4, 1), 0.25))
            assert torch.equal(r.final_obs, torch.full((4, 1), 0.25 * (t + 1)))
            assert not r.terminated.any() and r.valid.all()
            assert (
                r.truncated.all() == (t == HORIZON - 1) and r.truncated.all() == r.truncated.any()
            )
            assert torch.equal(r.obs, 0 * r.obs if t == HORIZON - 1 else r.final_obs)
        assert (env._episode == episode + 1).all()


def test_how_a_dream_terminates():
    half = {"model": Line(end=0.25), "num_envs": 4000}
    drawn = line(**half).step(torch.zeros(4000, 1)).terminated.float().mean()
    assert float(drawn) == pytest.approx(0.25, abs=3 * (0.25 * 0.75 / 4000) ** 0.5)
    zero = torch.zeros(4, 1)
    assert not line(model=Line(end=0.25), end="threshold").step(zero).terminated.any()
    assert line(model=Line(end=0.75), end="threshold").step(zero).terminated.all()
    assert not line(model=Line(end=1.0), end="never").step(zero).terminated.any()
    ruled = line(end="rule", ends=lambda next_obs: next_obs[:, 0] > 0.5)
    r = ruled.step(torch.tensor([[0.4], [0.6], [-1.0], [1.0]]))
    assert r.terminated.tolist() == [False, True, False, True] and not r.truncated.any()
    assert r.obs[:, 0].tolist() == pytest.approx([0.4, 0.0, -1.0, 0.0])
    with pytest.raises(ValueError, match="needs the task's rule"):
        line(end="rule")


def test_nothing_beyond_the_data_leaves_a_dream_and_it_is_counted():
    model = Line(low=-1.0, high=1.5)
    env = line(model=model)
    model.says = {"reward": torch.tensor([1e6, -1e6, 1.0, 0.0])}
    r = env.step(torch.tensor([[1.0], [1.0], [-1.0], [0.5]]))
    assert r.reward.tolist() == [1.5, -1.0, 1.0, 0.0] and r.valid.all()
    r = env.step(torch.tensor([[1.0], [0.0], [-1.0], [0.0]]))
    assert r.obs[:, 0].tolist() == [1.5, 1.0, -1.0, 0.5]
    model.says = {}
    assert env.health() == {"bad_worlds": 0, "clipped_obs": 2, "clipped_reward": 4, "cut": 0}
    free = line(model=model, clip=False)
    model.says = {"reward": torch.full((4,), 1e6)}
    assert free.step(torch.ones(4, 1)).reward.tolist() == [1e6] * 4


@pytest.mark.parametrize("clip", [True, False])
def test_what_is_not_finite_never_leaves(clip):
    model = Line()
    env = line(model=model, clip=clip)
    env.step(torch.full((4, 1), 0.5))
    nan, inf = float("nan"), float("inf")
    model.says = {
        "next_obs": torch.tensor([[nan], [0.75], [0.75], [0.75]]),
        "reward": torch.tensor([0.0, inf, nan, 0.25]),
    }
    r = env.step(torch.zeros(4, 1))
    assert r.valid.tolist() == [False, False, False, True]
    assert r.truncated.tolist() == [True, True, True, False] and not r.terminated.any()
    assert r.final_obs[:, 0].tolist() == [0.5, 0.5, 0.5, 0.75]
    assert r.obs[:, 0].tolist() == [0.0, 0.0, 0.0, 0.75]
    assert r.reward.tolist() == [0.0, 0.0, 0.0, 0.25]
    assert env.health()["bad_worlds"] == 3


def test_a_dream_longer_than_its_data_is_told_once(caplog):
    with caplog.at_level(logging.WARNING, "reverie"):
        env = line(horizon=HORIZON + 1)
        for _ in range(20):
            env.step(torch.zeros(4, 1))
        assert len(caplog.records) == 1 and "at most 6" in caplog.text
        line(horizon=HORIZON)
        assert len(caplog.records) == 1


def test_noise_instead_of_masks_of_a_step_or_of_an_episode():
    sigma = torch.tensor([0.5, 0.1])
    free = {"num_envs": 4000, "sigma": sigma, "model": Line(low=-1e9, high=1e9)}
    step, held = (line(scope=s, **free) for s in ("gstep", "gep"))
    zero = torch.zeros(4000, 1)
    first, second = step.step(zero), step.step(zero)
    move = second.obs - first.obs
    assert float(first.obs.std()) == pytest.approx(0.5, rel=0.05)
    assert float(first.reward.sub(0).std()) == pytest.approx(0.1, rel=0.05)
    assert abs(float(torch.corrcoef(torch.cat([first.obs, move], 1).T)[0, 1])) < 0.06
    first, second = held.step(zero), held.step(zero)
    assert float(first.obs.std()) == pytest.approx(0.5, rel=0.05)
    assert torch.allclose(second.obs, 2 * first.obs, atol=1e-6)  # the same offset again
    assert torch.allclose(second.reward - first.obs[:, 0], first.reward, atol=1e-6)
    with pytest.raises(ValueError, match="needs sigma"):
        line(scope="gstep")


def test_a_dream_is_cut_where_the_members_disagree():
    model = Line()
    model.disagreement = lambda obs, action: obs[:, 0]
    env = line(model=model, limit=0.5)
    first = env.step(torch.tensor([[0.25], [0.5], [0.75], [1.0]]))
    assert not first.truncated.any()
    r = env.step(torch.zeros(4, 1))
    assert r.truncated.tolist() == [False, False, True, True] and r.valid.all()
    assert env.health()["cut"] == 2
    with pytest.raises(ValueError, match="needs limit"):
        line(model=model, zeta=1.0)
    with pytest.raises(ValueError, match="only an ensemble"):
        line(zeta=1.0)


def test_starts_are_drawn_from_the_pool():
    env = line(num_envs=3000, starts=(0.0, 1.0, 1.5))
    share = torch.stack([(env.reset() == s).float().mean() for s in (0.0, 1.0, 1.5)])
    assert float((share - 1 / 3).abs().max()) < 3 * (2 / 9 / 3000) ** 0.5
    assert not torch.equal(env.reset(7), env.reset(8))


def store():
    """One world, episodes of four steps, whose observation is [episode, t, 0]."""
    out = ReplayBuffer(Layout(3, 2), 40)
    for i in range(40):
        obs = torch.tensor([[i // 4, i % 4, 0.0]])
        after = obs + torch.tensor([[0, 1.0, 0]])
        last = torch.tensor([float(i % 4 == 3)])
        out.add(Transitions(obs, torch.ones(1, 2) * i / 40, 0 * last, after, 0 * last, last))
    return out


def test_starts_of_the_data_with_the_memory_that_led_there():
    model, data = learned("lstm"), store()
    first = initial(data, model, 50)
    assert not first.obs[:, 1].any() and not first.state[0].any()
    pool = anywhere(data, model, 50, burn_in=2)
    assert set(pool.obs[:, 1].tolist()) == {0.0, 1.0, 2.0, 3.0}
    for obs, h, c in zip(pool.obs, *pool.state, strict=True):
        episode, t = int(obs[0]), int(obs[1])
        state = model.initial_state(1)
        for before in range(max(t - 2, 0), t):
            at = torch.tensor([[episode, before, 0.0]])
            action = torch.ones(1, 2) * (4 * episode + before) / 40
            state = model.predict(at, action, state, (), None).state
        assert torch.allclose(h, state[0][0], atol=1e-6)
        assert torch.allclose(c, state[1][0], atol=1e-6)


def test_a_dream_of_another_task_is_refused():
    with pytest.raises(ValueError, match="fitted on another task"):
        DreamEnv(Line(), Starts(torch.zeros(1, 2), ()))
    with pytest.raises(ValueError, match="fitted to nothing"):
        DreamEnv(build(1, 1), Starts(torch.zeros(1, 1), ()))
    with pytest.raises(ValueError, match="is not finite"):
        line().step(torch.full((4, 1), float("nan")))
    with pytest.raises(ValueError, match="does not say when"):
        model = learned("ensemble")
        model.scales.facts[0] = 1
        DreamEnv(model, Starts(torch.zeros(1, 3), ()))


def test_a_population_plays_one_batch_of_dreams():
    """Candidates c of tanh(w s + b) from s = 0, b = c: after t steps t tanh(c), by hand."""
    env = line(num_envs=6, model=Line(low=-9.0, high=9.0), streams=[0, 1] * 3)
    network = TanhNetwork(1, 1)
    bias = torch.tensor([-0.5, 0.0, 1.0])
    returns = population_returns(env, network, torch.stack([0 * bias, bias], 1), 0)
    want = 21 * bias.tanh()  # 1 + 2 + ... + 6
    assert torch.allclose(returns, want[:, None].expand(3, 2), atol=1e-5)
    assert np.array_equal(env.streams, [0, 1] * 3)


def test_a_population_is_a_loop_over_its_candidates():
    network = TanhNetwork(3, 2, (12,))
    assert network.size == 3 * 12 + 12 + 12 * 2 + 2
    population = torch.stack([network.initial(torch.Generator().manual_seed(i)) for i in range(5)])
    obs = torch.randn(5, 4, 3)
    together = network.act(network.bind(population[:, None]), obs)
    for i in range(5):
        alone = network.act(network.bind(population[i]), obs[i])
        assert torch.allclose(together[i], alone, atol=1e-5)
    env = dreams(20, streams=list(range(4)) * 5, scope="episode")
    returns = population_returns(env, network, population, seed=3)
    for i in range(5):
        own = population_returns(dreams(4), network, population[i : i + 1], seed=3)
        assert torch.allclose(returns[i], own[0], atol=1e-4)
