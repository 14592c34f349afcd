"""Humanoid and HumanoidStandup, equal bit for bit to gymnasium's v5 tasks."""

from typing import Any

import mujoco
import numpy as np

from ..api import Array
from ..task import Fields, Params, Task, by_state
from .v5 import (
    between,
    column,
    control_cost,
    flat,
    gymnasium_model,
    noise_uniform,
    positions,
    unhealthy_ends,
    without_xy,
    xy_info,
)


def humanoid_setup(model: mujoco.MjModel, p: Params) -> None:
    """Keep the masses for the centre of mass."""
    p.body_mass = np.array(model.body_mass)
    p.total_mass = float(model.body_mass.sum())
    p.timestep = float(model.opt.timestep)


def centre_of_mass(xp: Any, f: Fields, p: Params) -> Array:
    """Return the x and y of the mass centre [N, 2]."""
    weighted = xp.sum(p.body_mass[..., None] * f.xipos[:, :, :2], axis=1)
    return weighted / column(p.total_mass)


def humanoid_observe(xp: Any, f: Fields, p: Params) -> Array:
    """Return positions (less x and y), velocities, inertias, body velocities and forces."""
    parts = [positions(xp, f, p, 2), f.qvel]
    if p.include_cinert_in_observation:
        parts.append(flat(xp, f.cinert))
    if p.include_cvel_in_observation:
        parts.append(flat(xp, f.cvel))
    if p.include_qfrc_actuator_in_observation:
        parts.append(f.qfrc_actuator[:, 6:])
    if p.include_cfrc_ext_in_observation:
        parts.append(flat(xp, f.cfrc_ext))
    return xp.concat(parts, axis=1)


def _costs(xp: Any, f: Fields, p: Params, weight: float, bounds: Any) -> tuple[Array, Array]:
    # Both Humanoids read the controls back in float64, whatever dtype the action came in.
    ctrl = control_cost(xp, f.ctrl, p.ctrl_cost_weight)
    impact = weight * xp.sum(xp.square(flat(xp, f.cfrc_ext, 0)), axis=1)
    return ctrl, xp.clip(impact, bounds[0], bounds[1])


def humanoid_reward(
    xp: Any, before: Array, f: Fields, action: Array, p: Params
) -> tuple[Array, dict[str, Array]]:
    """Velocity of the mass centre and a bonus for health, less control and contact costs."""
    velocity = (centre_of_mass(xp, f, p) - before) / column(p.dt)
    forward = p.forward_reward_weight * velocity[:, 0]
    survive = between(f.qpos[:, 2], p.healthy_z_range) * p.healthy_reward
    ctrl, contact = _costs(xp, f, p, p.contact_cost_weight, p.contact_cost_range)
    terms = {
        "x_velocity": velocity[:, 0],
        "y_velocity": velocity[:, 1],
        "reward_survive": survive,
        "reward_forward": forward,
        "reward_ctrl": -ctrl,
        "reward_contact": -contact,
    }
    return forward + survive - (ctrl + contact), terms


def humanoid_terminated(xp: Any, f: Fields, p: Params) -> Array:
    """End when the torso is too low or too high."""
    return unhealthy_ends(xp, between(f.qpos[:, 2], p.healthy_z_range), p)


def humanoid_info(xp: Any, f: Fields, p: Params) -> dict[str, Array]:
    """Return where the body is, and its tendons."""
    tendons = {"tendon_length": f.ten_length + 0.0, "tendon_velocity": f.ten_velocity + 0.0}
    return {**xy_info(xp, f, p), **tendons}


def standup_reward(
    xp: Any, before: Array, f: Fields, action: Array, p: Params
) -> tuple[Array, dict[str, Array]]:
    """Height over the physics timestep, less control and impact costs, plus one."""
    # gymnasium takes uph_cost_weight as an option and does not use it; nor is it one here.
    up = f.qpos[:, 2] / p.timestep
    ctrl, impact = _costs(xp, f, p, p.impact_cost_weight, p.impact_cost_range)
    terms = {"reward_linup": up, "reward_quadctrl": -ctrl, "reward_impact": -impact}
    return up - ctrl - impact + 1, terms


def standup_info(xp: Any, f: Fields, p: Params) -> dict[str, Array]:
    """Return where the body is, and its tendons."""
    info = humanoid_info(xp, f, p)
    info.pop("distance_from_origin")
    return {**info, "z_distance_from_origin": f.qpos[:, 2] - p.init_qpos[..., 2]}


_HUMANOID_PARAMS = {
    "ctrl_cost_weight": 0.1,
    "reset_noise_scale": 1e-2,
    "exclude_current_positions_from_observation": True,
    "include_cinert_in_observation": True,
    "include_cvel_in_observation": True,
    "include_qfrc_actuator_in_observation": True,
    "include_cfrc_ext_in_observation": True,
}
_HUMANOID_FIELDS = ("cinert", "cvel", "qfrc_actuator", "cfrc_ext", "ten_length", "ten_velocity")
HUMANOID = Task(
    id="Humanoid-v5",
    model=gymnasium_model,
    fields=("xipos", *_HUMANOID_FIELDS),
    frame_skip=5,
    max_episode_steps=1000,
    params={
        **_HUMANOID_PARAMS,
        "xml_file": "humanoid.xml",
        "forward_reward_weight": 1.25,
        "contact_cost_weight": 5e-7,
        "contact_cost_range": (-np.inf, 10.0),
        "healthy_reward": 5.0,
        "terminate_when_unhealthy": True,
        "healthy_z_range": (1.0, 2.0),
    },
    setup=humanoid_setup,
    before=centre_of_mass,
    observe=humanoid_observe,
    reward=humanoid_reward,
    terminated=humanoid_terminated,
    reset=noise_uniform,
    info=humanoid_info,
    state_from_obs=without_xy,
    terminated_from_obs=by_state(without_xy, humanoid_terminated),
    hides=("x", "y"),
    newton_on_warp=True,
    contact_forces=True,
    camera={"distance": 4.0, "trackbody": 1, "elevation": -20.0},
)
HUMANOID_STANDUP = Task(
    id="HumanoidStandup-v5",
    model=gymnasium_model,
    fields=_HUMANOID_FIELDS,
    frame_skip=5,
    max_episode_steps=1000,
    params={
        **_HUMANOID_PARAMS,
        "xml_file": "humanoidstandup.xml",
        "impact_cost_weight": 0.5e-6,
        "impact_cost_range": (-np.inf, 10.0),
    },
    setup=humanoid_setup,
    observe=humanoid_observe,
    reward=standup_reward,
    reset=noise_uniform,
    info=standup_info,
    state_from_obs=without_xy,
    hides=("x", "y"),
    newton_on_warp=True,
    contact_forces=True,
    camera={"distance": 4.0, "trackbody": 1, "elevation": -20.0},
)
