"""The Warp engine as its tests use it: on the CPU, or on REVERIE_DEVICE=cuda (`make gpu`)."""

import os

import torch

from reverie.envs import StepResult, WarpSettings, make

DEVICE = os.environ.get("REVERIE_DEVICE", "cpu")
ON_GPU = DEVICE != "cpu"  # a GPU is asked to keep what order it can
SIZES = {"njmax": 128, "nconmax": 48}  # no probe: these tests make many environments


def settings(**changes):
    return WarpSettings(**{**SIZES, "deterministic": ON_GPU, **changes})


def on_warp(task, n=4, warp=None, **kwargs):
    return make(task, n, backend="warp", device=DEVICE, warp=warp or settings(), **kwargs)


def actions(env, steps, seed=0):
    g = torch.Generator().manual_seed(seed)
    draws = [torch.rand(env.num_envs, env.act_dim, generator=g) * 2 - 1 for _ in range(steps)]
    return [x.to(env.device) for x in draws]


def step(env, action):
    """Step with an action from anywhere; return everything on the host."""
    return StepResult(*(x.cpu() for x in env.step(action.to(env.device))))


def play(env, acts):
    """Step without a reset; return what the steps returned, stacked over time, on the host."""
    return [torch.stack(x) for x in zip(*(step(env, a) for a in acts), strict=True)]


def equal(a, b):
    """Equal on the CPU device; near on a GPU, where contacts come in any order."""
    if ON_GPU:
        return all(
            torch.allclose(x.float(), y.float(), rtol=1e-3, atol=1e-3)
            for x, y in zip(a, b, strict=True)
        )
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def faults(rows):
    """Return the faults that count: on a GPU not those of equal bits."""
    bits = {"determinism", "independence", "clean resets"} if ON_GPU else set()
    return [r for r in rows if r.verdict == "FAULT" and r.name not in bits]
