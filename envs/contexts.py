"""Contexts: a task's named parameters, physical or of the reward, in K variants.

Source of the idea: contextual MDPs (Hallak et al. 2015, arXiv:1502.02259).
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np

from .api import Array
from .errors import unknown
from .task import Params, Task

Model = Any  # mujoco.MjModel, whose stubs are not followed


MOST = 10_000  # contexts of a command line


@dataclass(frozen=True)
class Contexts:
    """K rows of values for d named features; world i plays row i mod K.

    Physical features (`FEATURES`) are absolute where the model has one number (gravity, density,
    viscosity, timestep) and factors of the model's own values otherwise; `mass:torso` is the
    factor of one body. Any other name is a parameter of the task that may differ between worlds.
    """

    names: tuple[str, ...]
    table: Array  # [K, d] float64

    def __post_init__(self) -> None:
        """Check the shape and that every value is finite."""
        table = np.array(self.table, np.float64)
        if table.ndim != 2 or table.shape[1] != len(self.names) or not len(table):
            raise ValueError(f"a table of {len(self.names)} features has shape {table.shape}")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"a feature is named twice: {', '.join(self.names)}")
        if not np.isfinite(table).all():
            raise ValueError(f"context values must be finite, got {table.tolist()}")
        table.flags.writeable = False
        object.__setattr__(self, "table", table)

    def __len__(self) -> int:
        return len(self.table)

    @classmethod
    def grid(cls, values: Mapping[str, float | Iterable[float]]) -> "Contexts":
        """Return every combination of the features' values, the last feature varying fastest."""
        columns = [v if isinstance(v, Iterable) else [v] for v in values.values()]
        table = np.array(list(itertools.product(*columns)), np.float64)
        return cls(tuple(values), table.reshape(len(table), len(values)))


def spaced(texts: Sequence[str]) -> set[str]:
    """Return the features of a command line's grid whose values stand at equal ratios (`log:`)."""
    return {text.partition("=")[0] for text in texts if "=log:" in text}


def parse_contexts(texts: Sequence[str]) -> Contexts | None:
    """Return the grid of `gravity=4.9,9.8` and further features; None for no text."""
    values = parse_values(texts)
    return Contexts.grid(values) if values else None


def parse_values(texts: Sequence[str]) -> dict[str, list[float]]:
    """Return the values of each feature in `gravity=4.9,9.8` and further texts.

    `length=log:0.3:3:20` is 20 values from 0.3 to 3 at equal ratios, `lin:` at equal distances.
    """
    values: dict[str, list[float]] = {}
    for text in texts:
        name, equals, numbers = text.partition("=")
        if name in values:
            raise ValueError(f"--context {text!r}: {name} is given twice; say {name}=1,2")
        try:
            values[name] = _spaced(numbers) or [float(x) for x in numbers.split(",")]
        except ValueError:
            equals = ""
        if not equals:
            raise ValueError(
                f"--context {text!r}: give a name and numbers, gravity=4.9,9.8 or "
                "length=log:0.3:3:20"
            )
    count = math.prod(len(row) for row in values.values())
    if count > MOST:
        raise ValueError(f"--context: {count:,} combinations, of which {MOST:,} are the most")
    return values


def _spaced(text: str) -> list[float]:
    """Return the values of `log:FIRST:LAST:COUNT` or `lin:`; none for other texts."""
    way, *numbers = text.split(":")
    if way not in ("log", "lin"):
        return []
    first, last = (float(x) for x in numbers[:2])
    count = int("".join(numbers[2:]))
    if not 2 <= count <= MOST or (way == "log" and min(first, last) <= 0):
        raise ValueError(text)
    return [float(x) for x in (np.geomspace if way == "log" else np.linspace)(first, last, count)]


def _option(name: str) -> Callable[[Model, float, str], None]:
    def put(model: Model, value: float, element: str) -> None:
        if element:
            raise ValueError(f"{name} belongs to the whole model, it has no {element!r}")
        if value < 0 or (name == "timestep" and value == 0):
            raise ValueError(f"{name} must be positive, got {value}")
        setattr(model.opt, name, value)

    return put


def _gravity(model: Model, value: float, element: str) -> None:
    if element:
        raise ValueError(f"gravity belongs to the whole model, it has no {element!r}")
    model.opt.gravity[2] = -value


def _rows(model: Model, kind: str, element: str) -> Any:
    """Return the indices of the elements of a kind: all, or the one that is named."""
    count = getattr(model, f"n{dict(actuator='u', joint='jnt').get(kind, kind)}")
    if not element:
        return np.arange(count)
    names = [getattr(model, kind)(i).name for i in range(count)]
    if element not in names:
        raise unknown(kind, element, [n for n in names if n])
    return np.array([names.index(element)])


def _factor(feature: str, kind: str, *fields: str) -> Callable[[Model, float, str], None]:
    def scale(model: Model, value: float, element: str) -> None:
        if value < 0:
            raise ValueError(f"the factor of {feature} must not be negative, got {value}")
        rows = _rows(model, kind, element)
        if fields[0].startswith("dof_"):
            rows = np.flatnonzero(np.isin(model.dof_jntid, rows))
        if not any(getattr(model, f)[rows].any() for f in fields):
            where = element or "this model"
            raise ValueError(f"{where} has no {feature}: a factor of it would change nothing")
        for name in fields:
            getattr(model, name)[rows] *= value

    return scale


