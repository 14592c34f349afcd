"""cfrc_ext of every world at the end of a step, as gymnasium computes it.

mj_step leaves the field alone unless a sensor asks for it; gymnasium calls mj_rnePostConstraint.
"""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import mujoco
import numpy as np
from mujoco.batch import Batch

_NONE = mujoco.mjtStage.mjSTAGE_NONE.value


@functools.cache
def _library() -> ctypes.CDLL:
    path = next(Path(mujoco.__file__).parent.glob("libmujoco*"))
    lib = ctypes.CDLL(str(path))
    lib.mjb_apply.argtypes = (
        [ctypes.c_void_p] * 2 + [ctypes.c_int] + [ctypes.c_void_p] * 2 + [ctypes.c_int]
    )
    return lib


def by_mjb_apply(batch: Batch) -> None:
    """cfrc_ext of every world in C, in parallel: 1-2 us a world.

    The binding does not expose mjb_apply, so the mjBatch* is read from the bound object: the
    first word of what a pybind11 instance points to. mj_rnePostConstraint ignores the callback's
    further arguments. A forward to no stage copies the fields out.
    """
    instance = ctypes.cast(id(batch._b) + object.__basicsize__, ctypes.POINTER(ctypes.c_void_p))
    handle = ctypes.cast(instance[0] or 0, ctypes.POINTER(ctypes.c_void_p))[0]
    lib = _library()
    function = ctypes.cast(lib.mj_rnePostConstraint, ctypes.c_void_p)
    lib.mjb_apply(handle, None, 0, function, None, 0)
    batch.forward(None, _NONE)


def by_get_data(batch: Batch) -> None:
    """cfrc_ext of every world through a scratch MjData, one after the other: 8-30 us a world."""
    out = batch.bind("cfrc_ext")
    out.flags.writeable = True
    models = batch.models or [batch.model] * batch.nsim
    scratch = mujoco.MjData(batch.model)
    for i, model in enumerate(models):
        batch.get_data(i, scratch)
        mujoco.mj_rnePostConstraint(model, scratch)
        out[i] = scratch.cfrc_ext
    out.flags.writeable = False


def choose_route(model: mujoco.MjModel) -> Callable[[Batch], None]:
    """Return the fast route to cfrc_ext where it equals the slow one bit for bit."""
    if not mujoco.__version__.startswith("4.0."):  # the layout behind the handle is that of 4.0
        return by_get_data
    probe = Batch(model, 2, 1, persistent=True)
    forces = probe.bind("cfrc_ext")
    probe.reset()
    probe.ctrl = model.actuator_ctrlrange[:, 1]
    probe.step(None, 100)  # long enough to fall and touch the ground
    by_mjb_apply(probe)
    fast = forces.copy()
    by_get_data(probe)
    return by_mjb_apply if np.array_equal(fast, forces) and fast.any() else by_get_data
