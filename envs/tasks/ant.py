"""Ant, equal bit for bit to gymnasium's v5 task."""

from typing import Any

import mujoco

from ..api import Array
from ..task import Fields, Params, Task, by_state
from .v5 import (
    clipped_forces,
    column,
    control_cost,
    gymnasium_model,
    noise_normal,
    positions,
    unhealthy_ends,
    without_xy,
    xy_info,
)


def ant_setup(model: mujoco.MjModel, p: Params) -> None:
    """Find the main body by name or number."""
    p.main = model.body(p.main_body).id


def ant_before(xp: Any, f: Fields, p: Params) -> Array:
    """Return the main body's x and y."""
    return f.xpos[:, p.main, :2] + 0.0


def ant_observe(xp: Any, f: Fields, p: Params) -> Array:
    """Return positions (less x and y), velocities and clipped contact forces."""
    parts = [positions(xp, f, p, 2), f.qvel]
    if p.include_cfrc_ext_in_observation:
        parts.append(clipped_forces(xp, f, p, 1))
    return xp.concat(parts, axis=1)


def ant_healthy(xp: Any, f: Fields, p: Params) -> Array:
    """Finite, and the torso within its range of heights."""
    low, high = p.healthy_z_range
    z = f.qpos[:, 2]
    finite = xp.all(xp.isfinite(f.qpos), axis=1) & xp.all(xp.isfinite(f.qvel), axis=1)
    return finite & (low <= z) & (z <= high)


def ant_reward(
    xp: Any, before: Array, f: Fields, action: Array, p: Params
) -> tuple[Array, dict[str, Array]]:
    """Forward velocity and a bonus for health, less control and contact costs."""
    velocity = (f.xpos[:, p.main, :2] - before) / column(p.dt)
    forward = velocity[:, 0] * p.forward_reward_weight
    survive = ant_healthy(xp, f, p) * p.healthy_reward
    ctrl = control_cost(xp, action, p.ctrl_cost_weight)
    contact = p.contact_cost_weight * xp.sum(xp.square(clipped_forces(xp, f, p, 0)), axis=1)
    terms = {
        "x_velocity": velocity[:, 0],
        "y_velocity": velocity[:, 1],
        "reward_forward": forward,
        "reward_ctrl": -ctrl,
        "reward_contact": -contact,
        "reward_survive": survive,
    }
    return forward + survive - (ctrl + contact), terms


def ant_terminated(xp: Any, f: Fields, p: Params) -> Array:
    """End when unhealthy."""
    return unhealthy_ends(xp, ant_healthy(xp, f, p), p)


ANT = Task(
    id="Ant-v5",
    model=gymnasium_model,
    fields=("xpos", "cfrc_ext"),
    frame_skip=5,
    max_episode_steps=1000,
    params={
        "xml_file": "ant.xml",
        "forward_reward_weight": 1.0,
        "ctrl_cost_weight": 0.5,
        "contact_cost_weight": 5e-4,
        "healthy_reward": 1.0,
        "main_body": 1,
        "terminate_when_unhealthy": True,
        "healthy_z_range": (0.2, 1.0),
        "contact_force_range": (-1.0, 1.0),
        "reset_noise_scale": 0.1,
        "exclude_current_positions_from_observation": True,
        "include_cfrc_ext_in_observation": True,
    },
    setup=ant_setup,
    before=ant_before,
    observe=ant_observe,
    reward=ant_reward,
    terminated=ant_terminated,
    reset=noise_normal,
    info=xy_info,
    state_from_obs=without_xy,
    terminated_from_obs=by_state(without_xy, ant_terminated),
    hides=("x", "y"),
    contact_forces=True,
    camera={"distance": 4.0, "trackbody": 1},
)
