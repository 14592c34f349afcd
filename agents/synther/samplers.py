"""Samplers: features from noise, by a network and a grid of noise levels.

Both raise Stopped at the next level when `stop` says so.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ..playing import Stopped, never
from .edm import S_NOISE, Network, churn, denoise, grid


@torch.no_grad()
def heun(
    network: Network,
    shape: tuple[int, int],
    generator: torch.Generator,
    levels: int = 128,
    sigma_max: float = 80.0,
    sigma_min: float = 0.002,
    stop: Callable[[], bool] = never,
) -> Tensor:
    """Return samples [B, d] by the stochastic second-order sampler (Karras et al., algorithm 2).

    It takes 2 * levels - 1 network calls; the constants are those of conglu1997/SynthER.
    """
    device = generator.device
    sigmas = grid(levels, sigma_min, sigma_max)
    gammas = churn(sigmas)
    x = sigmas[0].to(device) * torch.randn(shape, generator=generator, device=device)
    for now, then, gamma in zip(
        *(s.to(device) for s in (sigmas[:-1], sigmas[1:], gammas)), strict=True
    ):
        _look(stop)
        raised = now * (1 + gamma)
        noise = torch.randn(shape, generator=generator, device=device)
        noisy = x + (raised.square() - now.square()).sqrt() * S_NOISE * noise
        slope = (noisy - denoise(network, noisy, raised)) / raised
        x = noisy + (then - raised) * slope
        if then > 0:
            corrected = (x - denoise(network, x, then)) / then
            x = noisy + (then - raised) * (slope + corrected) / 2
    return x


@torch.no_grad()
def dpm(
    network: Network,
    shape: tuple[int, int],
    generator: torch.Generator,
    levels: int = 16,
    sigma_max: float = 10.0,
    sigma_min: float = 0.002,
    stop: Callable[[], bool] = never,
    algorithm: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++",
) -> Tensor:
    """Return samples [B, d] by DPM-Solver++ 2M (Lu et al. 2022), a network call for each level."""
    from diffusers.schedulers.scheduling_edm_dpmsolver_multistep import (
        EDMDPMSolverMultistepScheduler,
    )

    scheduler = EDMDPMSolverMultistepScheduler(
        sigma_min=sigma_min, sigma_max=sigma_max, sigma_data=1.0, rho=7.0, solver_order=2,
        algorithm_type=algorithm,
    )  # fmt: skip
    scheduler.set_timesteps(levels)  # it counts its steps: a scheduler is good for one batch
    noise = torch.randn(shape, generator=generator, device=generator.device)
    x: Tensor = noise * scheduler.init_noise_sigma
    for c_noise in scheduler.timesteps:
        _look(stop)
        out = network(scheduler.scale_model_input(x, c_noise), c_noise.to(x.device))
        x = scheduler.step(out, c_noise, x, generator=generator).prev_sample
    return x


def sde(
    network: Network,
    shape: tuple[int, int],
    generator: torch.Generator,
    levels: int = 16,
    sigma_max: float = 10.0,
    sigma_min: float = 0.002,
    stop: Callable[[], bool] = never,
) -> Tensor:
    """Return samples [B, d] by SDE-DPM-Solver++ 2M, which draws noise anew at each level.

    As the published sampler's, that noise makes up for errors of the network at levels before.
    """
    return dpm(network, shape, generator, levels, sigma_max, sigma_min, stop, "sde-dpmsolver++")


def _look(stop: Callable[[], bool]) -> None:
    if stop():
        raise Stopped("a generation of rows was told to stop")


SAMPLERS = {"heun": heun, "dpm": dpm, "sde": sde}
