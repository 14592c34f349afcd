"""What a suite file says: arms x tasks x seeds as runs to be made."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...envs import known_ids
from ...envs.errors import unknown
from ...envs.make import import_module_of
from .. import methods
from ..runs.config import from_dict, read_config, to_dict
from ..runs.result import read_stamp
from ..runs.typed import convert
from .jobs import Job, beside
from .settings import checked, differences, flat, put

Table = Mapping[str, Any]
SUITE = {"name": str, "seeds": str, "arms": tuple[Table, ...], "tasks": tuple[Table, ...]}
SUITE_MAY = {"thresholds": tuple[float, ...], "metrics": tuple[str, ...]}
ARM, ARM_MAY = {"name": str, "method": str}, {"preset": str, "set": Table, "first": bool}
TASK, TASK_MAY = {"env": str, "steps": int}, {"name": str, "set": Table}
OTHER = "other settings"  # the status of a run that was not made as its suite now says
DAMAGED = "damaged stamp"  # the status of a run whose stamp cannot be read
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Arm:
    """One contestant: a method script and what it sets, as dotted names."""

    name: str
    method: str
    settings: Mapping[str, Any]
    preset: str = "default"
    first: bool = False  # its runs come before all others, which read what they leave


@dataclass(frozen=True)
class Task:
    """One task: its environment, its length, what it sets, and the name that tells it apart."""

    env: str
    steps: int
    settings: Mapping[str, Any]
    given: str | None = None

    @property
    def name(self) -> str:
        """Name that the runs and results of the task have."""
        return self.given or task_name(self.env)


@dataclass(frozen=True)
class Suite:
    """A suite as it is written, its names and types checked."""

    name: str
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    tasks: tuple[Task, ...]
    thresholds: tuple[float, ...] = ()
    metrics: tuple[str, ...] = ("return",)


@dataclass(frozen=True)
class Entry:
    """One run of a suite."""

    arm: Arm
    env: str
    seed: int
    config: Any
    path: Path
    name: str | None = None  # of its task, where the suite gives it one

    @property
    def task(self) -> str:
        """The task as tables show it."""
        return self.name or self.env

    @property
    def key(self) -> str:
        """Name of the run within its suite."""
        return f"{self.arm.name}/{self.name or task_name(self.env)}-s{self.seed}"

    @property
    def job(self) -> Job:
        """What an engine runs."""
        return Job(self.arm.method, self.config, self.path, resumable=self.arm.method != "peer")

    def status(self) -> str:
        """Return the run's state: missing, running (or killed), interrupted, finished, ...

        `other settings` where the run was not made as the suite says: it does not count. `damaged
        stamp` where it does not say its state: the run goes on, and writes it anew.
        """
        if self.departures():
            return OTHER
        if not (self.path / "stamp.json").exists():
            return "missing"
        try:
            data = read_stamp(self.path)
        except ValueError:
            return DAMAGED
        done = data["status"] == "finished" and data["step"] >= self.config.steps
        return "finished" if done else str(data["status"]).replace("finished", "shorter")

    def departures(self) -> list[str]:
        """Return where the run departs from the suite; a shorter run that can go on does not.

        A script may fill in what was left open (the environment of a dataset, say), so what the
        run was asked to be, the file that the pool wrote beside it, is what must equal the suite.
        """
        own, file = self.path / "config.json", beside(self.path, ".config.json")
        if not own.exists():
            return []
        wanted = flat(to_dict(self.config))
        try:
            method, values = read_config(own)
            if method != self.arm.method:
                return [f"method is {method!r}, the suite says {self.arm.method!r}"]
            found = self._resolved(values)
            asked = self._resolved(read_config(file)[1]) if file.exists() else None
        except (ValueError, KeyError, TypeError) as error:
            return [f"its config.json is of no use: {error}"]
        departs = differences(found, wanted)
        if asked is not None:
            filled = [n for n in departs if asked.get(n) in (None, [])]
            departs = {n: p for n, p in departs.items() if n not in filled}
            departs |= differences(asked, wanted)
        departs.pop("steps", None)
        steps = found["steps"], self.config.steps
        if steps[0] > steps[1] or (steps[0] < steps[1] and not self.job.resumable):
            departs["steps"] = steps
        return [f"{n} is {a!r}, the suite says {b!r}" for n, (a, b) in departs.items()]

    def _resolved(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a configuration as this version reads it: what an older one lacks has defaults."""
        return flat(to_dict(from_dict(type(self.config), values)))


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of `0:5` (0 to 4) or `0,3,7`; ValueError for none, negative, repeated."""
    try:
        if ":" in text:
            first, last = map(int, text.split(":"))
            given: Sequence[int] = range(first, last)
        else:
            given = [int(x) for x in text.split(",")]
    except ValueError as error:
        raise ValueError(f"seeds {text!r}: give a range as 0:5 or a list as 0,3,7") from error
    if len(given) > MOST_SEEDS:
        raise ValueError(f"seeds {text!r}: more than {MOST_SEEDS:,}")
    seeds = list(given)
    if not seeds:
        raise ValueError(f"seeds {text!r} names no seed; 0:5 is seeds 0 to 4")
    if min(seeds) < 0:
        raise ValueError(f"seeds {text!r}: {min(seeds)} is negative; seeds are 0, 1, 2, ...")
    if len(set(seeds)) < len(seeds):
        twice = sorted({s for s in seeds if seeds.count(s) > 1})
        raise ValueError(f"seeds {text!r}: {twice} would run twice in one directory")
    return seeds


def task_name(env: str) -> str:
    """Return the name that an environment's runs and results have."""
    return env.split("/")[-1].replace(".", "_")  # what follows a dot is taken for a suffix


