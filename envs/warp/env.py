"""N worlds of a task on MuJoCo Warp: a `BatchEnv` whose steps never wait for the host."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import array_api_compat.torch as xp
import numpy as np
import torch
from torch import Tensor

from ..api import StepResult
from ..contexts import Contexts
from ..task import Params, Task
from ..worlds import Worlds
from .engine import WarpPhysics
from .graph import Graph
from .models import sizes, supported
from .settings import WarpSettings
from .starts import DeviceStarts, to_host


class WarpEnv:
    """A `BatchEnv` of one task on one device, float32; the task's functions run on torch.

    A step is two recorded pieces of Warp and two of torch, replayed one after the other: physics,
    judgement, masked reset, first observations. Nothing is read on the way: a NaN action makes its
    world a bad one. `bad_worlds` and `health` wait for the device; read them at log points.
    """

    discrete = False

    def __init__(
        self,
        task: Task,
        num_envs: int = 1,
        *,
        device: torch.device,
        seed: int = 0,
        max_episode_steps: int | None = None,
        context: Contexts | Mapping[str, Any] | None = None,
        streams: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
        settings: WarpSettings | None = None,
    ) -> None:
        settings = settings or WarpSettings()
        self.restores = device.type == "cpu"  # on a GPU a state goes on, but not bit for bit
        self.worlds = worlds = Worlds(task, num_envs, context, streams, options)
        self.task, self.num_envs, self.device, self.xp = task, num_envs, device, xp
        self.contexts, self.fps, self.model = worlds.contexts, worlds.fps, worlds.model
        self.act_dim, self.max_episode_steps = self.model.nu, max_episode_steps
        models, notes = supported(worlds)
        njmax, nconmax = settings.njmax, settings.nconmax
        if njmax is None or nconmax is None:
            rows, contacts = sizes(worlds)
            njmax, nconmax = njmax or rows, nconmax or contacts
        self.physics = WarpPhysics(
            models,
            num_envs,
            task.fields,
            worlds.p.frame_skip,
            device=device,
            settings=settings,
            njmax=njmax,
            nconmax=nconmax,
            refresh=task.refresh,
            contact_forces=task.contact_forces,
        )
        self.notes = {**self.physics.notes, **notes}
        self.context_id, self.context = worlds.context_tensors(device)
        self.p = on_device(worlds.p, device, torch.float32)
        exact = on_device(worlds.p, device, torch.float64)
        stream = torch.as_tensor(worlds.streams, device=device)
        self.starts = DeviceStarts(task, exact, xp, stream, seed)
        self._half, self._mid = (torch.from_numpy(x).to(device) for x in (worlds.half, worlds.mid))
        self._elapsed = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self._bad = torch.zeros((), dtype=torch.int64, device=device)
        record = "torch" if settings.graphs else ""
        self._judge = Graph(self._launch_judgement, device, record)
        self._settle = Graph(self._launch_first_obs, device, record)
        self._allocate()
        self._restart()
        self._fresh = True  # the first reset() without a seed need not restart again

    def _allocate(self) -> None:
        """Make the tensors that every step writes anew; what it returns are copies."""
        f, n = self.physics.fields, self.num_envs
        probe = self.task.observe(xp, f, self.p)
        self.obs_dim = o = int(probe.shape[1])
        self._floats = torch.zeros(2 * n * o + n, device=self.device)
        self._bools = torch.zeros(3, n, dtype=torch.bool, device=self.device)
        self._obs, self._final, self._reward = self._split(self._floats)
        before = self.task.before
        self._carry = None if before is None else before(xp, f, self.p).clone()
        self._carry_on = None if self._carry is None else self._carry.clone()

    def _split(self, floats: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, size = self.num_envs, self.num_envs * self.obs_dim
        obs, final, reward = floats[:size], floats[size : 2 * size], floats[2 * size :]
        return obs.view(n, -1), final.view(n, -1), reward

    # -- the pieces of a step; each holds launches only, on tensors that stay where they are

    def _launch_judgement(self) -> None:
        """Observe, reward, end; choose the next start of the worlds that ended."""
        task, f, p = self.task, self.physics.fields, self.p
        obs = task.observe(xp, f, p)
        reward, _ = task.reward(xp, self._carry, f, f.ctrl, p)
        bad = self.physics.bad() | ~xp.all(xp.isfinite(f.ctrl), axis=1)  # Warp clamps a NaN
        terminated, truncated, valid = self._bools
        if task.terminated is not None:
            terminated.copy_(task.terminated(xp, f, p) & ~bad)
        self._elapsed += 1
        limit = self.max_episode_steps
        truncated.copy_(bad if limit is None else bad | (self._elapsed >= limit))
        valid.copy_(~bad)
        self._bad += bad.sum()
        self._final.copy_(obs)
        self._reward.copy_(torch.where(bad, 0.0, reward))
        if self._carry_on is not None and task.before is not None:
            self._carry_on.copy_(task.before(xp, f, p))
        self.physics.cleanse(bad)
        self._begin(terminated | truncated)

    def _begin(self, ended: Tensor) -> None:
        """Mark worlds for a restart and write where they start."""
        self.physics.mark(ended)
        self.physics.rows[:, self.physics.start] = self.starts.next()
        self.starts.episode += ended
        self._elapsed.masked_fill_(ended, 0)

    def _launch_first_obs(self) -> None:
        """Observe the worlds that were restarted; the fields of the others run ahead."""
        task, f, p, ended = self.task, self.physics.fields, self.p, self.physics.ended
        if task.contact_forces:  # zero until the first step, as gymnasium's
            f.cfrc_ext.masked_fill_(ended[:, None, None], 0.0)
        first = task.observe(xp, f, p)
        self._obs.copy_(torch.where(ended[:, None], first, self._final))
        valid = self._bools[2]
        self._final.copy_(torch.where(valid[:, None], self._final, first))  # no NaN in a batch
        if self._carry is not None and self._carry_on is not None and task.before is not None:
            first = task.before(xp, f, p)
            mask = ended.view(-1, *[1] * (first.ndim - 1))
            self._carry.copy_(torch.where(mask, first, self._carry_on))

    # -- BatchEnv

    def reset(self, seed: int | None = None) -> Tensor:
        """Start a new episode in every world; a seed goes to that seed's first ones."""
        if seed is not None:
            self.starts.reseed(seed)
        if seed is not None or not self._fresh:
            self._restart()
        self._fresh = False
        return self._obs.clone()

    def _restart(self) -> None:
        self._begin(torch.ones_like(self.physics.ended))
        self.starts.count()
        self.physics.reset()
        self._settle()

    def step(self, action: Tensor) -> StepResult:
        """Advance every world by one step of `frame_skip` physics substeps."""
        if action.shape != (self.num_envs, self.act_dim) or action.device != self.device:
            raise ValueError(
                f"action is {tuple(action.shape)} on {action.device}, expected "
                f"({self.num_envs}, {self.act_dim}) on {self.device}"
            )
        ctrl = self.physics.fields.ctrl
        if self.worlds.unit:
            ctrl.copy_(action)
        else:
            torch.addcmul(self._mid, action.float(), self._half, out=ctrl)
        self._fresh = False
        self.physics.step()
        self._judge()
        self.physics.reset()
        self._settle()
        self.starts.count()
        terminated, truncated, valid = self._bools.clone()
        obs, final, reward = self._split(self._floats.clone())
        return StepResult(obs, reward, terminated, truncated, final, valid)

    def current_obs(self) -> Tensor:
        """Return the observations to act on next, e.g. after `load_state_dict`."""
        return self._obs.clone()

    @property
    def bad_worlds(self) -> int:
        """Worlds that went bad so far; waits for the device."""
        return int(self._bad)

    def health(self) -> dict[str, int]:
        """Return what to log, counted in worlds since the last call; waits for the device."""
        return {
            "bad_worlds": self.bad_worlds,
            **{name: int(mask.sum()) for name, mask in self.physics.flags().items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what `TaskEnv.state_dict` does, so that a state moves between the engines."""
        return {
            "physics": to_host(self.physics.get_state()),
            "starts": self.starts.state_dict(),
            "elapsed": to_host(self._elapsed),
            "obs": to_host(self._obs),
            "carry": None if self._carry is None else to_host(self._carry),
            "bad_worlds": self.bad_worlds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`, of either engine."""
        self.physics.set_state(state["physics"])
        self.starts.load_state_dict(state["starts"])
        targets = {"elapsed": self._elapsed, "obs": self._obs, "carry": self._carry}
        for name, target in targets.items():
            if target is not None:
                target.copy_(torch.as_tensor(state[name]))
        self._bad.fill_(int(state["bad_worlds"]))
        self._fresh = False

    def close(self) -> None:
        """Nothing to release: the arrays go with the object."""


def on_device(p: Params, device: torch.device, dtype: torch.dtype) -> Params:
    """Return the parameters with arrays as tensors of the device; numbers stay numbers."""
    out = SimpleNamespace(**vars(p))
    for name, value in vars(p).items():
        if isinstance(value, np.ndarray):
            tensor = torch.from_numpy(value)
            setattr(out, name, tensor.to(device, dtype if tensor.is_floating_point() else None))
    return out
