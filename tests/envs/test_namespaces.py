"""Tasks are written once: the same functions on numpy and on torch, blind to the values."""

import importlib.util
from types import SimpleNamespace

import array_api_compat.torch as xp
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from reverie.envs import make, warp
from reverie.envs.native.env import TaskEnv
from reverie.envs.random import CounterDraws
from reverie.envs.tasks import TASKS
from reverie.envs.worlds import Worlds

N = 6
# Launches that wait for the device, or whose result has a shape that depends on values.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "equal", "is_nonzero")
MOVES = ("lift_fresh", "_to_copy", "scalar_tensor", "_pin_memory")  # from the host, or a cast


class NoSync(TorchDispatchMode):
    """Refuse what a CUDA graph cannot record."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split("::")[1].split(".")[0]
        assert name not in WAITS, f"{name} waits for the device"
        if name == "_to_copy":
            assert (kwargs or {}).get("device") is None, "a copy between devices"
        else:
            assert name not in MOVES, f"{name} brings a value from the host"
        if name == "index":  # by a mask: the result's size depends on it
            assert all(i is None or i.dtype != torch.bool for i in args[1]), "indexed by a mask"
        return function(*args, **(kwargs or {}))


def played(task, context=None):
    """Return an environment some steps in, and the fields before and after one more."""
    env = TaskEnv(TASKS[task], N, seed=4, context=context)
    rng = np.random.default_rng(0)
    for _ in range(12):
        env.advance(rng.uniform(env.low, env.high, (N, env.act_dim)))
    then = copy_of(env.physics.fields)
    env.advance(rng.uniform(env.low, env.high, (N, env.act_dim)))
    return env, then, copy_of(env.physics.fields)


def copy_of(fields):
    return SimpleNamespace(**{name: np.array(x) for name, x in vars(fields).items()})


def on_torch(space, dtype):
    """Return a namespace with arrays as tensors."""
    out = SimpleNamespace(**vars(space))
    for name, value in vars(space).items():
        if isinstance(value, np.ndarray):
            tensor = torch.from_numpy(value)
            setattr(out, name, tensor.to(dtype) if tensor.is_floating_point() else tensor)
    return out


def results(task, xp, then, now, p):
    """Return everything that the task's functions return, by name."""
    before = None if task.before is None else task.before(xp, then, p)
    reward, terms = task.reward(xp, before, now, now.ctrl, p)
    out = {"obs": task.observe(xp, now, p), "reward": reward, **terms}
    if before is not None:
        out["before"] = before
    if task.terminated is not None:
        out["terminated"] = task.terminated(xp, now, p)
    return out


@pytest.mark.parametrize("context", [None, {"mass": [1.0, 1.2], "timestep": [0.002, 0.003]}])
@pytest.mark.parametrize("name", TASKS)
def test_numpy_and_torch_agree(name, context):
    env, then, now = played(name, context)
    task = env.task
    expected = results(task, np, then, now, env.p)
    for dtype, rtol in ((torch.float64, 1e-12), (torch.float32, 2e-4)):
        args = [on_torch(x, dtype) for x in (then, now, env.p)]
        with NoSync():
            got = results(task, xp, *args)
        for key, value in expected.items():
            assert tuple(got[key].shape) == value.shape, key
            if value.dtype == bool:
                assert np.array_equal(got[key].numpy(), value), key
                continue
            scale = np.abs(value).max() + 1e-30
            error = np.abs(got[key].numpy() - value).max() / scale
            assert error < rtol, f"{key} in {dtype}: {error:.1e}"
            if dtype == torch.float32:
                assert got[key].dtype == dtype, f"{key} left float32 for {got[key].dtype}"
        info = {} if task.info is None else task.info(np, now, env.p)
        for key, value in info.items():
            assert np.allclose(task.info(xp, args[1], args[2])[key].numpy(), value, rtol=1e-4)


@pytest.mark.parametrize("name", TASKS)
def test_resets_agree(name):
    task = TASKS[name]
    p = Worlds(task, 1).p
    streams, episodes = np.arange(64), np.arange(64) % 5
    numbers = CounterDraws(np, 9, streams, episodes)
    tensors = CounterDraws(xp, 9, torch.from_numpy(streams), torch.from_numpy(episodes))
    ours = task.reset(np, numbers, p)
    theirs = task.reset(xp, tensors, on_torch(p, torch.float64))
    for a, b in zip(ours, theirs, strict=True):
        difference = np.abs(a - b.numpy())
        # Uniforms are equal; a normal may round to the next float32 where log and cos differ.
        assert difference.max() <= 1.2e-7 * np.abs(a).max()
        assert (difference == 0).mean() > 0.99


def test_what_cannot_be_recorded_is_caught():
    x = torch.arange(6.0).reshape(2, 3)
    for bad in (
        lambda: float(x.sum()),
        lambda: x[x > 1],
        lambda: x[:, [0, 2]],
        lambda: torch.nonzero(x),
        lambda: torch.tensor([1.0, 2.0]) + x[:, :2],
    ):
        with pytest.raises(AssertionError), NoSync():
            bad()


@pytest.mark.parametrize("missing", ["warp", "mujoco_warp"])
def test_a_missing_extra_is_told(monkeypatch, missing):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        warp.importlib.util, "find_spec", lambda name: None if name == missing else real(name)
    )
    for where in ({"device": "cuda"}, {"backend": "warp"}):
        with pytest.raises(ModuleNotFoundError, match=rf"{missing}.*pip install 'reverie\[gpu\]'"):
            make("Hopper-v5", 1, **where)
