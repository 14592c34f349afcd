"""Runs of a suite that are trained together: the seeds of an arm and a task as one population."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import methods
from ..runs.config import from_dict, read_config, save_config
from ..runs.opening import POPULATION, read_object
from .jobs import Job, beside
from .suite import Entry, task_name

Work = tuple[Job, list[Entry]]


def jobs_of(waiting: Sequence[Entry], states: Mapping[Path, str], as_one: bool) -> list[Work]:
    """Return the jobs that bring these runs to their end, each with the runs that it makes.

    Members of a population that was begun go on with it, whatever `as_one` says; those of one
    arm and task that have not begun make a new one. The rest are runs of their own.
    """
    population = methods.script("population")
    begun: dict[Path, list[Entry]] = {}
    fresh: dict[tuple[str, str], list[Entry]] = {}
    work: list[Work] = []
    for e in waiting:
        group = read_object(e.path / "stamp.json").get(POPULATION)
        able = as_one and e.arm.method in population.LEARNERS
        if group is not None:
            begun.setdefault(e.path.with_name(Path(group).name), []).append(e)
        elif able and states[e.path] == "missing":
            fresh.setdefault((e.arm.name, e.task), []).append(e)
        else:
            work.append((e.job, [e]))
    for path, own in begun.items():
        if any(states[e.path] != "diverged" for e in own):  # else it would end as it did
            config = from_dict(population.Config, read_config(path)[1])
            config = dataclasses.replace(config, steps=own[0].config.steps)
            work.append((Job("population", config, path), own))
    for own in fresh.values():
        if len(own) == 1:
            work.append((own[0].job, own))
            continue
        first = own[0].config
        run = dataclasses.replace(first.run, name=own[0].name or task_name(own[0].env))
        config = population.of_seeds(
            own[0].arm.method, dataclasses.replace(first, run=run), [e.seed for e in own]
        )
        path = own[0].path.with_name(str(config.run.name))
        work.append((Job("population", config, path), own))
    return work


def note_asked(work: Work) -> None:
    """Write beside the directory of each run that a population makes what it was asked to be."""
    job, own = work
    for e in own if job.method == POPULATION else ():
        if not (e.path / "config.json").exists():
            e.path.parent.mkdir(parents=True, exist_ok=True)
            save_config(beside(e.path, ".config.json"), e.arm.method, e.config)
