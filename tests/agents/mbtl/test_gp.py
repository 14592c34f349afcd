"""The Gaussian process: values by hand, gradients, scikit-learn's."""

import math

import numpy as np
import pytest
import torch

from reverie.agents.mbtl import gp
from reverie.agents.mbtl.pairs import PairHyper, covariances, fit

X = torch.tensor([[0.0, 1.0], [1.0, 0.5], [3.0, 2.0], [4.0, 0.0]], dtype=torch.float64)
Y = torch.tensor([0.3, 0.9, -0.4, 0.2], dtype=torch.float64)
H = gp.Hyper(0.7, 1.3, 0.05, 0.1, 0.2)


def test_one_value_by_hand():
    """K = 2 + 1 = 3: likelihood of 1.5 at variance 3; at the place itself the mean is 2/3 of it."""
    x, y = torch.zeros(1, 1).double(), torch.tensor([1.5]).double()
    h = gp.Hyper(2.0, 1.0, 1.0)
    value, _ = gp.likelihood(x, y, h)
    assert value == pytest.approx(-0.5 * (1.5**2 / 3 + math.log(3) + math.log(2 * math.pi)))
    mean, sd = gp.posterior(x, y, torch.tensor([[0.0], [1.0]]).double(), h)
    c = 2 * math.exp(-0.5)
    assert mean.tolist() == pytest.approx([1.0, 1.5 * c / 3])
    assert sd.tolist() == pytest.approx([math.sqrt(2 - 4 / 3), math.sqrt(2 - c * c / 3)])


def test_the_gradient_is_that_of_differences():
    _, gradient = gp.likelihood(X, Y, H)
    for name in gp.Hyper._fields:
        up, down = (H._replace(**{name: getattr(H, name) + e}) for e in (1e-6, -1e-6))
        slope = (gp.likelihood(X, Y, up)[0] - gp.likelihood(X, Y, down)[0]) / 2e-6
        assert getattr(gradient, name) == pytest.approx(slope, rel=1e-5), name


def test_a_linear_trend_goes_on_where_there_is_no_data():
    x = torch.tensor([[0.0], [1.0], [2.0]]).double()
    h = gp.Hyper(1e-9, 1.0, 1e-8, 0.0, 100.0)
    mean, sd = gp.posterior(x, 3 * x[:, 0], torch.tensor([[10.0]]).double(), h)
    assert mean.item() == pytest.approx(30, rel=1e-4) and sd.item() < 0.1


def test_the_search_finds_what_scikit_learn_finds():
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF
    from sklearn.gaussian_process.kernels import ConstantKernel as C

    kernel = C(1.0, (1e-3, 1e3)) * RBF(1.0, (1e-2, 1e2))
    theirs = GaussianProcessRegressor(kernel, alpha=0.01, n_restarts_optimizer=5, random_state=0)
    theirs.fit(X.numpy(), Y.numpy())
    box = {"scale": (1e-3, 1e3), "length": (1e-2, 1e2)}
    ours = gp.by_search(X, Y, [gp.Hyper(noise=0.01)], box, restarts=5)
    assert ours.noise == 0.01 and ours.mean == 0
    assert gp.likelihood(X, Y, ours)[0] == pytest.approx(
        theirs.log_marginal_likelihood_value_, abs=1e-5
    )
    mean, sd = gp.posterior(X, Y, X + 0.3, ours)
    want = theirs.predict(X.numpy() + 0.3, return_std=True)
    assert np.allclose(mean, want[0], atol=1e-3) and np.allclose(sd, want[1], atol=1e-3)


def test_a_prior_holds_what_data_does_not_tell():
    box = {"length": (1e-2, 1e2)}
    h = gp.by_search(X[:1], Y[:1], [gp.Hyper()], box, prior={"length": (0.5, 0.7)})
    assert h.length == pytest.approx(0.5, rel=1e-3)
    assert gp.by_search(X[:1], Y[:1], [gp.Hyper()], box, restarts=3).length == pytest.approx(1)


def test_adam_ascends_from_where_it_was_and_stops():
    raw = gp.by_adam(X, Y, [0.0] * 4)
    before, after = (gp.likelihood(X, Y, gp.softplus(r))[0] for r in ([0.0] * 4, raw))
    assert after > before + 0.5
    again = gp.by_adam(X, Y, raw)
    assert gp.likelihood(X, Y, gp.softplus(again))[0] >= after - 0.01
    one = gp.by_adam(X, Y, [0.0] * 4, steps=1)  # Adam's first step is its rate, whatever the slope
    assert np.abs(one) == pytest.approx([0.1] * 4, rel=1e-4)
    zero = gp.softplus([0.0, 0.0, 0.0, 2.0])
    assert zero == pytest.approx((math.log(2), math.log(2), math.log(2) + 1e-4, 2.0, 0.0))


def test_a_process_of_pairs_is_the_dense_one():
    """Kronecker against the covariance of all pairs written out."""
    torch.manual_seed(0)
    x, y = torch.rand(3, 2).double(), torch.rand(5, 2).double()
    values, at = torch.randn(3, 5).double(), torch.rand(4, 2).double()
    process = fit(x, y, values)
    h = process.h
    assert isinstance(h, PairHyper)
    inner = covariances(y, y, h.target, h.row)
    dense = h.scale * torch.kron(covariances(x, x, h.source, h.column), inner)
    cross = h.scale * torch.kron(covariances(at, x, h.source, h.column), inner)
    solve = torch.linalg.inv(dense + h.noise * torch.eye(15).double())
    mean = (cross @ solve @ values.flatten()).reshape(4, 5)
    prior = h.scale * (1 + h.column) * (1 + h.row) + h.noise
    sd = (prior - (cross @ solve * cross).sum(1)).sqrt().reshape(4, 5)
    got = process.at(at, x, y)
    assert torch.allclose(got[0], mean, atol=1e-8) and torch.allclose(got[1], sd, atol=1e-8)
