"""Reacher and Pusher, equal bit for bit to gymnasium's v5 tasks."""

from typing import Any

import mujoco

from ..api import Array
from ..task import Fields, Params, Task
from .v5 import gymnasium_model, norm


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


def reacher_state(xp: Any, obs: Array, p: Params) -> tuple[Array, Array]:
    """Return angles within +-pi and the target, which does not move."""
    angles = xp.atan2(obs[:, 2:4], obs[:, :2])
    still = xp.zeros_like(obs[:, 4:6])
    return xp.concat([angles, obs[:, 4:6]], axis=1), xp.concat([obs[:, 6:8], still], axis=1)


def reacher_reward_from_obs(
    xp: Any, obs: Array, action: Array, next_obs: Array, p: Params
) -> Array:
    """Return the reward: the way to the target is in the successor."""
    near = -norm(xp, next_obs[:, 8:10]) * p.reward_dist_weight
    return near - xp.sum(xp.square(action), axis=1) * p.reward_control_weight


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
    state_from_obs=reacher_state,
    reward_from_obs=reacher_reward_from_obs,
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


def pusher_reward_from_obs(xp: Any, obs: Array, action: Array, next_obs: Array, p: Params) -> Array:
    """Return the reward: tip, object and goal are in the successor."""
    tip, thing, goal = (next_obs[:, 14 + 3 * i : 17 + 3 * i] for i in range(3))
    near = norm(xp, thing - tip) * p.reward_near_weight
    dist = norm(xp, thing - goal) * p.reward_dist_weight
    return -near - dist - xp.sum(xp.square(action), axis=1) * p.reward_control_weight


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
    reward_from_obs=pusher_reward_from_obs,
    hides=("the object's velocity",),
    camera={"trackbody": 0, "distance": 4.0},
)
