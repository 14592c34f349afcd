"""What the gymnasium v5 tasks share: their models, their reset noise, their health checks."""

from pathlib import Path
from typing import Any

import mujoco

from ..api import Array
from ..task import Fields, Params


def gymnasium_model(p: Params) -> mujoco.MjModel:
    """Compile `p.xml_file`: an absolute path, or a file that the installed gymnasium ships."""
    import gymnasium

    path = Path(p.xml_file)
    if not path.is_absolute():
        path = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / path
    if not path.exists():
        raise FileNotFoundError(f"xml_file={p.xml_file!r}: no such model at {path}")
    try:
        spec = mujoco.MjSpec.from_file(str(path))
        total, spec.compiler.settotalmass = spec.compiler.settotalmass, -1
        model = spec.compile()
    except ValueError as error:
        raise ValueError(f"xml_file={p.xml_file!r} is no model: {error}") from error
    if total > 0:  # MuJoCo 4 deprecates the compiler attribute; this is what it did
        mujoco.mj_setTotalmass(model, total)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def positions(xp: Any, f: Fields, p: Params, skip: int) -> Array:
    """Return qpos, without the first `skip` coordinates where the task hides them."""
    return f.qpos[:, skip:] if p.exclude_current_positions_from_observation else f.qpos


def x_before(xp: Any, f: Fields, p: Params) -> Array:
    """Return the root's x."""
    return f.qpos[:, 0] + 0.0


def column(x: Any) -> Any:
    """Return a parameter so that it divides [N, k]: a number as it is, [N] as [N, 1]."""
    return x if isinstance(x, float) else x[:, None]


def control_cost(xp: Any, action: Array, weight: float) -> Array:
    """Return weight * |a|^2 in the action's own dtype, as gymnasium computes it."""
    return weight * xp.sum(xp.square(action), axis=1)


def norm(xp: Any, x: Array) -> Array:
    """Return the Euclidean length of the last axis; vecdot rounds as np.linalg.norm of one row."""
    return xp.sqrt(xp.linalg.vecdot(x, x))


def between(x: Array, bounds: tuple[float, float]) -> Array:
    """Return the mask of bounds[0] < x < bounds[1]."""
    return (bounds[0] < x) & (x < bounds[1])


def unhealthy_ends(xp: Any, healthy: Array, p: Params) -> Array:
    """Return the termination mask of tasks that end when unhealthy, unless told otherwise."""
    return ~healthy if p.terminate_when_unhealthy else xp.zeros_like(healthy)


def noise_uniform(xp: Any, u: Any, p: Params) -> tuple[Array, Array]:
    """Reset to the model's pose plus uniform noise on positions and on velocities."""
    s = p.reset_noise_scale
    qpos = p.init_qpos + u.uniform(-s, s, p.nq)
    return qpos, p.init_qvel + u.uniform(-s, s, p.nv)


def noise_normal(xp: Any, u: Any, p: Params) -> tuple[Array, Array]:
    """Reset to the model's pose plus uniform noise on positions, normal noise on velocities."""
    s = p.reset_noise_scale
    qpos = p.init_qpos + u.uniform(-s, s, p.nq)
    return qpos, p.init_qvel + s * u.normal(p.nv)


def planar_info(xp: Any, f: Fields, p: Params) -> dict[str, Array]:
    """Return where a planar body is."""
    return {
        "x_position": f.qpos[:, 0] + 0.0,
        "z_distance_from_origin": f.qpos[:, 1] - p.init_qpos[..., 1],
    }


def xy_info(xp: Any, f: Fields, p: Params) -> dict[str, Array]:
    """Return where a free body is."""
    return {
        "x_position": f.qpos[:, 0] + 0.0,
        "y_position": f.qpos[:, 1] + 0.0,
        "distance_from_origin": norm(xp, f.qpos[:, :2]),
    }


def flat(xp: Any, x: Array, skip: int = 1) -> Array:
    """Return [N, bodies, k] without the first `skip` bodies (the world), as [N, -1]."""
    x = x[:, skip:]
    return xp.reshape(x, (x.shape[0], -1))


def clipped_forces(xp: Any, f: Fields, p: Params, skip: int) -> Array:
    """Return the contact forces of all bodies but the first `skip`, clipped, [N, -1]."""
    low, high = p.contact_force_range
    return xp.clip(flat(xp, f.cfrc_ext, skip), low, high)


def split_obs(xp: Any, obs: Array, p: Params, skip: int) -> tuple[Array, Array]:
    """Return qpos and qvel of an observation that begins with both; the first `skip` come as 0."""
    hidden = skip if p.exclude_current_positions_from_observation else 0
    at = p.nq - hidden
    qpos = xp.concat([xp.zeros_like(obs[:, :hidden]), obs[:, :at]], axis=1)
    return qpos, obs[:, at : at + p.nv]


def without_x(xp: Any, obs: Array, p: Params) -> tuple[Array, Array]:
    """Return the state of a planar body, x as 0."""
    return split_obs(xp, obs, p, 1)


def without_xy(xp: Any, obs: Array, p: Params) -> tuple[Array, Array]:
    """Return the state of a free body, x and y as 0."""
    return split_obs(xp, obs, p, 2)


def at_clip(xp: Any, obs: Array, p: Params) -> Array:
    """Return the rows of which a velocity lies at its clip, +-10: it may be beyond."""
    _, qvel = without_x(xp, obs, p)
    return xp.any(xp.abs(qvel) >= 10, axis=1)