def _friction(model: Model, value: float, element: str) -> None:
    off = model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_CONTACT.value
    if off or not (model.geom_contype[:, None] & model.geom_conaffinity[None, :]).any():
        raise ValueError("nothing touches in this model: friction would change nothing")
    _factor("friction", "geom", "geom_friction")(model, value, element)


def _length(model: Model, value: float, element: str) -> None:
    """Scale bodies and all on them in every direction, masses kept; inertia goes with length^2.

    Without an element everything but the static world grows, and so does the height it starts at.
    """
    if value <= 0:
        raise ValueError(f"the factor of length must be positive, got {value}")
    spatial = (model.wrap_type != mujoco.mjtWrap.mjWRAP_JOINT.value).any()
    if model.nmesh or model.nhfield or spatial:
        raise ValueError("length works on models without meshes, height fields, spatial tendons")
    bodies = _rows(model, "body", element)
    bodies = bodies[bodies > 0]
    model.body_ipos[bodies] *= value
    model.body_inertia[bodies] *= value**2
    children = bodies if not element else np.flatnonzero(np.isin(model.body_parentid, bodies))
    model.body_pos[children] *= value
    for kind, arrays in {
        "geom": ("geom_pos", "geom_size", "geom_rbound", "geom_aabb"),
        "site": ("site_pos", "site_size"),
        "jnt": ("jnt_pos",),
    }.items():
        rows = np.flatnonzero(np.isin(getattr(model, f"{kind}_bodyid"), bodies))
        for name in arrays:
            getattr(model, name)[rows] *= value
    for body in bodies:
        first, count = int(model.body_bvhadr[body]), int(model.body_bvhnum[body])
        if first >= 0:
            model.bvh_aabb[first : first + count] *= value
    if not element:
        for joint in range(model.njnt):
            kind, at = model.jnt_type[joint], int(model.jnt_qposadr[joint])
            width = {mujoco.mjtJoint.mjJNT_SLIDE.value: 1, mujoco.mjtJoint.mjJNT_FREE.value: 3}
            model.qpos0[at : at + width.get(int(kind), 0)] *= value
            model.qpos_spring[at : at + width.get(int(kind), 0)] *= value
            if kind == mujoco.mjtJoint.mjJNT_SLIDE.value:
                model.jnt_range[joint] *= value


FEATURES: dict[str, Callable[[Model, float, str], None]] = {
    "gravity": _gravity,  # m/s^2, downwards
    "density": _option("density"),  # of the medium, kg/m^3
    "viscosity": _option("viscosity"),  # of the medium, Pa s
    "timestep": _option("timestep"),  # of a physics substep, s
    "mass": _factor("mass", "body", "body_mass", "body_inertia"),
    "friction": _friction,
    "damping": _factor("damping", "joint", "dof_damping"),
    "stiffness": _factor("stiffness", "joint", "jnt_stiffness"),
    "armature": _factor("armature", "joint", "dof_armature"),
    "gear": _factor("gear", "actuator", "actuator_gear"),
    "length": _length,
}


def split(names: Sequence[str], task_id: str, own: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the physical names and the task's own; ValueError for one that is neither."""
    physical = [n for n in names if n.partition(":")[0] in FEATURES]
    rest = [n for n in names if n not in physical]
    for name in rest:
        if name not in own:
            raise unknown(f"context of {task_id}", name, [*FEATURES, *own])
    return physical, rest


def apply(model: Model, values: Mapping[str, float]) -> None:
    """Change a compiled model in place, and what MuJoCo derives from it."""
    for name, value in values.items():
        feature, _, element = name.partition(":")
        FEATURES[feature](model, value, element)
    mujoco.mj_setConst(model, mujoco.MjData(model))


def default(model: Model, name: str) -> float:
    """Return the value of a physical feature that leaves the model as it is."""
    if name == "gravity":
        return -float(model.opt.gravity[2])
    if name in ("density", "viscosity", "timestep"):
        return float(getattr(model.opt, name))
    return 1.0


def variants(task: Task, p: Params, contexts: Contexts | None) -> tuple[list[Model], list[Params]]:
    """Return a model and the parameters, with what is derived from the model, for each row."""
    base = task.model(p)
    if contexts is None:
        return [base], [_derive(task, p, base)]
    physical, own = split(contexts.names, task.id, task.contexts)
    models, params = [], []
    for values in contexts.table:
        row = dict(zip(contexts.names, map(float, values), strict=True))
        variant = SimpleNamespace(**{**vars(p), **{name: row[name] for name in own}})
        rebuilt = any(name in task.model_contexts for name in own)
        model = task.model(variant) if rebuilt else copy.copy(base)
        apply(model, {name: row[name] for name in physical})
        models.append(model)
        params.append(_derive(task, variant, model))
    return models, params


def _derive(task: Task, p: Params, model: Model) -> Params:
    p.nq, p.nv, p.dt = model.nq, model.nv, model.opt.timestep * p.frame_skip
    p.init_qpos, p.init_qvel = np.array(model.qpos0), np.zeros(model.nv)
    if task.setup is not None:
        task.setup(model, p)
    return p


def stack(rows: Sequence[Any], ids: Array) -> dict[str, Array]:
    """Return the parameters in which K namespaces differ, as arrays [N, ...] by `ids` [N]."""
    out = {}
    for name, first in vars(rows[0]).items():
        values = [getattr(r, name) for r in rows]
        numbers = isinstance(first, (int, float, np.ndarray)) and not isinstance(first, bool)
        if numbers and not all(_same(first, v) for v in values):
            out[name] = np.array(values, np.float64)[ids]
    return out


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return bool(np.array_equal(a, b))
    return a == b or (math.isnan(a) and math.isnan(b))
