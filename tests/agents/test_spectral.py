"""Spectral norm of dynamics models: as torch's on one member, and as wide as it says."""

import copy

import torch
from torch.nn.utils.parametrizations import spectral_norm

from reverie.agents.dynamics import DynamicsConfig, DynamicsEnsemble
from reverie.agents.spectral import SpectralNorm
from reverie.buffers import Card, Dataset, Transitions

SMALL = DynamicsConfig(members=2, hidden=(6, 5), steps=4, batch_size=8, spectral=True)


def data():
    g = torch.Generator().manual_seed(0)
    obs, action = torch.randn(40, 3, generator=g), torch.rand(40, 1, generator=g)
    flags = torch.zeros(40), torch.ones(40)
    return Dataset.of(Transitions(obs, action, obs[:, 0], 2 * obs, *flags), Card(env="none"))


def test_a_state_from_before_the_first_step_has_no_moments():
    def two_steps(model):
        rows = data()
        for _ in range(2):
            model.fit_step(rows, rows.all)

    begun, fresh = (DynamicsEnsemble(3, 1, SMALL, seed=s) for s in (0, 1))
    saved = copy.deepcopy(fresh.state_dict())
    two_steps(begun)
    begun.load_state_dict(saved)
    two_steps(begun)
    two_steps(fresh)
    for a, b in zip(begun.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b)


def largest(weight):
    return torch.linalg.matrix_norm(weight, ord=2)


def test_values_and_gradients_are_torchs():
    weight = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    norm = SpectralNorm([weight], torch.Generator().manual_seed(2))
    norm.improve([weight], 200)
    out = norm(0, weight)
    torch.testing.assert_close(largest(out.detach()), torch.ones(3))
    (out**3).sum().backward()
    for member in range(3):
        layer = torch.nn.Linear(5, 4)
        with torch.no_grad():
            layer.weight.copy_(weight[member])
        layer = spectral_norm(layer, n_power_iterations=200)
        theirs = layer.weight
        torch.testing.assert_close(theirs, out[member])
        (theirs**3).sum().backward()
        raw = layer.parametrizations.weight.original.grad
        torch.testing.assert_close(raw, weight.grad[member], rtol=1e-3, atol=1e-4)


def test_all_layers_are_divided_but_what_gives_the_log_standard_deviations(monkeypatch):
    model, seen = DynamicsEnsemble(3, 1, SMALL, seed=0), []
    model.spectral.improve(model._bounded(), 200)
    real = torch.baddbmm
    monkeypatch.setattr(torch, "baddbmm", lambda b, x, w: (seen.append(w), real(b, x, w))[1])
    mean, log_std = model(torch.randn(7, 3), torch.rand(7, 1))
    assert mean.shape == log_std.shape == (2, 7, 4) and len(seen) == 3
    for weight in (seen[0], seen[1], seen[2][..., :4]):
        torch.testing.assert_close(largest(weight.detach()), torch.ones(2))
    assert torch.equal(seen[2][..., 4:], model.head.weight[..., 4:])
    plain = DynamicsEnsemble(3, 1, DynamicsConfig(members=2, hidden=(6, 5)), seed=0)
    assert torch.equal(plain.head.weight, model.head.weight)  # one seed, one draw
    assert not any("spectral" in name for name in plain.state_dict())


def test_each_step_betters_the_estimate_and_a_saved_fit_goes_on():
    rows, model = data(), DynamicsEnsemble(3, 1, SMALL, seed=0)
    before = model.spectral.u0.clone()
    for _ in range(3):
        model.fit_step(rows, rows.all)
    assert not torch.equal(model.spectral.u0, before)
    state, draws = copy.deepcopy(model.state_dict()), rows.generator.get_state()
    want = [model.fit_step(rows, rows.all) for _ in range(3)]
    other = DynamicsEnsemble(3, 1, SMALL, seed=5)
    other.load_state_dict(state)
    rows.generator.set_state(draws)
    assert [float(other.fit_step(rows, rows.all)) for _ in range(3)] == [float(x) for x in want]
