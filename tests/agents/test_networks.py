"""Actors and critic ensembles against torch's own modules and distributions."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution
from torch.nn import functional as F

from reverie.agents.networks import (
    Critic,
    DeterministicActor,
    GaussianActor,
    frozen,
    initialise,
)
from reverie.agents.norms import EnsembleNorm
from reverie.agents.training import flatten

OBS, ACT, HIDDEN, MEMBERS, BATCH = 5, 2, (8, 6), 3, 16


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed))


def make_critic(norm="none", dropout=0.0, members=MEMBERS):
    critic = Critic(OBS, ACT, HIDDEN, members, norm, dropout)
    initialise(critic, generator())
    for i, m in enumerate(critic.norms):  # off their identities, so that mixing them up shows
        for j, t in enumerate([*m.parameters(), *m.buffers()]):
            with torch.no_grad():
                t.add_(0.5 * randn(*t.shape, seed=10 * i + j).abs())
    return critic


def make_actor(cls, act_dim=ACT):
    actor = cls(OBS, act_dim, HIDDEN)
    initialise(actor, generator())
    return actor


def constant_actor(mean, log_std):
    """A Gaussian actor with the same mean and log standard deviation everywhere."""
    actor = make_actor(GaussianActor, len(mean))
    with torch.no_grad():
        actor.net[-1].weight.zero_()
        actor.net[-1].bias.copy_(torch.tensor([*mean, *log_std]))
    return actor


# --- actors


def test_gaussian_log_prob_equals_the_transformed_distribution():
    actor = make_actor(GaussianActor)
    obs, noise = randn(512, OBS), randn(512, ACT, seed=1)
    with torch.no_grad():
        action, log_prob = actor.sample(obs, noise)
        mean, log_std = (x.double() for x in actor(obs))
    raw = mean + log_std.exp() * noise.double()
    reference = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform())
    expected = reference.log_prob(raw.tanh()).sum(-1)
    assert raw.abs().max() > 3
    torch.testing.assert_close(action.double(), raw.tanh(), rtol=0, atol=1e-6)
    torch.testing.assert_close(log_prob.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mean", [12.0, -12.0, 90.0, -90.0, 1e4, -1e4])
@pytest.mark.parametrize("log_std", [-19.0, 0.0, 2.0])
def test_gaussian_log_prob_of_saturated_actions_is_exact(mean, log_std):
    actor = constant_actor([mean, 0.3], [log_std, -1.0])
    noise = randn(64, 2)
    action, log_prob = actor.sample(torch.zeros(64, OBS), noise)
    loc, scale = torch.tensor([mean, 0.3]).double(), torch.tensor([log_std, -1.0]).double().exp()
    raw = loc + scale * noise.double()
    # log(1 - tanh(x)^2) = -2 log cosh x, and the Gaussian's density through its own noise
    squash = -2 * (torch.logaddexp(raw, -raw) - math.log(2))
    expected = Normal(0.0, 1.0).log_prob(noise.double()) - scale.log() - squash
    torch.testing.assert_close(log_prob.double(), expected.sum(-1), rtol=1e-6, atol=1e-4)
    log_prob.sum().backward()
    assert all(p.grad.isfinite().all() for p in actor.parameters())
    assert action.abs().max() <= 1


def test_gaussian_mean_and_log_std_come_packed_and_clamped():
    actor = constant_actor([0.5, -2.0, 7.0], [-50.0, 50.0, 1.0])
    mean, log_std = actor(randn(4, OBS))
    assert mean[0].tolist() == [0.5, -2.0, 7.0]
    assert log_std[0].tolist() == [-20.0, 2.0, 1.0]
    torch.testing.assert_close(actor.mode(randn(4, OBS)), mean.tanh())


def test_deterministic_actor_is_a_squashed_mlp():
    actor = make_actor(DeterministicActor)
    x = obs = randn(BATCH, OBS)
    for layer in (actor.net[0], actor.net[2]):
        x = (x @ layer.weight.T + layer.bias).clamp(min=0)
    expected = (x @ actor.net[4].weight.T + actor.net[4].bias).tanh()
    torch.testing.assert_close(actor(obs), expected)
    assert torch.equal(actor.mode(obs), actor(obs))


# --- critic ensembles


def separate(critic, e):
    """Member e as a plain torch network: linear layers and norms, in order."""
    linears, norms = [], []
    for layer in critic.layers:
        linear = nn.Linear(*layer.weight.shape[1:])
        linear.weight.data, linear.bias.data = layer.weight[e].T, layer.bias[e, 0]
        linears.append(linear)
    for norm in critic.norms:
        width = norm.scale.shape[-1]
        torch_norm = nn.LayerNorm(width) if norm.kind == "layer" else nn.BatchNorm1d(width)
        torch_norm.weight.data, torch_norm.bias.data = norm.scale[e, 0], norm.shift[e, 0]
        if norm.kind == "batch":
            torch_norm.running_mean.copy_(norm.mean[e, 0])
            torch_norm.running_var.copy_(norm.var[e, 0])
        norms.append(torch_norm)
    return linears, norms


def run_separate(critic, e, x, masks, learn):
    linears, norms = separate(critic, e)
    for norm in norms:
        norm.train(learn)
    if len(norms) > len(linears):
        x = norms.pop(0)(x)
    for i, linear in enumerate(linears):
        x = linear(x)
        if masks:
            x = x * masks[i][e]
        x = F.relu(norms[i](x) if norms else x)
    return F.linear(x, critic.head.weight[e], critic.head.bias[e])[:, 0]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize(
    ("norm", "learn"), [("none", False), ("layer", False), ("batch", False), ("batch", True)]
)
def test_ensemble_equals_separate_networks(norm, learn, dropout):
    critic = make_critic(norm, dropout)
    obs, action = randn(BATCH, OBS), randn(BATCH, ACT, seed=1)
    masks = critic.masks(BATCH, generator())
    assert len(masks) == (len(HIDDEN) if dropout else 0)
    x = torch.cat([obs, action], -1)
    expected = torch.stack(
        [run_separate(critic, e, x, masks, learn) for e in range(MEMBERS)]
    ).detach()
    values = critic(obs, action, masks, learn=learn)
    assert values.shape == (MEMBERS, BATCH)
    torch.testing.assert_close(values, expected, rtol=0, atol=2e-6)
    assert (expected[0] - expected[1]).abs().max() > 0.01


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
def test_first_is_row_zero(norm):
    critic = make_critic(norm)
    obs, action = randn(BATCH, OBS), randn(BATCH, ACT, seed=1)
    first, row = critic.first(obs, action), critic(obs, action)[0]
    torch.testing.assert_close(first, row)
    one, all_of_them = (torch.autograd.grad(v.sum(), critic.head.weight)[0] for v in (first, row))
    torch.testing.assert_close(one, all_of_them)


def test_layer_norm_needs_no_statistics():
    norm = EnsembleNorm("layer", MEMBERS, 6)
    x = 3 * randn(MEMBERS, BATCH, 6) + 1
    torch.testing.assert_close(norm(x, True), nn.LayerNorm(6)(x))
    assert torch.equal(norm(x, True), norm(x, False)) and not list(norm.buffers())


def test_batch_norm_keeps_running_statistics_when_it_learns():
    ours = EnsembleNorm("batch", 2, 4, momentum=0.1)
    theirs = [nn.BatchNorm1d(4, momentum=0.1) for _ in range(2)]
    mean, var = torch.zeros(2, 1, 4), torch.ones(2, 1, 4)
    for i in range(5):
        x = randn(2, BATCH, 4, seed=i) * (1 + i) + i
        expected = torch.stack([m(x[e]) for e, m in enumerate(theirs)])
        torch.testing.assert_close(ours(x, True), expected)
        mean = 0.9 * mean + 0.1 * x.mean(1, keepdim=True)
        var = 0.9 * var + 0.1 * x.var(1, keepdim=True, correction=0)  # torch keeps the unbiased one
    torch.testing.assert_close(ours.mean, mean)
    torch.testing.assert_close(ours.var, var)
    torch.testing.assert_close(ours.mean[:, 0], torch.stack([m.running_mean for m in theirs]))
    before = copy.deepcopy(ours.state_dict())
    y = ours(x, False)
    torch.testing.assert_close(y, (x - mean) / (var + 1e-5).sqrt())
    for key, value in ours.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_batch_norm_sends_gradients_through_the_batch_statistics():
    x = randn(1, BATCH, 4, seed=1).requires_grad_()
    weight = randn(1, BATCH, 4, seed=2)
    (ours,) = torch.autograd.grad((EnsembleNorm("batch", 1, 4)(x, True) * weight).sum(), x)
    (theirs,) = torch.autograd.grad((nn.BatchNorm1d(4)(x[0]) * weight[0]).sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_dropout_masks_are_scaled_and_seeded():
    critic = make_critic("layer", dropout=0.25)
    masks = critic.masks(4000, generator(3))
    assert [m.shape for m in masks] == [(MEMBERS, 4000, h) for h in HIDDEN]
    for mask in masks:
        kept = mask > 0
        torch.testing.assert_close(mask[kept], torch.full_like(mask[kept], 4 / 3))
        assert abs(mask.mean().item() - 1) < 0.02
        assert not torch.equal(mask[0], mask[1])
    again = critic.masks(4000, generator(3))
    assert all(torch.equal(a, b) for a, b in zip(masks, again, strict=True))
    assert not torch.equal(masks[0], critic.masks(4000, generator(4))[0])
    assert make_critic().masks(4000, generator()) == ()


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [({"norm": "spectral"}, "layer.*spectral"), ({"dropout": 1.0}, "dropout.*1.0")],
)
def test_bad_critics_say_what_is_wrong(kwargs, words):
    with pytest.raises(ValueError, match=words):
        Critic(OBS, ACT, HIDDEN, **kwargs)


# --- freezing and initial weights


def test_frozen_passes_gradients_through_and_leaves_none():
    actor, critic = make_actor(DeterministicActor), make_critic()
    flat = flatten(critic)
    parameters = list(critic.parameters())
    obs = randn(BATCH, OBS)
    with frozen(parameters):
        assert not any(p.requires_grad for p in parameters)
        critic(obs, actor(obs)).mean().backward()
    assert all(p.requires_grad for p in parameters)
    assert not flat.grad.any()
    assert all(p.grad.any() for p in actor.parameters())
    with pytest.raises(RuntimeError, match="inside"), frozen(parameters):
        raise RuntimeError("inside")
    assert all(p.requires_grad for p in parameters)


def test_initial_weights_are_torchs_default_from_the_given_generator():
    def draw(seed):
        critic, actor = Critic(30, 10, (200, 100), 2), GaussianActor(40, 3, (200, 100))
        g = generator(seed)
        initialise(critic, g)
        initialise(actor, g)
        return [*critic.parameters(), *actor.parameters()]

    torch.manual_seed(0)
    first = draw(7)
    torch.manual_seed(1)
    second = draw(7)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, draw(8), strict=True))
    assert not torch.equal(first[0][0], first[0][1])  # members differ
    critic = Critic(30, 10, (200, 100), 2)
    state = torch.get_rng_state()
    initialise(critic, generator())
    assert torch.equal(torch.get_rng_state(), state)
    for parameter, fan_in in [(critic.layers[1].weight, 200), (critic.layers[0].weight, 40)]:
        bound = 1 / math.sqrt(fan_in)
        assert 0.99 * bound < parameter.abs().max().item() <= bound
        assert abs(parameter.std().item() - bound / math.sqrt(3)) < 0.02 * bound
    for parameter, fan_in in [(critic.head.weight, 100), (critic.layers[0].bias, 40)]:
        assert 0.9 < parameter.abs().max().item() * math.sqrt(fan_in) <= 1
