"""N worlds of a task: step, report the true successor, then restart the finished worlds."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..api import Array, StepResult, check_action
from ..contexts import Contexts
from ..errors import unknown
from ..task import Task
from ..worlds import Worlds, rows_of
from .engine import NativePhysics
from .starts import GymnasiumStarts, Starts

_RNG: dict[str, Any] = {"counter": Starts, "gymnasium": GymnasiumStarts}


class TaskEnv:
    """A `BatchEnv` of one task on the native engine.

    `step` is the learners' door: torch, actions in [-1, 1], finished worlds restart. The
    gymnasium views use `advance` and `restart`: numpy, native units, float64, no restart.

    `context`: contexts, or a mapping of features to values whose grid they are; world i plays
    row i mod K, and by default the K worlds of a group start the same episodes. `streams` [N]:
    the stream of start states that each world follows. Raises ValueError for an unknown option,
    context or rng, a wrong action shape, a non-finite action.
    """

    discrete = False
    restores = True  # state_dict continues bit for bit

    def __init__(
        self,
        task: Task,
        num_envs: int = 1,
        *,
        seed: int = 0,
        threads: int | None = None,
        dtype: torch.dtype = torch.float32,
        rng: str = "counter",
        max_episode_steps: int | None = None,
        context: Contexts | Mapping[str, Any] | None = None,
        streams: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if rng not in _RNG:
            raise unknown("rng", rng, _RNG)
        self.worlds = worlds = Worlds(task, num_envs, context, streams, options)
        self.task, self.num_envs, self.xp = task, num_envs, np
        self.contexts, self.p, self.model = worlds.contexts, worlds.p, worlds.model
        self.low, self.high, self.fps = worlds.low, worlds.high, worlds.fps
        self.physics = NativePhysics(
            worlds.models,
            num_envs,
            task.fields,
            refresh=task.refresh,
            contact_forces=task.contact_forces,
            threads=threads,
        )
        self.act_dim = self.model.nu
        self.device = torch.device("cpu")
        self.dtype = dtype
        self._np_dtype = torch.empty(0, dtype=dtype).numpy().dtype
        self.max_episode_steps = max_episode_steps
        self.context_id, self.context = worlds.context_tensors()
        self.notes = self.physics.notes
        self.terms: dict[str, Array] = {}  # reward terms of the last step
        self.starts: Starts | GymnasiumStarts = _RNG[rng](task, self.p, np, worlds.streams, seed)
        self._all = np.arange(num_envs)
        self.active: Array | None = None  # ids of the worlds to simulate; None is all
        self._elapsed = np.zeros(num_envs, np.int64)
        self._none = np.zeros(num_envs, bool)
        self._valid = torch.ones(num_envs, dtype=torch.bool)
        self._never = ~self._valid
        self._carry: Array | None = None  # `before` of a restored state: lagging fields are gone
        self.bad_worlds = 0  # counted since construction, for the log
        self._obs = self.restart(None)
        self.obs_dim = _own_memory(task, self._obs, self.physics.fields)
        self._fresh = True  # the first reset() without a seed need not restart again

    # -- numpy, native units, float64: what the gymnasium views are made of

    def advance(self, action: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Step without restarting; return obs, reward, terminated, truncated, bad, all fresh.

        `bad` worlds went non-finite and were reset by MuJoCo: no transition, truncated.
        """
        task, f, p, xp = self.task, self.physics.fields, self.p, self.xp
        before = self._carry
        if before is None and task.before is not None:
            before = task.before(xp, f, p)
        self._carry = None
        self._fresh = False
        self.physics.step(action, p.frame_skip, self.active)
        obs = task.observe(xp, f, p)
        reward, self.terms = task.reward(xp, before, f, action, p)
        terminated = self._none if task.terminated is None else task.terminated(xp, f, p)
        self._elapsed[slice(None) if self.active is None else self.active] += 1
        limit = self.max_episode_steps
        truncated = self._none if limit is None else self._elapsed >= limit
        bad = self.physics.bad()
        if bad is None:
            return obs, reward, terminated, truncated, self._none
        self.bad_worlds += int(bad.sum())
        return obs, np.where(bad, 0.0, reward), terminated & ~bad, truncated | bad, bad

    def restart(self, ids: Array | None) -> Array:
        """Begin the next episode of worlds `ids` (None: all); return their observations."""
        qpos, qvel = self.starts.next(self._all if ids is None else ids)
        self.physics.reset(ids, qpos, qvel)
        rows = slice(None) if ids is None else ids
        self._elapsed[rows] = 0
        if self._carry is not None and self.task.before is not None:  # these fields are current
            self._carry[rows] = self.task.before(self.xp, self.physics.fields, self.p)[rows]
        if ids is None:
            return self.task.observe(self.xp, self.physics.fields, self.p)
        fields = _Rows(self.physics.fields, ids)
        return self.task.observe(self.xp, fields, rows_of(self.p, ids))

    def info(self) -> dict[str, Array]:
        """Gymnasium's info of the last step or reset, before any restart."""
        extra = self.task.info(self.xp, self.physics.fields, self.p) if self.task.info else {}
        return {**extra, **self.terms}

    # -- torch, [-1, 1], automatic restart: what the learners use

    def reset(self, seed: int | None = None) -> Tensor:
        """Start a new episode in every world; a seed goes to that seed's first ones."""
        self.active = None
        if seed is not None:
            self.starts.reseed(seed)
        if seed is not None or not self._fresh:
            self._carry = None
            self._obs = self.restart(None)
        self._fresh = False
        return self._tensor(self._obs)

    def to_native(self, action: Array) -> Array:
        """Map actions [N, A] from [-1, 1] to the actuators' ranges."""
        w = self.worlds
        return action if w.unit else action * w.half + w.mid

    def step(self, action: Tensor) -> StepResult:
        """Advance every world by one step of `frame_skip` physics substeps."""
        control = self.to_native(check_action(action, self.num_envs, self.act_dim))
        raw, reward, terminated, truncated, bad = self.advance(control)
        final_obs = obs = self._tensor(raw)
        ended = terminated if truncated is self._none else terminated | truncated
        if ended is not self._none and len(ids := ended.nonzero()[0]):
            raw[ids] = self.restart(ids)
            obs = self._tensor(raw)
        self._obs = raw
        return StepResult(
            obs=obs,
            reward=torch.from_numpy(reward.astype(np.float32)),
            terminated=self._flags(terminated),
            truncated=self._flags(truncated),
            final_obs=final_obs,
            valid=self._valid if bad is self._none else torch.from_numpy(~bad),
        )

    def _tensor(self, x: Array) -> Tensor:
        return torch.from_numpy(x.astype(self._np_dtype))  # astype copies: never a live view

    def _flags(self, x: Array) -> Tensor:
        return self._never if x is self._none else torch.from_numpy(x)

    def health(self) -> dict[str, int]:
        """Return counts for the log."""
        return {"bad_worlds": self.bad_worlds}

    def state_dict(self) -> dict[str, Any]:
        """Physics rows with warm start, counters, streams, and what lags behind the state."""
        before = self.task.before
        carry = self._carry
        if carry is None and before is not None:
            carry = before(self.xp, self.physics.fields, self.p)
        return {
            "physics": self.physics.get_state(),
            "starts": self.starts.state_dict(),
            "elapsed": self._elapsed.copy(),
            "obs": np.array(self._obs),
            "carry": carry,
            "bad_worlds": self.bad_worlds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue bit for bit from `state_dict`."""
        self.physics.set_state(state["physics"])
        self.starts.load_state_dict(state["starts"])
        self._elapsed[:] = state["elapsed"]
        self._obs = np.array(state["obs"])
        self._carry = None if state["carry"] is None else np.array(state["carry"])
        self.bad_worlds = int(state["bad_worlds"])
        self._fresh, self.active = False, None

    def current_obs(self) -> Tensor:
        """Return the observations to act on next, e.g. after `load_state_dict`."""
        return self._tensor(self._obs)

    def close(self) -> None:
        """Nothing to release: the batch goes with the object."""


class _Rows:
    """The fields of some worlds, copied out when one is read."""

    def __init__(self, fields: SimpleNamespace, ids: Array) -> None:
        self._fields, self._ids = fields, ids

    def __getattr__(self, name: str) -> Array:
        return getattr(self._fields, name)[self._ids]


def _own_memory(task: Task, obs: Array, fields: SimpleNamespace) -> int:
    """Return obs_dim, after making sure that `observe` allocated what it returned."""
    if any(np.shares_memory(obs, x) for x in vars(fields).values()):
        raise ValueError(
            f"{task.id}: observe() returned a live view of a physics field, which the next step "
            "would overwrite; return a new array, e.g. xp.concat([f.qpos, f.qvel], axis=1)"
        )
    return int(obs.shape[1])
