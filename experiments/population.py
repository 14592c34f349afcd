"""Train several learners of one method as one: seeds, or numbers of theirs, side by side."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from ..agents import SAC, TD3
from ..agents.offline.iql import IQL
from ..envs.errors import unknown
from . import iql, rebrac, sac, td3, td3bc
from .loops import population
from .loops.options import OfflineOptions
from .runs.config import RunOptions, check, from_dict, to_dict
from .runs.result import Result

LEARNERS: Mapping[str, Any] = {
    "sac": (sac, SAC),
    "td3": (td3, TD3),
    "iql": (iql, IQL),
    "td3bc": (td3bc, TD3),
    "rebrac": (rebrac, TD3),
}


@dataclass(frozen=True)
class Config:
    """A population: runs of one method that differ in their seeds, and in numbers of theirs."""

    method: str = "sac"
    """sac, td3, iql, td3bc or rebrac"""
    seeds: tuple[int, ...] = (0, 1)
    """seed of each member"""
    steps: int = 1_000_000
    """environment transitions, or gradient steps on data, to train each member for"""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """what all members have, as the method's config.json says it"""
    each: Mapping[str, Any] = field(default_factory=dict)
    """numbers of the learner for each member in turn, e.g. {"lr": [1e-3, 3e-4]}"""
    env_options: Mapping[str, Any] = field(default_factory=dict)
    """options of the task over those of the settings"""
    run: RunOptions = field(default_factory=RunOptions)
    """the run directory of the group, and where the members' lie"""


PRESETS = {"default": Config()}
STEP = "environment steps"


def of_seeds(
    method: str,
    config: Any,
    seeds: Sequence[int],
    each: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> Config:
    """Return the population of one configuration with each of these seeds.

    `each`: numbers of the learner for each member, {"lr": [1e-3, 3e-4]}. A `run.name` gets the seed
    behind it. Raises ValueError for a method that has no populations.
    """
    if method not in LEARNERS:
        raise ValueError(f"{method!r} has no populations: give --seeds, or {', '.join(LEARNERS)}")
    settings = {k: v for k, v in to_dict(config).items() if k not in ("steps", "seed", "run")}
    name = config.run.name and f"{config.run.name}-p{min(seeds)}-{max(seeds)}"
    run = dataclasses.replace(config.run, name=name)
    lists = {name: list(values) for name, values in each.items()}
    return Config(method, tuple(seeds), config.steps, settings, lists, {}, run)


def members(config: Config) -> list[Any]:
    """Return the configuration of each member, as a run of its own would have it.

    Raises ValueError for an unknown method, a seed that is there twice, and numbers that are not
    one for each member.
    """
    c = config
    if c.method not in LEARNERS:
        raise unknown("method", c.method, LEARNERS)
    if not c.seeds or (not c.each and len(set(c.seeds)) < len(c.seeds)):
        raise ValueError(f"seeds: got {c.seeds}, expected one of its own for each member")
    for name, values in c.each.items():
        if len(values) != len(c.seeds):
            raise ValueError(f"each {name}: {len(values)} values for {len(c.seeds)} members")
    if c.run.wandb is not None:
        raise ValueError("wandb: a population writes no Weights & Biases; leave --wandb out")
    module = LEARNERS[c.method][0]
    stem = re.sub(r"-p\d+-\d+$", "", c.run.name or _name(c))
    twice = len(set(c.seeds)) < len(c.seeds)
    out = []
    for k, seed in enumerate(c.seeds):
        run = {**to_dict(c.run), "name": f"{stem}-s{seed}" + (f"-m{k}" if twice else "")}
        agent = {**c.settings.get("agent", {}), **{n: v[k] for n, v in c.each.items()}}
        options = {**c.settings.get("env_options", {}), **c.env_options}
        values = {**c.settings, "agent": agent, "env_options": options}
        out.append(from_dict(module.Config, {**values, "seed": seed, "steps": c.steps, "run": run}))
    return out


def main(config: Config | None = None, *, resume: bool = False) -> Result:
    """Train a population as configured; `resume` continues the group bit for bit."""
    c = check(config or of_seeds("sac", sac.Config(), (0, 1)))
    every, agent_class = members(c), LEARNERS[c.method][1]
    if not isinstance(every[0], OfflineOptions):
        s = population.build(agent_class, every)
        c = _named(c)
        return population.run_online(c.method, s, members(c), c, resume)
    data = population.build_offline(c.method, agent_class, every)
    c = _named(c, {x: getattr(data.config, x) for x in ("env", "context", "env_options")})
    return population.run_offline(c.method, data, members(c), c, resume)


def _named(c: Config, known: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """Return the configuration with what is `known` of the settings, and a name."""
    c = dataclasses.replace(c, settings={**c.settings, **known})
    return dataclasses.replace(c, run=dataclasses.replace(c.run, name=c.run.name or _name(c)))


def _name(c: Config) -> str:
    env = str(c.settings.get("env") or LEARNERS[c.method][0].Config().env).split("/")[-1]
    return f"{c.method}-{env}-p{min(c.seeds)}-{max(c.seeds)}"


def load(config: Mapping[str, Any], state: Mapping[str, Any]) -> NoReturn:
    """Raise ValueError: a group has as many policies as members."""
    paths = [str(Path(m.run.out, m.run.name)) for m in members(from_dict(Config, config))]
    raise ValueError(f"a population is {len(paths)} policies, each of its own run: {paths}")
