"""Hopper and Walker2d, equal bit for bit to gymnasium's v5 tasks."""

from typing import Any

from ..api import Array
from ..task import Fields, Params, Task, by_state
from .v5 import (
    at_clip,
    between,
    control_cost,
    gymnasium_model,
    noise_uniform,
    planar_info,
    positions,
    unhealthy_ends,
    without_x,
    x_before,
)


def observe_clipped(xp: Any, f: Fields, p: Params) -> Array:
    """Return positions (less x) and velocities clipped to +-10."""
    return xp.concat([positions(xp, f, p, 1), xp.clip(f.qvel, -10, 10)], axis=1)


def hopper_healthy(xp: Any, f: Fields, p: Params) -> Array:
    """Upright, high enough, and no coordinate beyond its range."""
    upright = between(f.qpos[:, 1], p.healthy_z_range) & between(
        f.qpos[:, 2], p.healthy_angle_range
    )
    calm = xp.all(between(f.qpos[:, 2:], p.healthy_state_range), axis=1) & xp.all(
        between(f.qvel, p.healthy_state_range), axis=1
    )
    return upright & calm


def walker_healthy(xp: Any, f: Fields, p: Params) -> Array:
    """Upright and neither fallen nor flying."""
    return between(f.qpos[:, 1], p.healthy_z_range) & between(f.qpos[:, 2], p.healthy_angle_range)


def _walk(
    xp: Any, before: Array, f: Fields, action: Array, p: Params, healthy: Array
) -> tuple[Array, dict[str, Array]]:
    velocity = (f.qpos[:, 0] - before) / p.dt
    forward = p.forward_reward_weight * velocity
    survive = healthy * p.healthy_reward
    cost = control_cost(xp, action, p.ctrl_cost_weight)
    terms = {
        "x_velocity": velocity,
        "reward_forward": forward,
        "reward_ctrl": -cost,
        "reward_survive": survive,
    }
    return forward + survive - cost, terms


def hopper_reward(
    xp: Any, before: Array, f: Fields, action: Array, p: Params
) -> tuple[Array, dict[str, Array]]:
    """Forward velocity and a bonus for health, less control cost."""
    return _walk(xp, before, f, action, p, hopper_healthy(xp, f, p))


def hopper_terminated(xp: Any, f: Fields, p: Params) -> Array:
    """End when unhealthy."""
    return unhealthy_ends(xp, hopper_healthy(xp, f, p), p)


def walker_reward(
    xp: Any, before: Array, f: Fields, action: Array, p: Params
) -> tuple[Array, dict[str, Array]]:
    """Forward velocity and a bonus for health, less control cost."""
    return _walk(xp, before, f, action, p, walker_healthy(xp, f, p))


def walker_terminated(xp: Any, f: Fields, p: Params) -> Array:
    """End when unhealthy."""
    return unhealthy_ends(xp, walker_healthy(xp, f, p), p)


_WALK_PARAMS = {
    "forward_reward_weight": 1.0,
    "ctrl_cost_weight": 1e-3,
    "healthy_reward": 1.0,
    "terminate_when_unhealthy": True,
    "reset_noise_scale": 5e-3,
    "exclude_current_positions_from_observation": True,
}
HOPPER = Task(
    id="Hopper-v5",
    model=gymnasium_model,
    fields=(),
    frame_skip=4,
    max_episode_steps=1000,
    params={
        **_WALK_PARAMS,
        "xml_file": "hopper.xml",
        "healthy_state_range": (-100.0, 100.0),
        "healthy_z_range": (0.7, float("inf")),
        "healthy_angle_range": (-0.2, 0.2),
    },
    before=x_before,
    observe=observe_clipped,
    reward=hopper_reward,
    terminated=hopper_terminated,
    reset=noise_uniform,
    info=planar_info,
    state_from_obs=without_x,
    terminated_from_obs=by_state(without_x, hopper_terminated),
    hides=("x", "velocities beyond +-10"),
    saturated=at_clip,
    camera={"distance": 3.0, "trackbody": 1, "elevation": -20.0},
)
WALKER2D = Task(
    id="Walker2d-v5",
    model=gymnasium_model,
    fields=(),
    frame_skip=4,
    max_episode_steps=1000,
    params={
        **_WALK_PARAMS,
        "xml_file": "walker2d_v5.xml",
        "healthy_z_range": (0.8, 2.0),
        "healthy_angle_range": (-1.0, 1.0),
    },
    before=x_before,
    observe=observe_clipped,
    reward=walker_reward,
    terminated=walker_terminated,
    reset=noise_uniform,
    info=planar_info,
    state_from_obs=without_x,
    terminated_from_obs=by_state(without_x, walker_terminated),
    hides=("x", "velocities beyond +-10"),
    saturated=at_clip,
    camera={"distance": 4.0, "trackbody": 1, "elevation": -20.0},
)
