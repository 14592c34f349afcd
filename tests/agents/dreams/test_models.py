"""D.3 to D.6, E2: world models, worked out by hand or beside scipy."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dreamt import KINDS, adding, config, fitted
from scipy.stats import norm

from reverie.agents.controllers import ControllerPolicy
from reverie.agents.dreams import masks as dropout
from reverie.agents.dreams.config import DreamConfig, ModelConfig
from reverie.agents.dreams.controllers import TanhNetwork
from reverie.agents.dreams.env import DreamEnv
from reverie.agents.dreams.featured import Featured
from reverie.agents.dreams.fit import Fit
from reverie.agents.dreams.measure import (
    disagreement_limit,
    explained,
    matched_noise,
    one_step_mse,
)
from reverie.agents.dreams.mixture import means, nll, sampled
from reverie.agents.dreams.models import build
from reverie.agents.dreams.rnn import MDNRNN
from reverie.agents.dreams.starts import Starts
from reverie.buffers import Layout, ReplayBuffer, Transitions

every_kind = pytest.mark.parametrize("kind", KINDS)
recurrent = pytest.mark.parametrize("kind", ["lstm", "gru"])


def numbers(module):
    return sum(p.numel() for p in module.parameters())


@recurrent
def test_a_dreams_step_is_that_of_a_fit(kind):
    """Where nothing is learned, products and heads are computed in another order, in place."""
    model = build(3, 2, config(kind), seed=1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)  # biases too
    z, action = torch.randn(40, 3), torch.rand(40, 2)
    state = tuple(torch.randn(40, 16) for _ in model.initial_state(1))
    masks = (2.0 * (torch.rand(40, 3) < 0.5), 2.0 * (torch.rand(40, 16) < 0.5))
    learned = model.advance(z, action, state, masks)
    of_fit = model.heads(learned[0][:, None])
    with torch.no_grad():
        dreamt = model.advance(z, action, state, masks)
        of_dream = model.heads(dreamt[0])
    for a, b in zip(learned, dreamt, strict=True):
        assert a.requires_grad and torch.allclose(a, b, atol=1e-5)
    for a, b in zip(of_fit, of_dream, strict=True):
        assert torch.allclose(a[:, 0], b, atol=1e-5)


def test_sizes_are_those_of_the_papers():
    assert numbers(MDNRNN(32, 3, config("lstm", hidden=(256,)))) == 422_882
    assert numbers(MDNRNN(64, 1, config("lstm", hidden=(512,)), reward=False)) == 1_676_737
    assert TanhNetwork(32 + 256, 3).size == 867 and TanhNetwork(64 + 1024, 1).size == 1_089


def test_a_mixtures_likelihood_is_scipys():
    draw = torch.Generator().manual_seed(0)
    raw, x = torch.randn(50, 3, 4, 5, generator=draw), torch.randn(50, 4, generator=draw)
    logits, mean, log_std = raw.double().unbind(-3)
    each = norm.pdf(x[..., None].numpy(), mean.numpy(), log_std.exp().numpy())
    density = (logits.softmax(-1).numpy() * each).sum(-1)
    assert np.allclose(nll(raw, x).numpy(), -np.log(density), atol=1e-5)
    plain = torch.zeros(20_000, 3, 1, 5)  # five equal components: the entropy of a unit Gaussian
    mean = nll(plain, torch.randn(20_000, 1, generator=draw)).mean()
    assert float(mean) == pytest.approx(1.4189, abs=3 * 0.5**0.5 / 20_000**0.5)
    narrow = torch.tensor([0.0, 0.0, -5.0]).view(1, 3, 1, 1)
    assert float(nll(narrow, torch.zeros(1, 1))) == pytest.approx(0.9189 - 5, abs=1e-4)  # negative


def test_draws_of_a_mixture_have_its_moments():
    n = 200_000
    draw = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.2, 0.5, 0.3])
    raw = torch.stack([shares.log(), torch.tensor([-2, 0.5, 3]), torch.tensor([0.0, -1, 0.7])])
    of_dims = raw[:, None].expand(n, 3, 2, 3)  # two dimensions alike
    u, z = torch.rand(n, 2, generator=draw), torch.randn(n, 2, generator=draw)
    x = sampled(of_dims, u, z)[:, 1]
    w, m, s = shares, raw[1], raw[2].exp()
    first = (w * m).sum()  # .75
    second = (w * (s**2 + m**2)).sum()
    fourth = (w * (m**4 + 6 * m**2 * s**2 + 3 * s**4)).sum()
    assert abs(x.mean() - first) < 3 * ((second - first**2) / n) ** 0.5
    assert abs(x.square().mean() - second) < 3 * ((fourth - second**2) / n) ** 0.5
    picked = [float((sampled(of_dims, u, 0 * z)[:, 1] == v).float().mean()) for v in m]
    assert torch.allclose(means(of_dims[:1]), first)
    assert picked == pytest.approx([0.2, 0.5, 0.3], abs=3 * (0.25 / n) ** 0.5)


@torch.no_grad()
def test_an_lstm_step_by_hand():
    model = MDNRNN(1, 1, config("lstm", hidden=(1,), mixtures=1))
    # columns z, a, h; rows input, forget, output, candidate
    model.cell.weight.copy_(torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 2.0]]))
    model.cell.bias.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    z, a, h, c, mz, mh = 0.5, -0.25, 0.75, 1.5, 2.0, 0.5
    zm, hm = z * mz, h * mh
    i, f, o = (1 / (1 + math.exp(-x)) for x in (zm + 0.1, a + 0.2, hm + 0.3))
    want = f * c + i * math.tanh(zm + a + 2 * hm + 0.4)
    now = [torch.tensor([[x]]) for x in (z, a, h, c, mz, mh)]
    got = model.advance(now[0], now[1], (now[2], now[3]), (now[4], now[5]))
    assert float(got[1]) == pytest.approx(want, abs=1e-6)
    assert float(got[0]) == pytest.approx(o * math.tanh(want), abs=1e-6)


def test_a_gru_step_is_torchs():
    model = MDNRNN(3, 2, config("gru", hidden=(8,)))
    cell = torch.nn.GRUCell(5, 8)
    cell.weight_ih.data, cell.bias_ih.data = model.cell.weight.data, model.cell.bias.data
    cell.weight_hh.data, cell.bias_hh.data = model.recurrent.weight.data, model.recurrent.bias.data
    z, a, h = torch.randn(4, 3), torch.randn(4, 2), torch.randn(4, 8)
    assert torch.allclose(model.advance(z, a, (h,))[0], cell(torch.cat([z, a], 1), h), atol=1e-6)
    assert model.cell.bias[:8].abs().max() < 1  # no LSTM's forget gate


@recurrent
def test_nothing_after_the_end_reaches_a_loss(kind):
    model = build(2, 2, config(kind))
    model.scales.facts[0] = 1
    store = adding(length=5)
    batch, mask = store.sample_windows(64, 6, 2)
    assert not mask.all() and mask[:, 2:].any(1).all()
    far = ~mask

    def changed(x):
        return torch.where(far.view(*far.shape, *[1] * (x.dim() - 2)), 1e3, x)

    spoilt = batch.map(changed)._replace(terminated=batch.terminated)
    assert torch.equal(model.loss(batch, mask, ()), model.loss(spoilt, mask, ()))
    within = batch._replace(reward=batch.reward + 1)
    assert not torch.equal(model.loss(batch, mask, ()), model.loss(within, mask, ()))


@recurrent
def test_a_burn_in_sets_the_memory_and_is_not_learned_from(kind):
    model = build(2, 2, config(kind))
    batch, mask = adding().sample_windows(64, 6, 2)
    targets = batch._replace(reward=batch.reward.clone())
    targets.reward[:, :2] += 9
    assert torch.equal(model.loss(batch, mask, ()), model.loss(targets, mask, ()))
    seen = batch._replace(obs=batch.obs.clone())
    seen.obs[:, :2] += 9
    assert not torch.equal(model.loss(batch, mask, ()), model.loss(seen, mask, ()))


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_off_by_one_a_model_of_s_plus_a_reaches_its_floor_and_of_a_shifted_one_does_not(kind):
    steps, lr = (400, 3e-3) if kind == "mlp" else (150, 1e-2)

    def error(store):
        model = build(2, 2, config(kind, updates=steps, p_train=0.0, lr=lr))
        fitted(model, store)
        return float(one_step_mse(model, adding(seed=1).sample(500))[:2].max())

    right = adding(60)
    assert error(right) < (0.01 if kind == "mlp" else 0.06)
    late = adding(60)
    rows = late._rows.clone()
    actions = slice(2, 4)
    late._rows[1:, :, actions] = rows[:-1, :, actions]
    assert error(late) > 0.2  # actions have variance 1/3


@pytest.mark.parametrize(("layer_norm", "target"), [(False, "delta"), (True, "next")])
@every_kind
def test_every_model_learns(kind, layer_norm, target):
    lr = 3e-3 if kind in ("mlp", "ensemble") else 1e-2
    model = build(2, 2, config(kind, layer_norm=layer_norm, target=target, lr=lr))
    store = adding()
    fit = Fit(model)
    fit.begin(store)
    losses = []
    while not fit.done:
        losses.append(fit.fit_step(store))
    judged = {i + 1: m["held_out_loss"] for i, m in enumerate(losses) if "held_out_loss" in m}
    assert list(judged) == sorted({50, 100, *range(150, fit.total, 50), fit.total})
    assert fit.best_loss == min(judged.values())
    rows = adding(seed=1).sample(200)
    unexplained = one_step_mse(model, rows)[:2] / rows.next_obs.var(0)
    assert (unexplained < 0.1).all()


@pytest.mark.parametrize("kind", ["mlp", "ensemble"])
def test_the_scale_of_rewards_does_not_matter(kind):
    """Barkley & Fridovich-Keil 2025: z-scored apart, the reward's R^2 does not fall with it."""

    def r2(scale):
        model = build(2, 2, config(kind, updates=150))
        fitted(model, adding(scale=scale))
        return float(explained(model, adding(seed=1, scale=scale).sample(300))[2])

    plain = r2(1.0)
    assert plain > 0.3
    assert r2(1e-3) == pytest.approx(plain, abs=0.02)
    assert r2(1e3) == pytest.approx(plain, abs=0.02)


