"""The diffusion's constants, grid, loss and average, from the sheet's numbers and by hand."""

import math

import pytest
import torch

from reverie.agents.networks import initialise
from reverie.agents.synther import edm
from reverie.agents.synther.config import FAITHFUL
from reverie.agents.synther.denoiser import Denoiser


def zero(x, c_noise):
    return torch.zeros_like(x)


@pytest.mark.parametrize(
    ("dim", "noise_width", "width", "parameters"),
    [(41, 256, 1024, 6_683_945), (42, 128, 1024, 6_497_066), (42, 128, 2048, 25_552_682)],
)
def test_parameters_of_the_published_networks(dim, noise_width, width, parameters):
    with torch.device("meta"):
        net = Denoiser(dim, width, 6, noise_width)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert (FAITHFUL.width, FAITHFUL.depth, FAITHFUL.noise_width) == (1024, 6, 256)


@pytest.mark.parametrize(
    ("sigma", "wanted", "weight"),
    [
        (0.5, (0.8, 0.447214, 0.894427, -0.173287), 5.0),
        (1.0, (0.5, 0.707107, 0.707107, 0.0), 2.0),
        (80.0, (1.56226e-4, 0.999922, 0.0124990, 1.095507), 1.000156),
    ],
)
def test_preconditioning(sigma, wanted, weight):
    s = torch.tensor(sigma, dtype=torch.float64)
    assert [float(c) for c in edm.coefficients(s)] == pytest.approx(wanted, rel=1e-5, abs=1e-9)
    assert float(edm.weight(s)) == pytest.approx(weight, rel=1e-6)
    assert float(edm.weight(s) * edm.coefficients(s)[1] ** 2) == pytest.approx(1)


def test_the_denoiser_is_skip_and_network():
    """At sigma 0.5: 0.8 * 2 + 0.447214 * F, F = c_in * 2 + c_noise."""
    x, sigma = torch.tensor([[2.0]]), torch.tensor([0.5])
    out = edm.denoise(lambda x, c: x + c[:, None], x, sigma)
    assert float(out) == pytest.approx(1.6 + 0.447214 * (1.788854 - 0.173287), rel=1e-5)
    one = edm.denoise(lambda x, c: x + c, x, torch.tensor(0.5))  # one level for all rows
    assert torch.equal(one, out)


def test_the_embedding_of_a_noise_level():
    """[c, sin(2 pi c f), cos(2 pi c f)]: at c = 1/4 and f = 1, [1/4, 1 x 8, 0 x 8]."""
    net = Denoiser(3, 16, 1, 16)
    initialise(net, torch.Generator().manual_seed(0))
    net.frequencies.fill_(1.0)
    seen = []
    net.noise_mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    batch = net(torch.zeros(2, 3), torch.tensor([0.25, 0.5]))
    assert seen[0].shape == (2, 17) and seen[0][0].tolist() == pytest.approx(
        [0.25, *[1.0] * 8, *[0.0] * 8], abs=1e-6
    )
    one = net(torch.zeros(2, 3), torch.tensor(0.25))
    assert torch.allclose(one[0], batch[0]) and not torch.allclose(one[1], batch[1])


def test_a_residual_block_by_hand():
    """h = 1 (x, then first): block 1 + 3 relu(1) = 4; last 2 relu(4) = 8; all noise weights 0."""
    net = Denoiser(1, 1, 1, 1)
    for p in net.parameters():
        torch.nn.init.zeros_(p)
    for layer, w in ((net.proj, 1.0), (net.first, 1.0), (net.blocks[0], 3.0), (net.last, 2.0)):
        torch.nn.init.constant_(layer.weight, w)
    assert net(torch.ones(1, 1), torch.zeros(1)).item() == 8
    assert net(-torch.ones(1, 1), torch.zeros(1)).item() == 0  # h = -1: no relu before the blocks


def test_training_noise_is_log_normal():
    sigma = edm.noise_levels(100_000, torch.Generator().manual_seed(0))
    assert float(sigma.log().mean()) == pytest.approx(-1.2, abs=0.02)
    assert float(sigma.log().std()) == pytest.approx(1.2, abs=0.02)
    assert float((sigma > 10).float().mean()) == pytest.approx(0.0018, abs=5e-4)


def test_grid_and_churn():
    sigmas = edm.grid(128)
    assert len(sigmas) == 129 and float(sigmas[128]) == 0
    wanted = [80.0, 76.6237, 0.002]
    assert [float(sigmas[i]) for i in (0, 1, 127)] == pytest.approx(wanted, rel=1e-5)
    gammas = edm.churn(sigmas)
    assert len(gammas) == 128 and int((gammas > 0).sum()) == 96
    assert gammas[gammas > 0].tolist() == pytest.approx([math.sqrt(2) - 1] * 96)
    assert float(edm.churn(edm.grid(256)).max()) == pytest.approx(80 / 256)


def test_the_loss_of_a_network_that_returns_nothing_is_one():
    draws = torch.Generator().manual_seed(1)
    x, noise = (torch.randn(100_000, 10, generator=draws) for _ in range(2))
    sigma = edm.noise_levels(100_000, draws)
    assert float(edm.errors(zero, x, sigma, noise).mean()) == pytest.approx(1, abs=0.005)


def test_the_loss_by_hand():
    """sigma 1, x = 1, noise 1, F = 0: D = (1 + 1) / 2 = 1 = x; with x = 3: D = 2, error 2 * 1."""
    x, sigma = torch.tensor([[1.0], [3.0]]), torch.ones(2)
    assert edm.errors(zero, x, sigma, torch.ones(2, 1)).tolist() == [0.0, 2.0]


def test_the_average_copies_first_and_then_keeps_more_and_more():
    assert edm.ema_decay(0) is None and edm.ema_decay(100) is None
    assert edm.ema_decay(110) == pytest.approx(0.798, abs=5e-4)
    assert edm.ema_decay(2920) < 0.995 == edm.ema_decay(2930)
