"""Episodes that can be played again in a page: where each body was, small enough to keep."""

from typing import Any

import mujoco
import numpy as np
import torch

from ...agents import Holds, Policy, bare
from ...envs.native.env import TaskEnv
from ...envs.native.render import camera_of
from ..loops.dreamt import Reopened
from .dream_figures import Episode, imagined
from .ncap_figures import circuit_of

UNIT = 10_000  # positions and quaternions are kept as whole numbers, so many to the metre
FPS = 25  # frames a second that are kept, at most
FAN, SHOWN, LONG = 8, 6, 100  # dreams, observed numbers and steps of a fan, at most
KINDS = ("plane", "sphere", "capsule", "ellipsoid", "cylinder", "box")
Json = dict[str, Any]


def record(policy: Policy | Holds, env: TaskEnv, steps: int, what: str) -> Json:
    """Play an episode in each of some worlds; keep the median and the worst by return.

    Of an even number the median is the lower middle one. Episodes are of at most `steps`. Raises
    ValueError for worlds that are not Reverie's own.
    """
    if not isinstance(env, TaskEnv):
        raise ValueError("episodes are kept of Reverie's own tasks, on the native engine")
    states, rewards, seen, lengths = _played(policy, env, steps)
    returns = rewards.sum(axis=0)
    order = np.argsort(returns, kind="stable")
    picks = {"median": int(order[(len(order) - 1) // 2]), "worst": int(order[0])}
    stride = max(1, round(env.fps / FPS))
    model, camera = env.model, camera_of(env)
    bodies = sorted({int(g) for g in model.geom_bodyid if g})
    tracked = camera.type == mujoco.mjtCamera.mjCAMERA_TRACKING
    out: Json = {
        "reverie_episodes": 1,
        "what": what,
        "env": env.task.id,
        "fps": env.fps / stride,
        "steps": steps,
        "played": len(returns),
        "camera": {
            **{k: float(getattr(camera, k)) for k in ("azimuth", "elevation", "distance")},
            "lookat": [float(x) for x in camera.lookat],
            "track": int(camera.trackbodyid) if tracked else 0,
        },
        "bodies": bodies,
        "geoms": _geoms(env.physics.models[picks["median"]]),
        "episodes": [],
    }
    for label, world in picks.items():
        n = int(lengths[world])
        kept = [*range(0, n - 1, stride), n - 1]  # the last one always
        frames = [_frame(env.physics.models[world], states[t][world], bodies) for t in kept]
        gained = np.cumsum(rewards[:n, world])
        episode = {"label": label, "return": float(returns[world]), "frames": frames,
                   "gained": [round(float(gained[t]), 3) for t in kept]}  # fmt: skip
        if (units := _activity(policy, seen[kept, world])) is not None:
            episode["circuit"] = units
        out["episodes"].append(episode)
    return out


def _played(policy: Policy | Holds, env: TaskEnv, steps: int) -> tuple[Any, Any, Any, Any]:
    """Return states, rewards [T, N], observations [T, N, O] and lengths [N] of first episodes."""
    policy, obs = bare(policy), env.reset()
    state = policy.initial_state(env.num_envs)
    alive = np.ones(env.num_envs, bool)
    lengths = np.zeros(env.num_envs, np.int64)
    states: list[Any] = []
    rewards, seen = [], []
    while alive.any() and len(states) < steps:
        states.append(env.physics.get_state().copy())
        seen.append(obs)
        action, state = policy.act(obs, state, explore=False)
        result = env.step(action)
        rewards.append(np.where(alive, result.reward.double().numpy(), 0.0))
        lengths += alive
        alive &= ~(result.terminated | result.truncated).bool().numpy()
        obs = result.obs
    return states, np.array(rewards), torch.stack(seen), lengths


def _geoms(model: mujoco.MjModel) -> list[Json]:
    """Return what is seen of a model: kind, body, place in it, size and colour of each geom."""
    out = []
    for i in range(model.ngeom):
        kind = mujoco.mjtGeom(model.geom_type[i]).name.removeprefix("mjGEOM_").lower()
        material = int(model.geom_matid[i])
        rgba = model.mat_rgba[material] if material >= 0 else model.geom_rgba[i]
        if kind not in KINDS or rgba[3] == 0 or model.geom_group[i] > 2:
            continue
        out.append(
            {
                "kind": kind,
                "body": int(model.geom_bodyid[i]),
                "pos": _short(model.geom_pos[i]),
                "quat": _short(model.geom_quat[i]),
                "size": _short(model.geom_size[i]),
                "colour": [round(255 * float(c)) for c in rgba[:3]],
            }
        )
    return out


def _short(x: Any) -> list[float]:
    return [round(float(v), 5) for v in x]


def _frame(model: mujoco.MjModel, state: Any, bodies: list[int]) -> list[int]:
    """Return position and quaternion of each body, whole numbers, `UNIT` to one."""
    data = mujoco.MjData(model)
    mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION.value)
    mujoco.mj_kinematics(model, data)
    rows = np.concatenate([data.xpos[bodies], data.xquat[bodies]], axis=1)
    return [int(x) for x in np.rint(UNIT * rows).ravel()]


def _activity(policy: Any, obs: torch.Tensor) -> Json | None:
    """Return each unit's activity in percent for observations [T, O]; None without a circuit.

    Units are named by kind, side and segment, head first; torques lie in -100 to 100.
    """
    found = circuit_of(policy)
    if found is None:
        return None
    circuit, weights = found
    with torch.no_grad():
        now = circuit.activity(weights, obs[..., : circuit.joints], circuit.step_of(obs))
    rows: dict[str, Any] = {}
    for side, name in enumerate(("dorsal", "ventral")):
        rows[f"oscillator {name}"] = now.oscillator[..., side]
        for kind in ("neuron", "muscle"):
            for i in range(circuit.joints):
                rows[f"{kind} {name} {i + 1}"] = getattr(now, kind)[..., side, i]
    rows |= {f"torque {i + 1}": now.torque[..., i] for i in range(circuit.joints)}
    values = {name: torch.as_tensor(x).expand(len(obs)) for name, x in rows.items()}
    return {
        "units": list(values),
        "values": [[round(100 * float(v)) for v in x] for x in values.values()],
    }


def fan(dreams: Reopened, real: Episode) -> Json:
    """Return what really was observed beside dreams of the same actions, for a chart each."""
    dreamt = imagined(dreams, real, FAN)
    stride = max(1, -(-len(real.obs) // LONG))
    at = range(0, len(real.obs), stride)
    shown = range(min(SHOWN, real.obs.shape[1]))
    return {
        "step": list(at),
        "real": [[round(float(real.obs[t, i]), 4) for t in at] for i in shown],
        "dreams": [[[round(float(d[t, i]), 4) for t in at] for d in dreamt] for i in shown],
    }
