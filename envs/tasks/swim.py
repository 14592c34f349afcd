"""The N-link swimmer of dm_control with NCAP's swim task.

Body and physics as dm_control's suite builds them (Tassa et al. 2018, arXiv:1801.00690); reward
and time feature as Bhattasali et al. (2022), arXiv:2201.05242, in their released code.
"""

import math
from typing import Any

import mujoco

from ..api import Array
from ..task import Fields, Params, Task

FORWARD_SPEED = 0.1  # m/s, of the reward


def swim_model(p: Params) -> mujoco.MjModel:
    """Compile a chain of `p.links` thin boxes of 0.1 m, head first, in a fluid."""
    if not 3 <= p.links <= 64:
        raise ValueError(f"links must be 3 to 64, got {p.links}")
    spec = mujoco.MjSpec()
    spec.modelname = "swimmer"
    spec.compiler.degree = False
    spec.option.timestep, spec.option.density = 0.002, 3000
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT.value
    slide, hinge = mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE
    limit = 2 * math.pi / p.links
    body = spec.worldbody
    for i in range(p.links):
        body = body.add_body(name=f"link_{i}", pos=[0, 0.1, 0] if i else [0, 0, 0.05])
        anchor = [0, -0.05, 0]
        if i == 0:
            body.add_joint(name="x", type=slide, axis=[1, 0, 0], pos=anchor)
            body.add_joint(name="y", type=slide, axis=[0, 1, 0], pos=anchor)
            body.add_joint(name="heading", type=hinge, axis=[0, 0, 1], pos=anchor)
            _decorate_head(body)
        else:
            joint = body.add_joint(name=f"joint_{i - 1}", type=hinge, axis=[0, 0, 1], pos=anchor)
            joint.limited, joint.range = True, [-limit, limit]
            joint.armature, joint.solref_limit = 1e-6, [0.05, 1]
            joint.solimp_limit = [0, 0.8, 0.1, 0.5, 2]
            motor = spec.add_actuator(name=f"motor_{i - 1}", target=joint.name)
            motor.trntype = mujoco.mjtTrn.mjTRN_JOINT
            motor.gear[0], motor.ctrllimited, motor.ctrlrange = 5e-4, True, [-1, 1]
        look = [0.55, 0.45, 0.3, 1]
        box = body.add_geom(name=f"inertial_{i}", type=mujoco.mjtGeom.mjGEOM_BOX, mass=0.01)
        box.size, box.rgba = [0.001, 0.05, 0.01], [0, 0, 0, 0]
        skin = body.add_geom(name=f"visual_{i}", type=mujoco.mjtGeom.mjGEOM_CAPSULE, mass=0)
        skin.size, skin.fromto, skin.rgba = [0.01, 0, 0], [0, -0.05, 0, 0, 0.05, 0], look
        body.add_site(name=f"site_{i}")
        for kind in (mujoco.mjtSensor.mjSENS_VELOCIMETER, mujoco.mjtSensor.mjSENS_GYRO):
            sensor = spec.add_sensor(type=kind, objtype=mujoco.mjtObj.mjOBJ_SITE)
            sensor.objname = f"site_{i}"
    spec.worldbody.add_light(pos=[0, 0, 2])
    ground = spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[5, 5, 0.1])
    ground.rgba = [0.75, 0.83, 0.9, 1]
    return spec.compile()


def _decorate_head(body: Any) -> None:
    head = body.add_geom(name="head", type=mujoco.mjtGeom.mjGEOM_ELLIPSOID, mass=0)
    head.size, head.pos, head.rgba = [0.02, 0.04, 0.017], [0, -0.022, 0], [0.55, 0.45, 0.3, 1]
    for name, x in (("eye_r", -0.012), ("eye_l", 0.012)):
        eye = body.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_SPHERE, mass=0)
        eye.size, eye.pos, eye.rgba = [0.005, 0, 0], [x, -0.047, 0.01], [0.1, 0.1, 0.1, 1]


