"""The two pendulums, Reacher and Pusher, equal bit for bit to gymnasium's v5 tasks."""

from typing import Any

import mujoco

from ..api import Array
from ..task import Fields, Params, Task
from .common import gymnasium_model, noise_normal, noise_uniform, norm


def pendulum_observe(xp: Any, f: Fields, p: Params) -> Array:
    """Return positions and velocities."""
    return xp.concat([f.qpos, f.qvel], axis=1)


def pendulum_terminated(xp: Any, f: Fields, p: Params) -> Array:
    """End when the pole leaves +-0.2 rad or anything is not finite."""
    finite = xp.all(xp.isfinite(f.qpos), axis=1) & xp.all(xp.isfinite(f.qvel), axis=1)
    return ~(finite & (xp.abs(f.qpos[:, 1]) <= 0.2))


def pendulum_reward(
    xp: Any, before: Array, f: Fields, action: Array, p: Params
) -> tuple[Array, dict[str, Array]]:
    """One for each step that does not end the episode."""
    alive = xp.astype(~pendulum_terminated(xp, f, p), f.qpos.dtype)
    return alive, {"reward_survive": alive}


INVERTED_PENDULUM = Task(
    id="InvertedPendulum-v5",
    model=gymnasium_model,
    fields=(),
    frame_skip=2,
    max_episode_steps=1000,
    params={"xml_file": "inverted_pendulum.xml", "reset_noise_scale": 0.01},
    observe=pendulum_observe,
    reward=pendulum_reward,
    terminated=pendulum_terminated,
    reset=noise_uniform,
    camera={"distance": 2.04, "trackbody": 0},
)


def double_observe(xp: Any, f: Fields, p: Params) -> Array:
    """Return the cart's x, the angles' sines and cosines, velocities and the cart's force."""
    angles = f.qpos[:, 1:]
    parts = [f.qpos[:, :1], xp.sin(angles), xp.cos(angles), xp.clip(f.qvel, -10, 10)]
    return xp.concat([*parts, xp.clip(f.qfrc_constraint[:, :1], -10, 10)], axis=1)


def double_terminated(xp: Any, f: Fields, p: Params) -> Array:
    """End when the tip is at or below 1 m."""
    return f.site_xpos[:, 0, 2] <= 1


def double_reward(
    xp: Any, before: Array, f: Fields, action: Array, p: Params
) -> tuple[Array, dict[str, Array]]:
    """A bonus for staying up, less the tip's distance and the angular velocities."""
    x, y = f.site_xpos[:, 0, 0], f.site_xpos[:, 0, 2]
    distance = 0.01 * x**2 + (y - 2) ** 2
    velocity = 1e-3 * f.qvel[:, 1] ** 2 + 5e-3 * f.qvel[:, 2] ** 2
    alive = p.healthy_reward * ~double_terminated(xp, f, p)
    terms = {
        "reward_survive": alive,
        "distance_penalty": -distance,
        "velocity_penalty": -velocity,
    }
    return alive - distance - velocity, terms


INVERTED_DOUBLE_PENDULUM = Task(
    id="InvertedDoublePendulum-v5",
    model=gymnasium_model,
    fields=("site_xpos", "qfrc_constraint"),
    frame_skip=5,
    max_episode_steps=1000,
    params={
        "xml_file": "inverted_double_pendulum.xml",
        "healthy_reward": 10.0,
        "reset_noise_scale": 0.1,
    },
    observe=double_observe,
    reward=double_reward,
    terminated=double_terminated,
    reset=noise_normal,
    camera={"distance": 4.1, "trackbody": 0, "lookat": (0.0, 0.0, 0.5)},
)


def reacher_setup(model: mujoco.MjModel, p: Params) -> None:
    """Find the fingertip and the target."""
    p.fingertip, p.target = model.body("fingertip").id, model.body("target").id


def reacher_observe(xp: Any, f: Fields, p: Params) -> Array:
    """Return the arm's angles, the target, the arm's velocities and the way to the target."""
    angles = f.qpos[:, :2]
    way = (f.xpos[:, p.fingertip] - f.xpos[:, p.target])[:, :2]
    parts = [xp.cos(angles), xp.sin(angles), f.qpos[:, 2:], f.qvel[:, :2], way]
    return xp.concat(parts, axis=1)