def test_a_model_learns_when_episodes_end():
    draw = torch.Generator().manual_seed(0)
    obs = 2 * torch.rand(2000, 1, generator=draw) - 1
    ends = (obs[:, 0] > 0.5).float()
    store = ReplayBuffer(Layout(1, 1), 2000)
    store.add(Transitions(obs, 0 * obs, 0 * ends, obs, ends, 1 - ends))
    model = build(1, 1, config(lr=1e-2))
    fitted(model, store)
    at = torch.tensor([[-0.5], [0.2], [0.8]])
    said = model.predict(at, 0 * at, (), (), None).terminated
    assert (said > 0.5).tolist() == [False, False, True]
    model.scales.facts[0] = 0  # as if nothing had ended in the data
    assert not model.predict(at, 0 * at, (), (), None).terminated.any()


@recurrent
def test_the_real_side_remembers_what_the_dream_does(kind):
    """D.3: a recorded sequence gives the same h on both sides, and twice the same actions."""
    model = build(2, 2, config(kind), seed=4)
    model.scales.facts[1] = 50
    network = TanhNetwork(2 + 16, 2)
    policy = Featured(ControllerPolicy(network, torch.randn(network.size)), model)
    starts = Starts(torch.zeros(1, 2), model.initial_state(1))
    env = DreamEnv(model, starts, 3, DreamConfig(scope="episode", p=0.0, features=True, clip=False))
    seen, memory = env.reset(), policy.initial_state(3)
    assert env.obs_dim == 18
    for _ in range(20):
        obs = seen[:, :2]
        assert torch.equal(seen[:, 2:], memory[0])
        first, _ = policy.act(obs, memory)
        assert torch.equal(first, network.act(policy.policy._bound, seen))
        action, memory = policy.act(obs, memory)
        assert torch.equal(first, action)
        seen = env.step(action).obs
    assert float(memory[0].abs().max()) > 0.01


