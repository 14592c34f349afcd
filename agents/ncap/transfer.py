"""How far a controller carries, without retraining: other bodies, fluids, gears."""

from collections.abc import Callable
from types import MappingProxyType

import numpy as np
from torch import Tensor

from ...envs import BatchEnv, Contexts
from ..candidates import population_returns
from ..controllers import Controller
from ..playing import EVAL_SEED, never

BODIES = (4, 5, 7, 8, 10, 12, 14, 16)  # links
FLUID_AND_GEAR = MappingProxyType(
    {
        "density": (1000.0, 2000.0, 4500.0, 6000.0),  # kg/m^3; trained at 3000
        "viscosity": (0.003, 0.01, 0.03),  # Pa s; trained at 0
        "gear": (0.5, 0.7, 1.5, 2.0),  # factor of the motors' strength
    }
)
NOMINAL = MappingProxyType({"density": 3000.0, "viscosity": 0.0, "gear": 1.0})
EPISODES = 4


def off_nominal(
    build: Callable[[int], Controller],
    parameters: Tensor,
    links: int,
    swim: Callable[..., BatchEnv],
    stop: Callable[[], bool] = never,
) -> dict[str, float]:
    """Return the mean return over each family of conditions, and `off_nominal`, their mean.

    `build(links)` gives the controller for a body; one whose parameters do not fit other bodies
    has no `bodies` and no `off_nominal`. Four episodes of each condition, always the same.
    `swim(num_envs, links=..., context=...)` makes worlds of the swimmer. Raises Stopped as
    `population_returns`.
    """
    rows, families = [], []
    for family, values in FLUID_AND_GEAR.items():
        rows += [list({**NOMINAL, family: v}.values()) for v in values]
        families += [family] * len(values)
    contexts = Contexts(tuple(NOMINAL), np.array(rows))
    env = swim(len(rows) * EPISODES, links=links, context=contexts)
    returns = population_returns(env, build(links), parameters[None], EVAL_SEED, stop)[0]
    by_row = returns.view(EPISODES, len(rows)).mean(0)  # world i plays row i mod K
    out = {
        f: float(by_row[[i for i, g in enumerate(families) if g == f]].mean())
        for f in FLUID_AND_GEAR
    }
    if all(build(n).size == len(parameters) for n in BODIES):
        bodies = [body_return(build, parameters, n, swim, stop) for n in BODIES]
        out["bodies"] = float(np.mean(bodies))
        out["off_nominal"] = float(np.mean(list(out.values())))
    return out


def body_return(
    build: Callable[[int], Controller],
    parameters: Tensor,
    links: int,
    swim: Callable[..., BatchEnv],
    stop: Callable[[], bool] = never,
) -> float:
    """Return the mean return of a controller on a body of `links`."""
    env = swim(EPISODES, links=links)
    return float(population_returns(env, build(links), parameters[None], EVAL_SEED, stop).mean())
