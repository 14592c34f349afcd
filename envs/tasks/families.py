"""Three families of tasks for continual and transfer learning: one body, many goals or physics.

Cheetah-Vel, Ant-Dir and Walker-Par as MACAW defines them (Mitchell et al. 2021, arXiv:2008.06043;
its released environments), on this MuJoCo and gymnasium's v5 models, with a limit of 200 steps.
Their members are contexts: `velocity`, `direction`, `variant`.
"""

from typing import Any

import mujoco
import numpy as np

from ..api import Array
from ..random import uniforms
from ..task import Fields, Params, Task, by_state
from .ant import ant_setup, ant_terminated
from .swimmer import xy_before
from .v5 import (
    at_clip,
    clipped_forces,
    column,
    control_cost,
    gymnasium_model,
    noise_normal,
    noise_uniform,
    without_x,
    x_before,
)
from .walkers import observe_clipped, walker_terminated

HORIZON = 200
VARIANTS = 8  # of Walker-Par that the goal columns can tell apart


def each(xp: Any, f: Fields, x: Any) -> Array:
    """Return a parameter, one number or [N], as [N]."""
    return xp.zeros_like(f.qpos[:, 0]) + x


def _with_goal(xp: Any, parts: list[Array], goal: list[Array], p: Params) -> Array:
    """Join the observation's parts, and the goal's columns where a policy may see them."""
    shown = [g[:, None] for g in goal] if p.show_goal else []
    return xp.concat([*parts, *shown], axis=1)


def cheetah_vel_observe(xp: Any, f: Fields, p: Params) -> Array:
    """Return positions less x, and velocities; MACAW adds the torso's place, absolute x in it."""
    parts = [f.qpos[:, 1:], f.qvel]
    if p.legacy_obs:
        parts.append(f.xpos[:, 1])
    return _with_goal(xp, parts, [each(xp, f, p.velocity)], p)


def cheetah_vel_reward(
    xp: Any, before: Array, f: Fields, action: Array, p: Params
) -> tuple[Array, dict[str, Array]]:
    """Minus the distance of the forward velocity from `velocity` (m/s), less control cost."""
    speed = (f.qpos[:, 0] - before) / p.dt
    near = -xp.abs(speed - p.velocity)
    cost = control_cost(xp, action, 0.05)
    return near - cost, {"x_velocity": speed, "reward_near": near, "reward_ctrl": -cost}


def cheetah_vel_state(xp: Any, obs: Array, p: Params) -> tuple[Array, Array]:
    """Return the state with x as 0."""
    return xp.concat([xp.zeros_like(obs[:, :1]), obs[:, :8]], axis=1), obs[:, 8:17]


CHEETAH_VEL = Task(
    id="CheetahVel-v0",
    model=gymnasium_model,
    fields=("xpos",),
    frame_skip=5,
    max_episode_steps=HORIZON,
    params={
        "xml_file": "half_cheetah.xml",
        "velocity": 1.5,
        "reset_noise_scale": 0.1,
        "legacy_obs": False,
        "show_goal": False,
    },
    contexts=("velocity",),
    before=x_before,
    observe=cheetah_vel_observe,
    reward=cheetah_vel_reward,
    reset=noise_normal,
    state_from_obs=cheetah_vel_state,
    hides=("x",),
    camera={"distance": 4.0, "trackbody": 1},
)


def ant_dir_observe(xp: Any, f: Fields, p: Params) -> Array:
    """Return positions less x and y, and velocities (27 numbers)."""
    angle = each(xp, f, p.direction)
    return _with_goal(xp, [f.qpos[:, 2:], f.qvel], [xp.cos(angle), xp.sin(angle)], p)


def ant_dir_reward(
    xp: Any, before: Array, f: Fields, action: Array, p: Params
) -> tuple[Array, dict[str, Array]]:
    """Velocity along `direction` (rad) and a bonus for health, less control and contact costs."""
    angle = each(xp, f, p.direction)
    velocity = (f.qpos[:, :2] - before) / column(p.dt)
    forward = velocity[:, 0] * xp.cos(angle) + velocity[:, 1] * xp.sin(angle)
    cost = control_cost(xp, action, 0.5)
    contact = 5e-4 * xp.sum(xp.square(clipped_forces(xp, f, p, 0)), axis=1)
    terms = {"reward_forward": forward, "reward_ctrl": -cost, "reward_contact": -contact}
    return forward - cost - contact + 1.0, terms