def reacher_reward(
    xp: Any, before: Array, f: Fields, action: Array, p: Params
) -> tuple[Array, dict[str, Array]]:
    """Minus the distance to the target, minus the control cost."""
    way = f.xpos[:, p.fingertip] - f.xpos[:, p.target]
    near = -norm(xp, way) * p.reward_dist_weight
    ctrl = -xp.sum(xp.square(action), axis=1) * p.reward_control_weight
    return near + ctrl, {"reward_dist": near, "reward_ctrl": ctrl}


def in_reach(xp: Any, point: Array) -> Array:
    """Return whether a target lies in the disc of radius 0.2 m."""
    return norm(xp, point) < 0.2


def reacher_reset(xp: Any, u: Any, p: Params) -> tuple[Array, Array]:
    """Draw the arm's pose, a target in the disc, and small velocities of the arm."""
    qpos = u.uniform(-0.1, 0.1, p.nq) + p.init_qpos
    goal = u.accept((-0.2, -0.2), (0.2, 0.2), in_reach)
    qvel = p.init_qvel + u.uniform(-0.005, 0.005, p.nv)
    qpos = xp.concat([qpos[:, :-2], goal], axis=1)
    return qpos, xp.concat([qvel[:, :-2], xp.zeros_like(qvel[:, -2:])], axis=1)


REACHER = Task(
    id="Reacher-v5",
    model=gymnasium_model,
    fields=("xpos",),
    frame_skip=2,
    max_episode_steps=50,
    params={"xml_file": "reacher.xml", "reward_dist_weight": 1, "reward_control_weight": 1},
    setup=reacher_setup,
    observe=reacher_observe,
    reward=reacher_reward,
    reset=reacher_reset,
    camera={"trackbody": 0, "distance": 0.9, "elevation": -90.0},
)


def pusher_setup(model: mujoco.MjModel, p: Params) -> None:
    """Find the arm's tip, the object and the goal."""
    p.tip, p.object, p.goal = (model.body(n).id for n in ("tips_arm", "object", "goal"))


def pusher_observe(xp: Any, f: Fields, p: Params) -> Array:
    """Return the arm's angles and velocities, and where tip, object and goal are."""
    places = [f.xpos[:, body] for body in (p.tip, p.object, p.goal)]
    return xp.concat([f.qpos[:, :7], f.qvel[:, :7], *places], axis=1)


def pusher_reward(
    xp: Any, before: Array, f: Fields, action: Array, p: Params
) -> tuple[Array, dict[str, Array]]:
    """Minus the distances object-goal and object-tip, minus the control cost."""
    thing = f.xpos[:, p.object]
    near = -norm(xp, thing - f.xpos[:, p.tip]) * p.reward_near_weight
    dist = -norm(xp, thing - f.xpos[:, p.goal]) * p.reward_dist_weight
    ctrl = -xp.sum(xp.square(action), axis=1) * p.reward_control_weight
    terms = {"reward_dist": dist, "reward_ctrl": ctrl, "reward_near": near}
    return dist + ctrl + near, terms


def clear_of_goal(xp: Any, point: Array) -> Array:
    """Return whether an object lies more than 0.17 m from the goal."""
    return norm(xp, point) > 0.17


def pusher_reset(xp: Any, u: Any, p: Params) -> tuple[Array, Array]:
    """Put the arm at rest, the object off the goal, and give the arm small velocities."""
    place = u.accept((-0.3, -0.2), (0.0, 0.2), clear_of_goal)
    qvel = p.init_qvel + u.uniform(-0.005, 0.005, p.nv)
    arm = xp.zeros_like(qvel[:, : p.nq - 4]) + p.init_qpos[..., :-4]
    qpos = xp.concat([arm, place, xp.zeros_like(place)], axis=1)
    return qpos, xp.concat([qvel[:, :-4], xp.zeros_like(qvel[:, -4:])], axis=1)


PUSHER = Task(
    id="Pusher-v5",
    model=gymnasium_model,
    fields=("xpos",),
    frame_skip=5,
    max_episode_steps=100,
    params={
        "xml_file": "pusher_v5.xml",
        "reward_near_weight": 0.5,
        "reward_dist_weight": 1,
        "reward_control_weight": 0.1,
    },
    setup=pusher_setup,
    observe=pusher_observe,
    reward=pusher_reward,
    reset=pusher_reset,
    camera={"trackbody": 0, "distance": 4.0},
)
