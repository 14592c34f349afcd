"""The engine for a GPU: MuJoCo Warp (extra `[gpu]`), under the same contracts as the native one.

Importing this package loads neither Warp nor CUDA; making an environment does.
"""

import functools
import importlib.util
import logging
from typing import Any

import torch

from ..api import BatchEnv
from .settings import WarpSettings

log = logging.getLogger("reverie")
INSTALL = "pip install 'reverie[gpu]'"


def require(device: torch.device) -> None:
    """Raise an error that says what to do unless the engine can run on this device."""
    missing = [m for m in ("warp", "mujoco_warp") if importlib.util.find_spec(m) is None]
    if missing:
        raise ModuleNotFoundError(
            f"the GPU engine needs {' and '.join(missing)}, which {INSTALL} brings; without it "
            "environments run on the CPU: leave device and backend out"
        )
    if device.type == "cpu":
        return
    if device.type != "cuda":
        raise ValueError(f"device={device}: environments run on cpu or on cuda, an NVIDIA GPU")
    if not torch.cuda.is_available():
        raise ValueError(
            f"device={device}: torch shows no GPU here. On a machine with one, check its driver "
            f"(nvidia-smi) and that torch was built for CUDA (torch.version.cuda is "
            f"{torch.version.cuda}); without one, leave device out"
        )
    if (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={device}: torch shows {torch.cuda.device_count()} GPU(s)")
    import warp

    if not warp.is_cuda_available():
        raise ValueError(
            f"device={device}: torch sees a GPU, Warp {warp.__version__} does not; it needs an "
            "NVIDIA driver of release 580 or newer"
        )


@functools.cache
def _announce() -> None:
    import warp

    warp.config.log_level = warp.LOG_WARNING  # else a line for each of some eighty modules
    warp.init()
    log.info(
        "MuJoCo Warp compiles its kernels when a model first runs, up to a minute, and keeps them "
        "in %s",
        warp.config.kernel_cache_dir,
    )


def make_warp_env(*args: Any, device: torch.device, **kwargs: Any) -> BatchEnv:
    """Return a `WarpEnv`, or say what stands in the way."""
    require(device)
    _announce()
    if device.type == "cuda" and device.index is None:  # tensors say cuda:0, not cuda
        device = torch.device("cuda", torch.cuda.current_device())
    from .env import WarpEnv

    return WarpEnv(*args, device=device, **kwargs)


__all__ = ["WarpSettings", "make_warp_env", "require"]