def ant_dir_state(xp: Any, obs: Array, p: Params) -> tuple[Array, Array]:
    """Return the state with x and y as 0."""
    return xp.concat([xp.zeros_like(obs[:, :2]), obs[:, :13]], axis=1), obs[:, 13:27]


ANT_DIR = Task(
    id="AntDir-v0",
    model=gymnasium_model,
    fields=("cfrc_ext",),
    frame_skip=5,
    max_episode_steps=HORIZON,
    params={
        "xml_file": "ant.xml",
        "direction": 0.0,
        "main_body": 1,
        "terminate_when_unhealthy": True,
        "healthy_z_range": (0.2, 1.0),
        "contact_force_range": (-1.0, 1.0),
        "reset_noise_scale": 0.1,
        "show_goal": False,
    },
    contexts=("direction",),
    setup=ant_setup,
    before=xy_before,
    observe=ant_dir_observe,
    reward=ant_dir_reward,
    terminated=ant_terminated,
    reset=noise_normal,
    state_from_obs=ant_dir_state,
    terminated_from_obs=by_state(ant_dir_state, ant_terminated),
    hides=("x", "y"),
    contact_forces=True,
    camera={"distance": 4.0, "trackbody": 1},
)


def walker_par_model(p: Params) -> mujoco.MjModel:
    """Return Walker2d with masses, inertias, dampings and frictions of `variant`; 0 is its own.

    Factors 1.5^U(-3, 3), of damping 1.3^U(-3, 3), as MACAW's; its own draws are in a pickled file.
    """
    model = gymnasium_model(p)
    variant = int(p.variant)
    if variant != p.variant or variant < 0:
        raise ValueError(f"variant must be 0, 1, 2, ..., got {p.variant}")
    if variant:
        arrays = (model.body_mass, model.body_inertia, model.dof_damping, model.geom_friction)
        which, at = np.zeros(1, np.int64), 0
        for array, base in zip(arrays, (1.5, 1.5, 1.3, 1.5), strict=True):
            u = uniforms(np, variant, which, which, at, array.size)
            array *= base ** (6 * u - 3).reshape(array.shape)
            at += array.size
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def walker_par_observe(xp: Any, f: Fields, p: Params) -> Array:
    """Return positions less x, and velocities clipped to +-10 (17 numbers)."""
    variant = each(xp, f, p.variant)
    goal = [xp.astype(variant == i, f.qpos.dtype) for i in range(VARIANTS)] if p.show_goal else []
    return _with_goal(xp, [observe_clipped(xp, f, p)], goal, p)


def walker_par_reward(
    xp: Any, before: Array, f: Fields, action: Array, p: Params
) -> tuple[Array, dict[str, Array]]:
    """Forward velocity plus one, less control cost."""
    speed = (f.qpos[:, 0] - before) / p.dt
    cost = control_cost(xp, action, 1e-3)
    return speed + 1.0 - cost, {"x_velocity": speed, "reward_ctrl": -cost}


WALKER_PAR = Task(
    id="WalkerPar-v0",
    model=walker_par_model,
    fields=(),
    frame_skip=4,
    max_episode_steps=HORIZON,
    params={
        "xml_file": "walker2d_v5.xml",
        "variant": 0.0,
        "healthy_z_range": (0.8, 2.0),
        "healthy_angle_range": (-1.0, 1.0),
        "terminate_when_unhealthy": True,
        "reset_noise_scale": 5e-3,
        "exclude_current_positions_from_observation": True,
        "show_goal": False,
    },
    contexts=("variant",),
    model_contexts=("variant",),
    before=x_before,
    observe=walker_par_observe,
    reward=walker_par_reward,
    terminated=walker_terminated,
    reset=noise_uniform,
    state_from_obs=without_x,
    terminated_from_obs=by_state(without_x, walker_terminated),
    hides=("x", "velocities beyond +-10"),
    saturated=at_clip,
    camera={"distance": 4.0, "trackbody": 1, "elevation": -20.0},
)
