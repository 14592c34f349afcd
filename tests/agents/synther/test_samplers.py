"""Samplers on a mixture whose denoiser is known exactly, and their calls by hand."""

import math

import pytest
import torch

from reverie.agents.synther.edm import coefficients
from reverie.agents.synther.samplers import SAMPLERS, dpm, heun, sde

COMPONENTS, THIN, WIDE, RARE = 12, 0.02, 0.3, 0.02


class Mixture:
    """12 Gaussians in 8 dimensions, 4 of which are 0.02 wide, and a ninth that is 0 or 1 (2 %).

    As a network it returns F of the exact denoiser, and counts its calls.
    """

    def __init__(self):
        draws = torch.Generator().manual_seed(0)
        centres = torch.randn(COMPONENTS, 8, generator=draws, dtype=torch.float64)
        self.width = torch.tensor([THIN] * 4 + [WIDE] * 4 + [0.0], dtype=torch.float64)
        centres = (centres - centres.mean(0)) / centres.std(0, correction=0)
        centres *= (1 - self.width[:8].square()).sqrt()  # mean 0 and variance 1, as features have
        ends = torch.tensor([0.0, 1.0]).double().repeat_interleave(COMPONENTS)[:, None]
        self.mean = torch.cat([centres.repeat(2, 1), ends], 1)  # [24, 9]
        share = torch.tensor([1 - RARE, RARE], dtype=torch.float64) / COMPONENTS
        self.share = share.repeat_interleave(COMPONENTS)
        self.calls = 0

    def draw(self, n, draws):
        which = torch.multinomial(self.share, n, replacement=True, generator=draws)
        noise = torch.randn(n, 9, generator=draws, dtype=torch.float64)
        return (self.mean[which] + self.width * noise).float()

    def __call__(self, x, c_noise):
        self.calls += 1
        sigma = (4 * c_noise.double()).exp()
        c_skip, c_out, c_in, _ = coefficients(sigma)
        x = x.double() / c_in
        var = self.width.square()
        total = var + sigma.square()
        far = (x.square() / total).sum(1, keepdim=True) - 2 * x @ (self.mean / total).T
        far = far + (self.mean.square() / total).sum(1)
        of = torch.softmax(self.share.log() - far / 2, 1)  # [n, 24]
        clean = of @ self.mean * (sigma.square() / total) + x * (var / total)
        return ((clean - c_skip * x) / c_out).float()

    def thin(self, x):
        """Spread of samples about their component, in units of the true one."""
        near = torch.cdist(x.double(), self.mean).argmin(1)
        return float((x - self.mean[near])[:, :4].std()) / THIN


def sliced(a, b):
    """Sliced Wasserstein-1 distance of two samples of one size, over 64 directions."""
    directions = torch.randn(a.shape[1], 64, generator=torch.Generator().manual_seed(5))
    directions /= directions.norm(dim=0)
    return float(((a @ directions).sort(0).values - (b @ directions).sort(0).values).abs().mean())


@pytest.fixture(scope="module")
def truth():
    mixture, draws = Mixture(), torch.Generator().manual_seed(1)
    return mixture, mixture.draw(10_000, draws), mixture.draw(10_000, draws)


@pytest.mark.parametrize(
    ("sampler", "levels", "sigma_max", "calls"),
    [(heun, 128, 80.0, 255), (dpm, 20, 10.0, 20), (dpm, 16, 10.0, 16), (sde, 32, 10.0, 32)],
)
def test_samples_of_an_exact_denoiser_are_those_of_its_data(
    truth, sampler, levels, sigma_max, calls
):
    mixture, real, again = truth
    mixture.calls = 0
    x = sampler(mixture, (10_000, 9), torch.Generator().manual_seed(2), levels, sigma_max)
    assert mixture.calls == calls
    assert sliced(x, real) < 2 * sliced(again, real)
    assert 0.97 < mixture.thin(x) < 1.03 and mixture.thin(real) == pytest.approx(1, abs=0.01)
    assert ((x[:, 8] - 0.5).abs() - 0.5).abs().max() < 1e-5  # all decided
    assert float(x[:, 8].mean()) == pytest.approx(RARE, abs=0.005)


@pytest.mark.parametrize("sampler", [heun, dpm, sde])
def test_sampling_begins_and_ends_where_it_is_told(sampler):
    levels = []

    def network(x, c_noise):
        levels.append(float((4 * c_noise).exp()))
        return torch.zeros_like(x)

    x = sampler(network, (4, 2), torch.Generator().manual_seed(0), 16, 10.0, 0.2)
    assert min(levels) == pytest.approx(0.2, rel=1e-5)
    raised = 1.0 if sampler is not heun else 2**0.5  # its first step is from a raised level
    assert levels[0] == pytest.approx(10 * raised, rel=1e-5) and bool(x.isfinite().all())


def nothing(x, c_noise):
    return torch.zeros_like(x)


def test_two_levels_of_the_stochastic_sampler_by_hand():
    """From 1 to .002 to 0 with F = 0, so D(x; s) = x / (s^2 + 1).

    The first level is raised to sqrt 2 by 1.003 of noise, so D = x / 3; the last step gives D.
    """
    draws = torch.Generator().manual_seed(3)
    z0, z1 = (torch.randn(5, 2, generator=draws) for _ in range(2))
    noisy, raised = z0 + 1.003 * z1, 2**0.5
    slope = 2 / 3 * noisy / raised
    x = noisy + (0.002 - raised) * slope
    corrected = (x - x / 1.000004) / 0.002
    x = (noisy + (0.002 - raised) * (slope + corrected) / 2) / 1.000004
    out = heun(nothing, (5, 2), torch.Generator().manual_seed(3), levels=2, sigma_max=1.0)
    assert torch.allclose(out, x, atol=1e-4)


def test_two_levels_of_the_fast_sampler_by_hand():
    """From 10 to .002 to 0 with F = 0: begins at sqrt(101), .0002 of it stay, D is the rest."""
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(3)) * 101**0.5
    wanted = (0.0002 * x + 0.9998 * x / 101) / 1.000004
    out = dpm(nothing, (5, 2), torch.Generator().manual_seed(3), levels=2)
    assert torch.allclose(out, wanted, atol=1e-6)


def test_two_levels_of_the_fast_sampler_with_noise_by_hand():
    """As above, with e^-h = .0002: .0002^2 of x stay, and .002 of new noise comes."""
    draws = torch.Generator().manual_seed(3)
    x, z = torch.randn(5, 2, generator=draws) * 101**0.5, torch.randn(5, 2, generator=draws)
    wanted = (4e-8 * x + (1 - 4e-8) * x / 101 + 0.002 * z) / 1.000004
    out = sde(nothing, (5, 2), torch.Generator().manual_seed(3), levels=2)
    assert torch.allclose(out, wanted, atol=1e-6)
    assert SAMPLERS["sde"] is sde


def test_the_network_is_given_scaled_features_and_the_level():
    """c_in x at the first level has variance 1, c_noise is ln(10) / 4 = .5756."""
    for sampler, first in ((dpm, 10.0), (heun, 10.0 * 2**0.5)):
        seen = []
        sampler(
            lambda x, c, seen=seen: seen.append((x, c)) or torch.zeros_like(x),
            (20_000, 2),
            torch.Generator().manual_seed(4),
            levels=4,
            sigma_max=10.0,
        )
        x, c = seen[0]
        assert float(c) == pytest.approx(math.log(first) / 4, rel=1e-5)
        assert float(x.std()) == pytest.approx(1, abs=0.02)