def _table(row: Table, must: Table, may: Table, where: str) -> Table:
    """Return a table of the file, its keys and types checked."""
    keys = {**must, **may}
    for key, value in row.items():
        if key not in keys:
            raise ValueError(f"{where}{unknown('key', key, keys)}")
        convert(keys[key], value, f"{where}{key}")
    if missing := [k for k in must if k not in row]:
        raise ValueError(f"{where}lacks {', '.join(missing)}")
    return row


def _plain(name: str, where: str) -> str:
    """Return a name that is to be a folder or a file; ValueError where it cannot be one."""
    if not name or name != name.strip() or name[0] in ".-" or not name.isprintable():
        raise ValueError(f"{where}name: got {name!r}, expected a plain name such as 'sac-2'")
    if set(name) & set('/\\:*?"<>|'):
        raise ValueError(f"{where}name: {name!r} cannot be a folder's name")
    return name


def _once(names: Sequence[str], where: str, what: str, how: str) -> None:
    for i, name in enumerate(names):
        if (first := [n.casefold() for n in names].index(name.casefold())) < i:
            raise ValueError(
                f"{where}{what}[{first}] and {what}[{i}] would share the directory {name!r}: {how}"
            )


def parse_suite(text: str, where: str) -> Suite:
    """Return a suite as written; ValueError names file and key of what is missing or wrong.

    Methods and their settings are not looked at: `read_suite` does.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{where}: {error}") from error
    where = f"{where}: "
    _table(data, SUITE, SUITE_MAY, where)
    name = _plain(data["name"], where)
    try:
        seeds = parse_seeds(data["seeds"])
    except ValueError as error:
        raise ValueError(f"{where}{error}") from error
    for key in ("arms", "tasks"):
        if not data[key]:
            raise ValueError(f"{where}{key}: there is none; give at least one [[{key}]]")
    for key in ("thresholds", "metrics"):
        if key in data and not data[key]:
            raise ValueError(f"{where}{key}: the list is empty; leave it out or fill it")
    arms, tasks = [], []
    for i, row in enumerate(data["arms"]):
        _table(row, ARM, ARM_MAY, f"{where}arms[{i}]: ")
        label = _plain(row["name"], f"{where}arms[{i}]: ")
        more = {key: row[key] for key in ("preset", "first") if key in row}
        arms.append(Arm(label, row["method"], row.get("set", {}), **more))
    for i, row in enumerate(data["tasks"]):
        here = f"{where}tasks[{i}]: "
        _table(row, TASK, TASK_MAY, here)
        given = _plain(row["name"], here) if "name" in row else None
        if given and "." in given:
            raise ValueError(f"{here}name: {given!r} has a dot; use another character")
        if row["steps"] < 1:
            raise ValueError(f"{here}steps: got {row['steps']}, expected at least 1")
        tasks.append(Task(row["env"], row["steps"], row.get("set", {}), given))
    _once([a.name for a in arms], where, "arms", "give each arm a name of its own")
    _once([t.name for t in tasks], where, "tasks", "give one of them another `name`")
    more = {k: tuple(data[k]) for k in ("thresholds", "metrics") if k in data}
    return Suite(name, tuple(seeds), tuple(arms), tuple(tasks), **more)


def _known_env(method: str, env: str) -> None:
    """Raise ValueError for an environment that a method of ours could not make."""
    import gymnasium

    if method not in methods.METHODS:  # what a script of yours makes of the name is its own
        return
    name = import_module_of(env)
    known = {*known_ids(), *gymnasium.registry}
    if name not in known and f"reverie/{name}" not in known:
        raise unknown("environment", env, known)


RESERVED = {
    "env": "a task names it",
    "seed": "the suite's `seeds` do",
    "run.out": "`--out` does",
    "run.name": "arm, task and seed do",
    "run.threads": "`--threads` does",
    "run.progress": "runs of a suite show none",
}


def _settings(config: type, row: Mapping[str, Any], where: str, *more: str) -> dict[str, Any]:
    """Return what an arm or a task sets, as dotted names, against a method's configuration."""
    try:
        out = checked(config, row)
    except ValueError as error:
        raise ValueError(f"{where}set: {error}") from error
    for name in out:
        if name in RESERVED or name in more:
            who = RESERVED.get(name, "the task's own `steps` does")
            raise ValueError(f"{where}set: {name} cannot be set here: {who}")
    return out


