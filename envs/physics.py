"""Physics engines: the protocol, and `native` on MuJoCo's C batch."""

import ctypes
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import mujoco
import numpy as np
from mujoco.batch import Batch

from .api import Array

_STAGE = {
    "none": mujoco.mjtStage.mjSTAGE_NONE.value,
    "vel": mujoco.mjtStage.mjSTAGE_VEL.value,
}
_BAD = [
    mujoco.mjtWarning.mjWARN_BADQPOS.value,
    mujoco.mjtWarning.mjWARN_BADQVEL.value,
    mujoco.mjtWarning.mjWARN_BADQACC.value,
]


class Physics(Protocol):
    """Steps N worlds and shows their MjData fields as live arrays [N, ...]."""

    fields: SimpleNamespace
    notes: dict[str, str]  # what the run's stamp should say of the engine

    def step(self, ctrl: Array, substeps: int) -> None:
        """Advance every world by `substeps` under `ctrl` [N, nu]."""
        ...

    def reset(self, ids: Array | None, qpos: Array, qvel: Array) -> None:
        """Put worlds `ids` (None: all) into a fresh state with these positions and velocities."""
        ...

    def get_state(self) -> Array:
        """Return a copy of the state rows [N, nstate], in mjSTATE_INTEGRATION order."""
        ...

    def set_state(self, rows: Array, ids: Array | None = None) -> None:
        """Write state rows; derived fields are stale until the next step."""
        ...

    def bad(self) -> Array | None:
        """Return a mask [N] of worlds that went bad since the last call, None if there is none."""
        ...


def affinity_threads() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class NativePhysics:
    """`mujoco.batch.Batch`: worlds on C threads, bit-identical to gymnasium's mj_step loop."""

    def __init__(
        self,
        model: mujoco.MjModel,
        num_envs: int,
        fields: Sequence[str],
        *,
        refresh: str = "none",
        contact_forces: bool = False,
        threads: int | None = None,
    ) -> None:
        threads = min(threads or affinity_threads(), num_envs)
        # Contact forces are read back from each world's own MjData, so it must persist.
        self.batch = Batch(model, num_envs, threads, persistent=contact_forces or refresh != "none")
        self.model = model
        self.num_envs = num_envs
        names = dict.fromkeys(("qpos", "qvel", "ctrl", *fields))
        self.fields = SimpleNamespace(**{name: self.batch.bind(name) for name in names})
        self.notes = {"engine": f"native, mujoco {mujoco.__version__}, {threads} threads"}
        self._stage = _STAGE[refresh]
        self._ctrl = self.fields.ctrl
        self._warnings = self.batch.warning[:, _BAD[0] : _BAD[-1] + 1, 1]
        self._seen = self._warnings.copy()
        self._seen_total = int(self._seen.sum())
        self._forces = _contact_forces(self.batch, model) if contact_forces else None
        if self._forces is not None:
            self.notes["cfrc_ext"] = self._forces.__name__.removeprefix("_by_")

    def step(self, ctrl: Array, substeps: int) -> None:
        """Step every world; contact forces too where the task reads them."""
        self._ctrl[:] = ctrl
        self.batch.step(None, substeps, self._stage)
        if self._forces is not None:
            self._forces(self.batch)

    def reset(self, ids: Array | None, qpos: Array, qvel: Array) -> None:
        """Reset, write positions and velocities, run a forward."""
        self.batch.reset(ids, stage=_STAGE["none"])
        if ids is None:
            self.fields.qpos[:], self.fields.qvel[:] = qpos, qvel
        else:
            self.fields.qpos[ids], self.fields.qvel[ids] = qpos, qvel
        self.batch.forward(ids)
        self.bad()

    def get_state(self) -> Array:
        """Return a copy of the state rows."""
        return self.batch.state.copy()

    def set_state(self, rows: Array, ids: Array | None = None) -> None:
        """Write state rows."""
        self.batch.state[slice(None) if ids is None else ids] = rows

    def bad(self) -> Array | None:
        """Compare the warning counters with those of the last call."""
        total = int(self._warnings.sum())
        if total == self._seen_total:
            return None
        mask = (self._warnings != self._seen).any(axis=1)
        self._seen, self._seen_total = self._warnings.copy(), total
        return mask


@functools.cache
def _library() -> ctypes.CDLL:
    path = next(Path(mujoco.__file__).parent.glob("libmujoco*"))
    lib = ctypes.CDLL(str(path))
    lib.mjb_apply.argtypes = (
        [ctypes.c_void_p] * 2 + [ctypes.c_int] + [ctypes.c_void_p] * 2 + [ctypes.c_int]
    )
    return lib


def _by_mjb_apply(batch: Batch) -> None:
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
    batch.forward(None, _STAGE["none"])


def _by_get_data(batch: Batch) -> None:
    """cfrc_ext of every world through a scratch MjData, one after the other: 8-30 us a world."""
    out = batch.bind("cfrc_ext")
    out.flags.writeable = True
    scratch = mujoco.MjData(batch.model)
    for i in range(batch.nsim):
        batch.get_data(i, scratch)
        mujoco.mj_rnePostConstraint(batch.model, scratch)
        out[i] = scratch.cfrc_ext
    out.flags.writeable = False


def _contact_forces(batch: Batch, model: mujoco.MjModel) -> Any:
    """Return the fast route to cfrc_ext where it equals the slow one bit for bit."""
    if not mujoco.__version__.startswith("4.0."):  # the layout behind the handle is that of 4.0
        return _by_get_data
    probe = Batch(model, 2, 1, persistent=True)
    forces = probe.bind("cfrc_ext")
    probe.reset()
    probe.ctrl = model.actuator_ctrlrange[:, 1]
    probe.step(None, 100)  # long enough to fall and touch the ground
    _by_mjb_apply(probe)
    fast = forces.copy()
    _by_get_data(probe)
    return _by_mjb_apply if np.array_equal(fast, forces) and fast.any() else _by_get_data
