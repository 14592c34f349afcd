"""MuJoCo Warp: N worlds on one device, their fields as torch views, resets by mask."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import mujoco
import mujoco_warp as mjw
import torch
import warp as wp
from torch import Tensor

from .graph import Graph, on_torchs_stream
from .models import put
from .settings import WarpSettings

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION.value
_LIMIT = 1e10  # mjMAXVAL: beyond it C MuJoCo calls a state bad
# What a reset must compute for a task that reads only these; a step recomputes everything anyway.
_POSITION = {"xpos", "xquat", "xmat", "xipos", "ximat", "site_xpos", "site_xmat", "geom_xpos",
             "geom_xmat", "subtree_com"}  # fmt: skip
_SOLVER = int(mjw.OverflowType.ITERATIONS | mjw.OverflowType.LS_ITERATIONS)


class WarpPhysics:
    """N worlds on one device; every method leaves its work on torch's current stream.

    `fields`: float32 torch tensors [N, ...] on Warp's own memory. A reset takes a mask, never
    indices, so that nothing waits for the host. Not differentiable; always float32.
    """

    def __init__(
        self,
        models: Sequence[mujoco.MjModel],
        num_envs: int,
        fields: Sequence[str],
        substeps: int,
        *,
        device: torch.device,
        settings: WarpSettings,
        njmax: int,
        nconmax: int,
        refresh: str = "none",
        contact_forces: bool = False,
    ) -> None:
        self.device, self.num_envs, self.substeps = device, num_envs, substeps
        self.models = [models[i % len(models)] for i in range(num_envs)]
        self.refresh, self.contact_forces = refresh, contact_forces
        name = str(device)
        self.m = put(models, name)
        self.m.opt.warn_overflow = 0  # counted by `flags`: printing from kernels is slow
        if settings.deterministic:
            self.m.opt.deterministic = int(mjw.DeterminismType.ALL)
        self._sizes = {"nworld": num_envs, "nconmax": nconmax, "njmax": njmax}
        self.d = self.fresh_data()
        names = dict.fromkeys(("qpos", "qvel", "ctrl", *fields))
        if absent := [n for n in names if not isinstance(getattr(self.d, n, None), wp.array)]:
            raise ValueError(f"MuJoCo Warp has no per-world field {', '.join(absent)}")
        self.fields = SimpleNamespace(**{n: wp.to_torch(getattr(self.d, n)) for n in names})
        self.rows = self._initial(models).to(device)  # [N, nstate], what `reset` writes
        self.ended = torch.zeros(num_envs, dtype=torch.bool, device=device)
        self._everyone = wp.ones(num_envs, dtype=bool, device=name)
        self._flags = wp.to_torch(self.d.overflow)
        self._constraints = [wp.to_torch(x) for x in (self.d.efc.J, self.d.efc.D)]
        wp.synchronize_device(name)  # what was made on Warp's stream is there for torch's
        self._wp_rows, self._wp_ended = wp.from_torch(self.rows), wp.from_torch(self.ended)
        needs = {n for n in fields if n not in ("cfrc_ext", "time")}
        self._stage = "all" if needs - _POSITION else "position" if needs else "none"
        record = "warp" if settings.graphs else ""
        self._step = Graph(self._launch_step, device, record)
        self._reset = Graph(self._launch_reset, device, record)
        gpu = f" {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
        how = "graphs" if settings.graphs else "no graphs"
        how += ", deterministic" if settings.deterministic else ""
        self.notes = {
            "engine": f"warp {wp.__version__}, mujoco-warp {mjw.__version__}, {name}{gpu}, {how}, "
            f"njmax {njmax}, nconmax {nconmax}"
        }

    def _initial(self, models: Sequence[mujoco.MjModel]) -> Tensor:
        import numpy as np

        model, at = models[0], mujoco.mj_stateSize(models[0], mujoco.mjtState.mjSTATE_TIME.value)
        self.start = slice(at, at + model.nq + model.nv)  # qpos and qvel in a row
        table = np.empty((len(models), mujoco.mj_stateSize(model, _STATE)))
        for row, m in zip(table, models, strict=True):
            mujoco.mj_getState(m, mujoco.MjData(m), row, _STATE)
        return torch.from_numpy(table).float()[torch.arange(self.num_envs) % len(models)]

    def fresh_data(self) -> Any:
        """Return a Warp Data of the same sizes, at the model's first state."""
        name = str(self.device)
        with wp.ScopedDevice(name):
            data = mjw.make_data(self.models[0], **self._sizes)
        wp.synchronize_device(name)  # what was made on Warp's stream is there for torch's
        return data

    def parameter(self, name: str) -> Tensor:
        """Return a live view [K or 1, ...] of a model array: graphs read what is written to it.

        `opt.gravity` and the like are the options. What MuJoCo derives from it (`set_const`) does
        not follow.
        """
        part, _, field = name.rpartition(".")
        view: Tensor = wp.to_torch(getattr(self.m.opt if part == "opt" else self.m, field))
        return view

    def step(self) -> None:
        """Advance every world by `substeps` under `fields.ctrl`; contact forces where asked for."""
        self._step()

    def _launch_step(self) -> None:
        m, d = self.m, self.d
        for _ in range(self.substeps):
            mjw.step(m, d)
        if self.contact_forces:
            mjw.rne_postconstraint(m, d)
        if self.refresh == "vel":  # after the forces: it numbers contacts anew
            self._refresh()

    def _refresh(self) -> None:
        """Bring positions, velocities and their sensors up to date: what mj_step1 does."""
        mjw.fwd_position(self.m, self.d)
        mjw.sensor_pos(self.m, self.d)
        mjw.fwd_velocity(self.m, self.d)
        mjw.sensor_vel(self.m, self.d)

    def mark(self, ended: Tensor) -> None:
        """Say which worlds [N] bool the next `reset` restarts; torch launches only."""
        self.ended.copy_(ended)

    def cleanse(self, bad: Tensor) -> None:
        """Clear the constraint rows of bad worlds [N] bool; torch launches only.

        No state row holds them, and the solver multiplies those not in use by zero: a NaN there
        would outlive the reset.
        """
        for array in self._constraints:
            array.masked_fill_(bad.view(-1, *[1] * (array.ndim - 1)), 0.0)

    def reset(self) -> None:
        """Write `rows` into the marked worlds and bring the fields that a task reads up to date.

        Those of the other worlds too: read what lags before. Contact forces stay as they are.
        """
        self._reset()

    def _launch_reset(self) -> None:
        m, d = self.m, self.d
        mjw.set_state(m, d, self._wp_rows, _STATE, self._wp_ended)
        if self._stage == "position":
            mjw.kinematics(m, d)
            mjw.com_pos(m, d)
        elif self._stage == "all":
            mjw.forward(m, d)

    def get_state(self) -> Tensor:
        """Return the state rows [N, nstate] float32 in mjSTATE_INTEGRATION order, a copy."""
        rows = torch.empty_like(self.rows)
        with on_torchs_stream(self.device):
            mjw.get_state(self.m, self.d, wp.from_torch(rows), _STATE)
        return rows

    def set_state(self, rows: Tensor) -> None:
        """Write state rows of any engine; derived fields are stale until the next step."""
        rows = torch.as_tensor(rows).to(self.device, torch.float32).contiguous()
        self.cleanse(torch.ones_like(self.ended))
        with on_torchs_stream(self.device):
            mjw.set_state(self.m, self.d, wp.from_torch(rows), _STATE, self._everyone)

    def bad(self) -> Tensor:
        """Return the mask [N] of worlds whose state is not finite, or beyond 1e10."""
        f = self.fields
        sound: Tensor = (f.qpos.abs() <= _LIMIT).all(1) & (f.qvel.abs() <= _LIMIT).all(1)
        return ~sound

    def flags(self) -> dict[str, Tensor]:
        """Return masks [N] of what happened since the last call; reading them is up to you.

        `overflow`: contacts or constraints did not fit and were dropped. `solver_limit`: the
        solver or its line search stopped at its iteration limit.
        """
        seen = self._flags.clone()
        self._flags.zero_()
        return {"overflow": (seen & ~_SOLVER) != 0, "solver_limit": (seen & _SOLVER) != 0}