def swim_setup(model: mujoco.MjModel, p: Params) -> None:
    """Keep the joints' limit, 2 pi / links rad."""
    p.limit = float(model.jnt_range[3, 1])


def _velocities(xp: Any, f: Fields) -> Array:
    """Return each link's sensors [N, links, 6]: local vx, vy, vz, then angular velocity."""
    return xp.reshape(f.sensordata, (f.sensordata.shape[0], -1, 6))


def swim_observe(xp: Any, f: Fields, p: Params) -> Array:
    """Return joint angles, local vx, vy, wz of every link, and the time feature if asked for.

    The time feature is -1 at the reset and +1 after `time_horizon` steps (tonic's).
    """
    v = _velocities(xp, f)
    planar = xp.stack([v[:, :, 0], v[:, :, 1], v[:, :, 5]], axis=2)
    parts = [f.qpos[:, 3:], xp.reshape(planar, (planar.shape[0], -1))]
    if p.time_feature:
        step = xp.round(f.time / p.dt)
        parts.append((2.0 * step / p.time_horizon - 1.0)[:, None])
    return xp.concat(parts, axis=1)


def swim_reward(
    xp: Any, before: Array, f: Fields, action: Array, p: Params
) -> tuple[Array, dict[str, Array]]:
    """Forward speed of the head over `desired_speed`, in [0, 1]; the head looks along -y."""
    speed = -_velocities(xp, f)[:, 0, 1]
    return xp.clip(speed / p.desired_speed, 0.0, 1.0), {"forward_speed": speed}


def swim_state(xp: Any, obs: Array, p: Params) -> tuple[Array, Array]:
    """Return the state with the head at the origin, heading 0: joints, and every velocity."""
    n = p.nq - 3
    v = xp.reshape(obs[:, n : n + 3 * p.links], (obs.shape[0], p.links, 3))
    # The root's joints sit 0.05 m behind the head's site, along -y.
    root = [v[:, 0, 0] + 0.05 * v[:, 0, 2], v[:, 0, 1], v[:, 0, 2]]
    turns = v[:, 1:, 2] - v[:, :-1, 2]
    qpos = xp.concat([xp.zeros_like(obs[:, :3]), obs[:, :n]], axis=1)
    return qpos, xp.concat([xp.stack(root, axis=1), turns], axis=1)


def swim_reward_from_obs(xp: Any, obs: Array, action: Array, next_obs: Array, p: Params) -> Array:
    """Return the reward: the head's speed is in the successor."""
    speed = -next_obs[:, p.nq - 3 + 1]
    return xp.clip(speed / p.desired_speed, 0.0, 1.0)


def swim_reset(xp: Any, u: Any, p: Params) -> tuple[Array, Array]:
    """Any heading, any joint angles within the limits, at rest (or all straight)."""
    heading = u.uniform(-math.pi, math.pi, 1)
    joints = u.uniform(-1.0, 1.0, p.nq - 3) * p.limit
    spread = 0.0 if p.straight_start else 1.0
    qpos = xp.concat([xp.zeros_like(joints[:, :2]), heading * spread, joints * spread], axis=1)
    return qpos, xp.zeros_like(qpos)


SWIM = Task(
    id="Swim-v0",
    model=swim_model,
    fields=("sensordata", "time"),
    frame_skip=15,
    max_episode_steps=1000,
    params={
        "links": 6,
        "desired_speed": FORWARD_SPEED,
        "time_feature": False,
        "time_horizon": 1000,
        "straight_start": False,
    },
    contexts=("desired_speed",),
    setup=swim_setup,
    observe=swim_observe,
    reward=swim_reward,
    reset=swim_reset,
    refresh="vel",
    state_from_obs=swim_state,
    reward_from_obs=swim_reward_from_obs,
    hides=("x", "y", "heading"),
    camera={"trackbody": 1, "distance": 1.2, "elevation": -60.0},
)
