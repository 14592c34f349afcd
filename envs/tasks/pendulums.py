"""The two pendulums, equal bit for bit to gymnasium's v5 tasks."""

from typing import Any

from ..api import Array
from ..task import Fields, Params, Task, by_state
from .v5 import gymnasium_model, noise_normal, noise_uniform


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


def pendulum_state(xp: Any, obs: Array, p: Params) -> tuple[Array, Array]:
    """Return the two halves of the observation."""
    return obs[:, :2], obs[:, 2:]


def pendulum_reward_from_obs(
    xp: Any, obs: Array, action: Array, next_obs: Array, p: Params
) -> Array:
    """Return one for each successor that does not end the episode."""
    ended = by_state(pendulum_state, pendulum_terminated)(xp, next_obs, p)
    return xp.astype(~ended, next_obs.dtype)


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
    state_from_obs=pendulum_state,
    terminated_from_obs=by_state(pendulum_state, pendulum_terminated),
    reward_from_obs=pendulum_reward_from_obs,
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


def double_state(xp: Any, obs: Array, p: Params) -> tuple[Array, Array]:
    """Return x, angles within +-pi, and velocities as far as they are shown."""
    angles = xp.atan2(obs[:, 1:3], obs[:, 3:5])
    return xp.concat([obs[:, :1], angles], axis=1), obs[:, 5:8]


def double_at_clip(xp: Any, obs: Array, p: Params) -> Array:
    """Return the rows of which a velocity lies at its clip, +-10: it may be beyond."""
    return xp.any(xp.abs(obs[:, 5:8]) >= 10, axis=1)


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
    state_from_obs=double_state,
    hides=("velocities beyond +-10", "the tip, which lags a substep: reward and end"),
    saturated=double_at_clip,
    camera={"distance": 4.1, "trackbody": 0, "lookat": (0.0, 0.0, 0.5)},
)