def test_noise_is_matched_to_the_masks_error():
    model = build(2, 2, config(hidden=(64, 64)))
    store = adding()
    fitted(model, store)
    rows = store.sample(2000)
    sigma = matched_noise(model, rows, 0.1)
    assert (sigma > 0).all()
    draw = torch.Generator().manual_seed(1)
    said = model.predict(rows.obs, rows.action, (), (), None)
    noise = torch.randn(2000, 3, generator=draw) * sigma
    error = torch.cat([said.next_obs - rows.next_obs, (said.reward - rows.reward)[:, None]], 1)
    masked = torch.stack([
        one_step_mse(
            model, rows, dropout.parts(dropout.trained((2000, 130), 0.1, draw), (2, 64, 64))
        )
        for _ in range(20)
    ]).mean(0)  # fmt: skip
    assert torch.allclose((error + noise).square().mean(0), masked, rtol=0.1)


def test_an_ensembles_disagreement_and_its_limit():
    model = build(2, 2, config("ensemble", members=2))

    def forward(obs, action):
        x = obs[:, 0]
        mean = torch.stack([x, x, 0 * x], 1)
        return torch.stack([0 * mean, mean]), torch.zeros(2, len(x), 3)

    model.net.forward = forward
    obs = torch.tensor([[0.0, 0], [3.0, 0], [6.0, 0]])
    # variance over {0, x} is x^2/4, of three columns two: sqrt(x^2/6)
    want = torch.tensor([0, 3, 6]) / 6**0.5
    assert torch.allclose(model.disagreement(obs, obs), want)
    rows = SimpleNamespace(obs=obs, action=obs)
    assert disagreement_limit(model, rows) == pytest.approx(6 / 6**0.5)
    assert disagreement_limit(model, rows, 0.5) == pytest.approx(3 / 6**0.5)


def test_a_member_is_what_a_world_holds():
    model = build(2, 2, config("ensemble", members=3), seed=1)
    obs, action, who = torch.randn(6, 2), torch.randn(6, 2), torch.tensor([0, 1, 2, 2, 1, 0])
    said = model.predict(obs, action, (), (who,), None)
    mean, _ = model.net(obs, action)
    assert torch.allclose(said.next_obs, obs + mean[who, torch.arange(6), :2])
    assert torch.allclose(said.reward, mean[who, torch.arange(6), 2])
    assert torch.allclose(
        model.predict(obs, action, (), (), None).reward, mean[..., 2].mean(0), atol=1e-6
    )


def test_one_network_is_no_ensemble():
    """Nothing would be drawn, and nothing disagree; a misspelt choice is told where it is made."""
    with pytest.raises(ValueError, match=r"members must be in \[2, 1000\], got 1"):
        ModelConfig(kind="ensemble", members=1).check()
    with pytest.raises(ValueError, match=r"DreamConfig: end must be one of .*'rule'.*, got 'rul'"):
        DreamConfig(end="rul").check()
