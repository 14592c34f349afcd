"""Pendulum and cart-pole swing-up: small, fast, without contacts, for contexts and dreams.

Angle 0 is upright. The observation shows the whole state, so reward and state follow from it.
"""

import math
from typing import Any

import mujoco

from ..api import Array
from ..task import Fields, Params, Task, by_state

RAIL = 1.8  # m to either side


def _tolerance(xp: Any, x: Array, margin: float) -> Array:
    """Return 1 at 0, falling as a Gaussian to 0.1 at the margin."""
    return xp.exp(math.log(0.1) * (x / margin) ** 2)


def _spec() -> mujoco.MjSpec:
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.option.timestep, spec.option.integrator = 0.02, mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT.value
    spec.worldbody.add_light(pos=[0, -2, 3], dir=[0, 0.6, -1])
    return spec


def _pole(body: Any, radius: float, mass: float, damping: float) -> None:
    """Put a pole of 1 m on a hinge about y; it stands up at angle 0."""
    pole = body.add_body(name="pole")
    hinge = pole.add_joint(name="hinge", type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 1, 0])
    hinge.damping[0] = damping
    rod = pole.add_geom(name="rod", type=mujoco.mjtGeom.mjGEOM_CAPSULE, mass=mass)
    rod.size, rod.fromto, rod.rgba = [radius, 0, 0], [0, 0, 0, 0, 0, 1], [0.8, 0.4, 0.2, 1]


def _motor(spec: Any, joint: str, gear: float) -> None:
    motor = spec.add_actuator(name="motor", target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    motor.gear[0], motor.ctrllimited, motor.ctrlrange = gear, True, [-1, 1]


def pendulum_model(p: Params) -> mujoco.MjModel:
    """Compile a pole with a motor too weak to lift it (2.0 N m against 4.9)."""
    spec = _spec()
    _pole(spec.worldbody, 0.03, 1.0, 0.1)
    _motor(spec, "hinge", 2.0)
    return spec.compile()


def cart_pole_model(p: Params) -> mujoco.MjModel:
    """Compile a cart on rails of 1.8 m to either side, and a pole on it."""
    spec = _spec()
    cart = spec.worldbody.add_body(name="cart")
    slide = cart.add_joint(name="slide", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[1, 0, 0])
    slide.damping[0], slide.limited, slide.range = 0.1, True, [-RAIL, RAIL]
    box = cart.add_geom(name="box", type=mujoco.mjtGeom.mjGEOM_BOX, mass=1.0)
    box.size, box.rgba = [0.2, 0.15, 0.1], [0.3, 0.45, 0.7, 1]
    _pole(cart, 0.045, 0.3, 0.01)
    _motor(spec, "slide", 10.0)
    return spec.compile()


def observe(xp: Any, f: Fields, p: Params) -> Array:
    """Return the cart's x if there is one, the angle's cosine and sine, and scaled velocities."""
    x, angle, turn = f.qpos[:, :-1], f.qpos[:, -1:], f.qvel[:, -1:] / 5
    return xp.concat([x, xp.cos(angle), xp.sin(angle), f.qvel[:, :-1] / 2, turn], axis=1)


def state_from_obs(xp: Any, obs: Array, p: Params) -> tuple[Array, Array]:
    """Return qpos and qvel; the angle within +-pi."""
    n = p.nq - 1  # coordinates before the angle
    angle = xp.atan2(obs[:, n + 1], obs[:, n])[:, None]
    qvel = xp.concat([obs[:, n + 2 : -1] * 2, obs[:, -1:] * 5], axis=1)
    return xp.concat([obs[:, :n], angle], axis=1), qvel


def upright(xp: Any, f: Fields, p: Params) -> Array:
    """Return the reward: upright, slow, and in the middle of the rails, in [0, 1]."""
    up = (1 + xp.cos(f.qpos[:, -1])) / 2
    slow = (1 + _tolerance(xp, f.qvel[:, -1], 5.0)) / 2
    return up * slow * ((1 + _tolerance(xp, f.qpos[:, 0], 2.0)) / 2 if p.nq == 2 else 1.0)


def reward(
    xp: Any, before: Array, f: Fields, action: Array, p: Params
) -> tuple[Array, dict[str, Array]]:
    """Return the reward of where the step led."""
    value = upright(xp, f, p)
    return value, {"reward_upright": value}


def reward_from_obs(xp: Any, obs: Array, action: Array, next_obs: Array, p: Params) -> Array:
    """Return the reward of the successor."""
    return by_state(state_from_obs, upright)(xp, next_obs, p)


def pendulum_reset(xp: Any, u: Any, p: Params) -> tuple[Array, Array]:
    """Hang down, almost at rest."""
    return math.pi + u.uniform(-0.3, 0.3, 1), u.uniform(-0.1, 0.1, 1)


def cart_pole_reset(xp: Any, u: Any, p: Params) -> tuple[Array, Array]:
    """Hang down near the middle, almost at rest; or anywhere (`wide`)."""
    if p.wide:
        x, angle = u.uniform(-1.0, 1.0, 1), u.uniform(-math.pi, math.pi, 1)
        qvel = xp.concat([u.uniform(-1.0, 1.0, 1), u.uniform(-3.0, 3.0, 1)], axis=1)
        return xp.concat([x, angle], axis=1), qvel
    x, angle = u.uniform(-0.1, 0.1, 1), math.pi + u.uniform(-0.1, 0.1, 1)
    return xp.concat([x, angle], axis=1), u.uniform(-0.05, 0.05, 2)


PENDULUM_SWING_UP = Task(
    id="PendulumSwingUp-v0",
    model=pendulum_model,
    fields=(),
    frame_skip=2,
    max_episode_steps=200,
    params={},
    observe=observe,
    reward=reward,
    reset=pendulum_reset,
    refresh="vel",
    state_from_obs=state_from_obs,
    reward_from_obs=reward_from_obs,
    camera={"distance": 4.0, "lookat": (0.0, 0.0, 0.0), "elevation": -10.0, "azimuth": 90.0},
)
CART_POLE_SWING_UP = Task(
    id="CartPoleSwingUp-v0",
    model=cart_pole_model,
    fields=(),
    frame_skip=2,
    max_episode_steps=250,
    params={"wide": False},
    observe=observe,
    reward=reward,
    reset=cart_pole_reset,
    refresh="vel",
    state_from_obs=state_from_obs,
    reward_from_obs=reward_from_obs,
    camera={"distance": 5.0, "lookat": (0.0, 0.0, 0.0), "elevation": -10.0, "azimuth": 90.0},
)
