"""The native engine: MuJoCo's own C batch."""

from collections.abc import Sequence
from types import SimpleNamespace

import mujoco
from mujoco.batch import Batch

from ..api import Array
from ..physics import affinity_threads
from .contact_forces import choose_route

_STAGE = {
    "none": mujoco.mjtStage.mjSTAGE_NONE.value,
    "vel": mujoco.mjtStage.mjSTAGE_VEL.value,
}


_BAD = [
    mujoco.mjtWarning.mjWARN_BADQPOS.value,
    mujoco.mjtWarning.mjWARN_BADQVEL.value,
    mujoco.mjtWarning.mjWARN_BADQACC.value,
]


class NativePhysics:
    """`mujoco.batch.Batch`: worlds on C threads, bit-identical to gymnasium's mj_step loop."""

    def __init__(
        self,
        models: Sequence[mujoco.MjModel],  # K of them; world i has model i mod K
        num_envs: int,
        fields: Sequence[str],
        *,
        refresh: str = "none",
        contact_forces: bool = False,
        threads: int | None = None,
    ) -> None:
        threads = min(threads or affinity_threads(), num_envs)
        model = models[0]
        self.models = [models[i % len(models)] for i in range(num_envs)]
        # Contact forces are read back from each world's own MjData, so it must persist.
        self.batch = Batch(model, num_envs, threads, persistent=contact_forces or refresh != "none")
        if len(models) > 1:
            self.batch.set_models(self.models)
        names = dict.fromkeys(("qpos", "qvel", "ctrl", *fields))
        self.fields = SimpleNamespace(**{name: self.batch.bind(name) for name in names})
        self.notes = {"engine": f"native, mujoco {mujoco.__version__}, {threads} threads"}
        self._initial = None if self.batch.persistent else self.batch.state[0].copy()
        self._stage = _STAGE[refresh]
        self._ctrl = self.fields.ctrl
        self._warnings = self.batch.warning[:, _BAD[0] : _BAD[-1] + 1, 1]
        self._seen = self._warnings.copy()
        self._seen_total = int(self._seen.sum())
        self._forces = choose_route(model) if contact_forces else None
        if self._forces is not None:
            self.notes["cfrc_ext"] = self._forces.__name__.removeprefix("by_")

    def step(self, ctrl: Array, substeps: int, ids: Array | None = None) -> None:
        """Step worlds `ids` (None: all); contact forces too where the task reads them."""
        self._ctrl[:] = ctrl
        self.batch.step(ids, substeps, self._stage)
        if self._forces is not None:
            self._forces(self.batch)

    def reset(self, ids: Array | None, qpos: Array, qvel: Array) -> None:
        """Reset, write positions and velocities, run a forward."""
        rows = slice(None) if ids is None else ids
        if self._initial is None:
            self.batch.reset(ids, stage=_STAGE["none"])
        else:  # without an MjData of its own, a world is its row
            self.batch.state[rows] = self._initial
        self.fields.qpos[rows], self.fields.qvel[rows] = qpos, qvel
        self.batch.forward(ids)
        if self._seen_total:  # a reset zeroes the world's counters
            self.bad()

    def get_state(self) -> Array:
        """Return a copy of the state rows."""
        return self.batch.state.copy()

    def set_state(self, rows: Array, ids: Array | None = None) -> None:
        """Write state rows."""
        self.batch.state[slice(None) if ids is None else ids] = rows

    def refresh(self, ids: Array) -> None:
        """Compute what worlds `ids` derive from their state, which stays."""
        rows = self.get_state()
        self.batch.forward(ids)
        self.set_state(rows)

    def bad(self) -> Array | None:
        """Compare the warning counters with those of the last call."""
        total = int(self._warnings.sum())
        if total == self._seen_total:
            return None
        mask = (self._warnings != self._seen).any(axis=1)
        self._seen, self._seen_total = self._warnings.copy(), total
        return mask
