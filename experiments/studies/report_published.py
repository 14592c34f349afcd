"""Numbers of others beside ours, each with where it comes from."""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

SEEDS = ("exp", "env", "seed", "metric", "step", "value")
BUILT_IN = Path(__file__).parent.parent / "references" / "model-free.csv"
PROVENANCE = (
    "Model-free learners and two generative ones, in environment steps, mean and standard "
    "deviation over seeds: collected in November 2026 from the CSV files that SimbaV2 "
    "(results/baseline) and FlashSAC (results/stateRL_cpusim) release, and from the tables of PGR "
    "(arXiv 2410.18082), which prints SynthER's online returns too. Their environments are older "
    "versions than ours; a dash is what the source does not say. With an action repeat of 2 a "
    "decision counts as two steps."
)


@dataclass(frozen=True)
class Published:
    """A number of others: mean over seeds at a step, and what it was measured on."""

    exp: str
    env: str
    metric: str
    step: float
    mean: float
    sd: float | None = None
    n: int | None = None
    version: str = ""
    action_repeat: str = ""
    source: str = ""
    curve: Mapping[float, float] = field(default_factory=dict)
    """means at the steps that all seeds have, where seeds are known"""
    spread: Mapping[float, float] = field(default_factory=dict)
    """standard deviations there, where there are two seeds"""

    def at(self, step: float) -> "Published":
        """Return the number at the last step of the curve up to `step`; itself without one."""
        there = [s for s in self.curve if s <= step]
        if not there:
            return self
        last = max(there)
        return replace(self, step=last, mean=self.curve[last], sd=self.spread.get(last))


def env_and_version(env: str) -> tuple[str, str]:
    """Return an environment's name without namespace and version, and the version."""
    name, version = re.fullmatch(r"(?:.*/)?(.*?)(?:-(v\d+))?", env).groups()  # type: ignore[union-attr]
    return name, version or ""


def built_in() -> list[Published]:
    """Return the reference table that comes with the package."""
    with BUILT_IN.open(newline="") as file:
        return [
            Published(
                exp=r["exp"],
                env=r["env"],
                metric=r["metric"],
                step=float(r["step"]),
                mean=float(r["mean"]),
                sd=float(r["sd"]) if r["sd"] else None,
                n=int(r["n"]) if r["n"] else None,
                version=r["version"],
                action_repeat=r["action_repeat"],
                source=r["source"],
            )
            for r in csv.DictReader(file)
        ]


def read_seeds(path: Path, action_repeat: str = "") -> list[Published]:
    """Return what a file of single seeds says: its columns are those in SEEDS, in any order.

    One of each experiment, environment and metric, at the last step that all its seeds have; the
    standard deviation over seeds needs two. ValueError names file and line of what is wrong.
    """
    found: dict[tuple[str, str, str], dict[str, dict[float, float]]] = {}
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        if missing := [c for c in SEEDS if c not in (rows.fieldnames or ())]:
            raise ValueError(f"{path} lacks the columns {', '.join(missing)}; it needs {SEEDS}")
        for i, row in enumerate(rows, 2):
            try:
                step, value = float(row["step"]), float(row["value"])
            except (TypeError, ValueError):
                raise ValueError(f"{path}: line {i}: step and value must be numbers") from None
            if not math.isfinite(step) or not math.isfinite(value):
                raise ValueError(f"{path}: line {i}: step {step} and value {value} must be finite")
            seeds = found.setdefault((row["exp"], row["env"], row["metric"]), {})
            seeds.setdefault(row["seed"], {})[step] = value
    if not found:
        raise ValueError(f"{path} has no rows; it needs {SEEDS}")
    return [
        one
        for key, seeds in found.items()
        if (one := _over_seeds(*key, list(seeds.values()), path.name, action_repeat))
    ]


def _over_seeds(
    exp: str,
    env: str,
    metric: str,
    seeds: Sequence[Mapping[float, float]],
    source: str,
    repeat: str,
) -> Published | None:
    shared = sorted(set.intersection(*(set(s) for s in seeds)))
    if not shared:
        return None
    curve = {step: float(np.mean([s[step] for s in seeds])) for step in shared}
    spread = {step: float(np.std([s[step] for s in seeds], ddof=1)) for step in shared
              if len(seeds) > 1}  # fmt: skip
    name, version = env_and_version(env)
    whole = Published(exp, name, metric, shared[-1], 0.0, None, len(seeds), version, repeat, source,
                      curve, spread)  # fmt: skip
    return whole.at(shared[-1])


def nearest(rows: Sequence[Published], step: float) -> list[Published]:
    """Return each curve at `step`, and the single numbers at the first budget from there on.

    The last budget below where there is none.
    """
    single = {p.step for p in rows if not p.curve}
    budget = min((s for s in single if s >= step), default=max(single, default=0.0))
    return [p.at(step) for p in rows if p.curve or p.step == budget]


def beside(study: Mapping[str, Any], envs: Mapping[str, str], rows: Sequence[Published]) -> Any:
    """Return for each of a study's tasks what others report on its environment.

    `envs`: environment of each task. Only returns, and only where our steps are the environment's.
    """
    if "return" not in study["tables"] or not any("environment" in u for u in study["units"]):
        return []
    out = []
    for task, env in envs.items():
        name, version = env_and_version(env)
        theirs = [p for p in rows if p.env.lower() == name.lower() and p.metric == "return"]
        ours = [r for r in study["tables"]["return"] if r["task"] == task and r["mean"]]
        if theirs and ours:
            arms = next(c["metrics"]["return"] for c in study["curves"] if c["task"] == task)
            ends = {a: max(c["step"], default=0) for a, c in arms.items()}
            end = max(ends.values(), default=0)
            mine = [{**r, "step": ends.get(r["arm"], 0), "version": version} for r in ours]
            out.append({"task": task, "env": name, "ours": mine, "theirs": nearest(theirs, end)})
    return out
