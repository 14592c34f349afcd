"""What a suite file says: arms x tasks x seeds as runs to be made."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...envs.errors import unknown
from .. import methods
from ..runs.config import from_dict, to_dict
from .pool import Job

KEYS = ("name", "seeds", "arms", "tasks", "thresholds", "metrics")


@dataclass(frozen=True)
class Arm:
    """One contestant: a method script and what it sets, as dotted names."""

    name: str
    method: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """One run of a suite."""

    arm: Arm
    env: str
    seed: int
    config: Any
    path: Path

    @property
    def key(self) -> str:
        """Name of the run within its suite."""
        return f"{self.arm.name}/{self.env.split('/')[-1]}-s{self.seed}"

    @property
    def job(self) -> Job:
        """What an engine runs."""
        return Job(self.arm.method, self.config, self.path, resumable=self.arm.method != "peer")

    def status(self) -> str:
        """Return the run's state: missing, running (or killed), interrupted, finished, ..."""
        stamp = self.path / "stamp.json"
        if not stamp.exists():
            return "missing"
        data = json.loads(stamp.read_text())
        done = data["status"] == "finished" and data["step"] >= self.config.steps
        return "finished" if done else str(data["status"]).replace("finished", "shorter")


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of `0:5` (0 to 4) or `0,3,7`."""
    try:
        if ":" in text:
            first, last = text.split(":")
            seeds = list(range(int(first), int(last)))
        else:
            seeds = [int(x) for x in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--seeds {text!r}: give a range as 0:5 or a list as 0,3,7") from error
    if not seeds:
        raise ValueError(f"--seeds {text!r} names no seed; 0:5 is seeds 0 to 4")
    return seeds


def put(values: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values with dotted settings, e.g. {"agent.critic_norm": "layer"}, put in."""
    out = json.loads(json.dumps(values))
    for name, value in settings.items():
        at = out
        *parents, last = name.split(".")
        for parent in parents:
            if parent not in at:
                raise unknown("setting", name, out)
            at = at[parent]
        if last not in at:
            raise unknown(f"setting {name!r}, part", last, at)
        at[last] = value
    return dict(out)


def read_suite(path: Path, out: Path) -> tuple[dict[str, Any], list[Entry]]:
    """Return the suite and its runs; every setting is checked before anything starts."""
    suite = tomllib.loads(path.read_text())
    for key in suite:
        if key not in KEYS:
            raise unknown("suite key", key, KEYS)
    entries = []
    for row in suite["arms"]:
        arm = Arm(row["name"], row["method"], row.get("set", {}))
        module = methods.script(arm.method)
        base = to_dict(module.PRESETS[row.get("preset", "default")])
        for task in suite["tasks"]:
            for seed in parse_seeds(suite["seeds"]):
                short = task["env"].split("/")[-1]
                folder = out / suite["name"] / arm.name
                place = {
                    "run.out": str(folder),
                    "run.name": f"{short}-s{seed}",
                    "run.progress": False,
                }
                own = {"env": task["env"], "steps": task["steps"], "seed": seed}
                values = put(base, {**own, **task.get("set", {}), **arm.settings, **place})
                config = from_dict(module.Config, values)
                entries.append(Entry(arm, task["env"], seed, config, folder / f"{short}-s{seed}"))
    return suite, entries
