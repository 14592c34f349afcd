"""Swimmer, equal bit for bit to gymnasium's v5 task."""

from typing import Any

from ..api import Array
from ..task import Fields, Params, Task
from .v5 import column, control_cost, gymnasium_model, noise_uniform, positions, without_xy, xy_info


def xy_before(xp: Any, f: Fields, p: Params) -> Array:
    """Return the root's x and y."""
    return f.qpos[:, :2] + 0.0


def observe_swimmer(xp: Any, f: Fields, p: Params) -> Array:
    """Return positions (less x and y) and velocities."""
    return xp.concat([positions(xp, f, p, 2), f.qvel], axis=1)


def swimmer_reward(
    xp: Any, before: Array, f: Fields, action: Array, p: Params
) -> tuple[Array, dict[str, Array]]:
    """Velocity along x less control cost."""
    velocity = (f.qpos[:, :2] - before) / column(p.dt)
    forward = p.forward_reward_weight * velocity[:, 0]
    cost = control_cost(xp, action, p.ctrl_cost_weight)
    terms = {
        "x_velocity": velocity[:, 0],
        "y_velocity": velocity[:, 1],
        "reward_forward": forward,
        "reward_ctrl": -cost,
    }
    return forward - cost, terms


SWIMMER = Task(
    id="Swimmer-v5",
    model=gymnasium_model,
    fields=(),
    frame_skip=4,
    max_episode_steps=1000,
    params={
        "xml_file": "swimmer.xml",
        "forward_reward_weight": 1.0,
        "ctrl_cost_weight": 1e-4,
        "reset_noise_scale": 0.1,
        "exclude_current_positions_from_observation": True,
    },
    before=xy_before,
    observe=observe_swimmer,
    reward=swimmer_reward,
    reset=noise_uniform,
    info=xy_info,
    state_from_obs=without_xy,
    hides=("x", "y"),
    camera={"distance": 6.0, "trackbody": 1, "elevation": -60.0},
)