def read_suite(path: Path, out: Path) -> tuple[Suite, list[Entry]]:
    """Return the suite and its runs; every name, type and setting is checked before any starts."""
    try:
        suite = parse_suite(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}") from error
    entries = []
    for i, arm in enumerate(suite.arms):
        where = f"{path}: arms[{i}] {arm.name!r}: "
        try:
            module = methods.script(arm.method)
            if arm.preset not in module.PRESETS:
                raise unknown("preset", arm.preset, module.PRESETS)
        except ValueError as error:
            raise ValueError(f"{where}{error}") from error
        own = _settings(module.Config, arm.settings, where)
        base = to_dict(module.PRESETS[arm.preset])
        for j, task in enumerate(suite.tasks):
            here = f"{path}: tasks[{j}] {(task.given or task.env)!r}: "
            try:
                _known_env(arm.method, task.env)
            except (ValueError, ImportError) as error:
                raise ValueError(f"{here}env: {error}") from error
            given: dict[str, Any] = {"env": task.env, "steps": task.steps}
            given |= _settings(module.Config, task.settings, f"{here}for {arm.name!r}: ", "steps")
            given |= own
            if given["steps"] < 1:
                raise ValueError(f"{where}set: steps: got {given['steps']}, expected at least 1")
            folder = out / suite.name / arm.name
            for seed in suite.seeds:
                name = f"{task.name}-s{seed}"
                place = {"run.out": str(folder), "run.name": name, "run.progress": False}
                values = put(base, {**given, "seed": seed, **place})
                try:
                    config = from_dict(module.Config, values)
                except ValueError as error:
                    raise ValueError(f"{here}for {arm.name!r}: {error}") from error
                entries.append(Entry(arm, task.env, seed, config, folder / name, task.given))
    return suite, entries
