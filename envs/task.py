"""A task: a MuJoCo model and pure functions over batched fields."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from types import MappingProxyType, SimpleNamespace
from typing import Any

import mujoco
import numpy as np

from .api import Array

Fields = Any  # attribute -> live array [N, ...] of the MjData field of that name
Params = SimpleNamespace  # the task's parameters and what `setup` derived from the model


@dataclass(frozen=True)
class Task:
    """One task, written once for every engine.

    `xp` is the array namespace (numpy on native, torch on a GPU), `f` the MjData fields of all N
    worlds, `p` the parameters. The functions allocate what they return and have no data-dependent
    shapes. Times in seconds, lengths in metres, angles in radians.
    """

    id: str  # the part after "reverie/"
    model: Callable[[Params], mujoco.MjModel]
    fields: tuple[str, ...]  # MjData fields that the functions read, beyond qpos, qvel and ctrl
    frame_skip: int
    max_episode_steps: int | None
    params: Mapping[str, Any]  # defaults of the task's own options
    observe: Callable[[Any, Fields, Params], Array]  # (xp, f, p) -> [N, O]
    reward: Callable[
        ..., tuple[Array, dict[str, Array]]
    ]  # (xp, before, f, action, p) -> [N], terms
    reset: Callable[[Any, Any, Params], tuple[Array, Array]]  # (xp, u, p) -> qpos, qvel
    before: Callable[[Any, Fields, Params], Array] | None = None  # read before the step
    terminated: Callable[[Any, Fields, Params], Array] | None = None  # None: never
    info: Callable[..., dict[str, Array]] | None = None  # (xp, before, f, p): gymnasium's info
    setup: Callable[[mujoco.MjModel, Params], None] | None = None  # adds derived entries to p
    refresh: str = "none"  # none as gymnasium's v5: fields lag a substep; vel for our own tasks
    contexts: tuple[str, ...] = ()  # parameters that may differ between worlds: [N] arrays
    model_contexts: tuple[str, ...] = ()  # those of them from which the model is built
    newton_on_warp: bool = False  # may take Newton where the engine has no PGS (MuJoCo Warp)
    contact_forces: bool = False  # cfrc_ext by mj_rnePostConstraint after the step
    # What an observation says: for dreams and generated rows. None: it does not say it.
    state_from_obs: Callable[[Any, Array, Params], tuple[Array, Array]] | None = None  # qpos, qvel
    terminated_from_obs: Callable[[Any, Array, Params], Array] | None = None  # of the successor
    reward_from_obs: Callable[..., Array] | None = None  # (xp, obs, action, next_obs, p) -> [N]
    hides: tuple[str, ...] = ()  # what an observation does not show; hidden coordinates come as 0
    saturated: Callable[[Any, Array, Params], Array] | None = None  # rows [N] at a clip's bound
    camera: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))  # for watch


def by_state(
    state_from_obs: Callable[..., tuple[Array, Array]], function: Callable[..., Array]
) -> Callable[[Any, Array, Params], Array]:
    """Return a function (xp, f, p) of qpos and qvel as a function (xp, obs, p)."""

    def of_obs(xp: Any, obs: Array, p: Params) -> Array:
        qpos, qvel = state_from_obs(xp, obs, p)
        return function(xp, SimpleNamespace(qpos=qpos, qvel=qvel), p)

    return of_obs


def resolve(task: Task, options: Mapping[str, Any]) -> Params:
    """Return the task's parameters with `options` put over the defaults, or name a wrong one."""
    from .errors import unknown

    known = {**task.params, "frame_skip": task.frame_skip}
    for name, value in options.items():
        if name not in known:
            raise unknown(f"option of {task.id}", name, known)
        if not _alike(value, known[name]):
            raise ValueError(
                f"option {name} of {task.id} is {value!r}, expected something like {known[name]!r}"
            )
    skip: Any = options.get("frame_skip", task.frame_skip)
    if not isinstance(skip, Integral) or not 1 <= int(skip) <= 10_000:
        raise ValueError(f"frame_skip of {task.id} is {skip!r}, expected a whole number from 1")
    return SimpleNamespace(**{**known, **options})


def _alike(value: Any, default: Any) -> bool:
    """Whether a value is of its default's kind: a number, a flag, text, or as many of them."""
    if isinstance(default, (bool, np.bool_)):
        return isinstance(value, (bool, np.bool_))
    if isinstance(default, Real):
        return isinstance(value, Real) and not isinstance(value, bool) and value == value
    if isinstance(default, str):
        return isinstance(value, str)
    if isinstance(default, (tuple, list)):
        given = list(value) if isinstance(value, (tuple, list, np.ndarray)) else []
        return len(given) == len(default) and all(map(_alike, given, default))
    return True
