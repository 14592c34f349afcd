"""From K MuJoCo models to one Warp model: what differs between contexts becomes arrays [K, ...]."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import mujoco
import mujoco_warp as mjw
import numpy as np
import warp as wp

from ..worlds import Worlds

# Read by parts of the engine that our models leave off: they may differ, the first row counts.
_IDLE = {"dof_length": "sleeping", "site_size": "touch and range sensors"}
_TOUCH = [mujoco.mjtSensor.mjSENS_TOUCH.value, mujoco.mjtSensor.mjSENS_INSIDESITE.value]


def supported(worlds: Worlds) -> tuple[list[Any], dict[str, str]]:
    """Return models that Warp takes, and what the run's stamp should say was changed for it.

    Raises ValueError where the task uses what the engine has not, with what to do.
    """
    notes: dict[str, str] = {}
    models = worlds.models
    if models[0].opt.solver == mujoco.mjtSolver.mjSOL_PGS:
        if not worlds.task.newton_on_warp:
            raise ValueError(
                f"{worlds.task.id} asks for the PGS solver, which MuJoCo Warp has not: set "
                'solver="Newton" in its model, or newton_on_warp=True in its Task if it may take '
                "Newton there, or leave device out"
            )
        models = [copy.copy(m) for m in models]
        for model in models:
            model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
        notes["solver"] = "Newton instead of the model's PGS, which Warp has not"
    if models[0].opt.enableflags & mujoco.mjtEnableBit.mjENBL_SLEEP.value:
        raise ValueError(
            f"{worlds.task.id} lets bodies sleep, which a masked reset does not undo on MuJoCo "
            "Warp: clear the flag in its model, or leave device out"
        )
    try:
        with wp.ScopedDevice("cpu"):
            mjw.put_model(models[0])
    except NotImplementedError as error:
        raise ValueError(
            f"{worlds.task.id} uses what MuJoCo Warp has not: {error} Change the model, or leave "
            "device out: the native engine has it"
        ) from error
    return models, notes


def put(models: Sequence[Any], device: str) -> Any:
    """Return the Warp model of K models; world i reads row i mod K of what differs."""
    with wp.ScopedDevice(device):
        model = mjw.put_model(models[0])
    if len(models) == 1:
        return model
    fixed = models[0].body_weldid == 0  # where the engine places geoms once, for all worlds
    for m in models[1:]:
        moved = (m.body_pos != models[0].body_pos)[fixed].any()
        if moved or (m.geom_pos != models[0].geom_pos)[fixed[m.geom_bodyid]].any():
            raise ValueError(_refusal("place of the static geoms", ["the first", "another"]))
    with wp.ScopedDevice("cpu"):
        rows = [mjw.put_model(m) for m in models]
    touch = bool(np.isin(models[0].sensor_type, _TOUCH).any())
    for target, parts in ((model, rows), (model.opt, [r.opt for r in rows])):
        for field in dataclasses.fields(target):
            values = [getattr(part, field.name) for part in parts]
            if isinstance(values[0], wp.array):
                _stack(target, field, values, touch, device)
            elif field.name == "has_fluid":
                model.has_fluid = any(values)
            elif isinstance(values[0], (bool, int, float)) and len(set(values)) > 1:
                raise ValueError(_refusal(field.name, values))
    return model


def _stack(target: Any, field: Any, values: list[Any], touch: bool, device: str) -> None:
    arrays = [v.numpy() for v in values]
    if all(np.array_equal(arrays[0], a, equal_nan=True) for a in arrays[1:]):
        return
    if field.name in _IDLE and not (field.name == "site_size" and touch):
        return
    if getattr(field.type, "shape", ("",))[0] != "*":
        raise ValueError(_refusal(field.name, [a.tolist() for a in arrays]))
    stacked = np.concatenate([a[:1] for a in arrays])
    setattr(target, field.name, wp.array(stacked, dtype=values[0].dtype, device=device))


def _refusal(name: str, values: list[Any]) -> str:
    return (
        f"MuJoCo Warp keeps one {name} for all worlds, and the contexts have several "
        f"({values[0]}, ... {values[-1]}): make one environment for each, or leave device out"
    )


def sizes(worlds: Worlds, steps: int = 400) -> tuple[int, int]:
    """Return njmax and nconmax from a probe on the native engine.

    Its worlds play random controls, half of them bang-bang, and are not restarted: fallen bodies
    touch the most. Twice the peak of constraint rows, rounded up to 32; four times that of
    contacts, whose pool also holds the candidate pairs.
    """
    from ..native.env import TaskEnv

    count = max(16, len(worlds.models))
    env = TaskEnv(worlds.task, count, context=worlds.contexts, options=worlds.options)
    contacts, rows = (env.physics.batch.bind(name) for name in ("ncon", "nefc"))
    rng = np.random.default_rng(0)
    most_contacts = most_rows = 0
    for step in range(steps):
        control = rng.uniform(env.low, env.high, (count, env.act_dim))
        bang = step % 20 >= 10
        env.physics.step(
            np.where(control > 0, env.high, env.low) if bang else control, env.p.frame_skip
        )
        most_contacts = max(most_contacts, int(contacts.max()))
        most_rows = max(most_rows, int(rows.max()))
    return 32 * max(1, -(-2 * most_rows // 32)), max(8, 4 * most_contacts)
