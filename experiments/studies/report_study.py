"""The numbers of one study as a page shows them: curves, final values, comparisons, cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import stats
from .plots import step_unit
from .report_cost import cost
from .results import Kept, common_end, seed_of
from .tables import shared_steps

FEWEST = 5  # runs for a bootstrap interval: below, it covers far less than it says
Json = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """Runs that are looked at together, and where they lie."""

    name: str
    folder: Path
    runs: Sequence[Kept]

    @property
    def tasks(self) -> list[str]:
        """Names of its tasks."""
        return list(dict.fromkeys(r.task for r in self.runs))

    @property
    def arms(self) -> list[str]:
        """Names of its arms."""
        return list(dict.fromkeys(r.arm for r in self.runs))

    @property
    def columns(self) -> list[str]:
        """What its runs logged, the return first."""
        names = dict.fromkeys(["return", *(c for r in self.runs for c in r.columns)])
        return [n for n in names if n not in ("step", "seed")]

    def cell(self, task: str, arm: str) -> list[Kept]:
        """Return an arm's runs of a task."""
        return [r for r in self.runs if (r.task, r.arm) == (task, arm)]


def known(run: Kept, metric: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return the steps and values of a run's rows that have a metric."""
    values = run.columns.get(metric, np.full(len(run.columns["step"]), np.nan))
    there = np.isfinite(values)
    return {"step": run.columns["step"][there], metric: values[there]}


def finals(runs: Sequence[Kept], metric: str) -> dict[int, float]:
    """Return a metric in the last evaluation of each finished seed.

    Left out: a seed whose last row lacks it, or is of another step than most others'.
    """
    ended = [r for r in runs if r.finished and len(r.columns["step"])]
    end = common_end(r.columns["step"][-1] for r in ended)
    found = {}
    for run in ended:
        own = known(run, metric)
        if len(own["step"]) and own["step"][-1] == end:
            found[seed_of(run)] = float(own[metric][-1])
    return found


def curve(runs: Sequence[Kept], metric: str) -> Json:
    """Return each finished seed's values of a metric, and their mean with its 95 % t interval.

    The mean is at the steps that all of them have; the interval needs two seeds.
    """
    frames = {seed_of(r): known(r, metric) for r in runs if r.finished}
    frames = {seed: f for seed, f in frames.items() if len(f["step"])}
    shared = shared_steps(list(frames.values()))
    rows = np.array(
        [[f[metric][f["step"] == s][-1] for s in shared] for f in frames.values()]
    ).reshape(len(frames), len(shared))
    bands = [stats.mean_t(x) for x in rows.T] if len(rows) > 1 else []
    return {
        "seeds": {str(s): [f["step"].tolist(), f[metric].tolist()] for s, f in frames.items()},
        "step": shared.tolist(),
        "mean": rows.mean(axis=0).tolist() if len(rows) else [],
        "low": [b.low for b in bands],
        "high": [b.high for b in bands],
    }


def summary(runs: Sequence[Kept], metric: str, sign: str = "higher") -> Json:
    """Return final values: by seed, mean with t interval, IQM with BCa interval, best, states.

    `best` is the mean over seeds of each one's best evaluation: chosen after the fact, an oracle.
    """
    values = finals(runs, metric)
    x = np.array(list(values.values()))
    pick = np.max if sign == "higher" else np.min
    best = [pick(known(r, metric)[metric]) for r in runs if seed_of(r) in values]
    states = Counter(str(r.stamp["status"]) for r in runs if not r.finished)
    lost = sum(r.finished for r in runs) - len(values)
    return {
        "values": {str(seed): v for seed, v in values.items()},
        "mean": list(stats.mean_t(x)) if len(x) > 1 else [*x.tolist()[:1]],
        "iqm": float(stats.iqm(x[:, None])) if len(x) > 1 else None,
        "iqm_interval": list(stats.bootstrap(x)[1:]) if len(x) >= FEWEST else None,
        "best": float(np.mean(best)) if best else None,
        "states": dict(states) | ({"without the last evaluation": lost} if lost else {}),
    }


def scores(study: Study, metric: str, sign: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return each arm's final values [seeds, tasks], higher better, of seeds that all tasks have.

    Several tasks are each put on the range of all runs' values, 0 the worst, 1 the best.
    """
    of = {(t, a): finals(study.cell(t, a), metric) for t in study.tasks for a in study.arms}
    flip = 1.0 if sign == "higher" else -1.0
    ends = {}
    for task in study.tasks:
        every = [flip * v for (t, _), seeds in of.items() if t == task for v in seeds.values()]
        ends[task] = (min(every, default=0.0), max(every, default=1.0))
    out = {}
    for arm in study.arms:
        seeds = set.intersection(*(set(of[t, arm]) for t in study.tasks))
        rows = np.array([[flip * of[t, arm][s] for t in study.tasks] for s in sorted(seeds)])
        if len(seeds) < 2:
            continue
        if len(study.tasks) > 1:
            low, high = np.array([ends[t] for t in study.tasks]).T
            rows = (rows - low) / np.where(high > low, high - low, 1.0)
        out[arm] = rows
    return out


def comparisons(table: Mapping[str, np.ndarray[Any, Any]]) -> Json:
    """Return performance profiles with their bands, and P(row beats column) with its interval."""
    if len(table) < 2:
        return {}
    every = np.concatenate([x.ravel() for x in table.values()])
    taus = np.linspace(every.min(), every.max(), 61)
    profiles = {}
    for arm, x in table.items():
        band = stats.profile_band(x, taus) if len(x) >= FEWEST else ()
        low, high = (ends.tolist() for ends in band) if band else ([], [])
        share = stats.performance_profile(x, taus)
        profiles[arm] = {"mean": share.tolist(), "low": low, "high": high}
    pairs: dict[str, dict[str, list[float]]] = {a: {} for a in table}
    for a in table:
        for b in table:
            if a not in pairs[b] and a != b:
                p = stats.improvement(table[a], table[b])
                pairs[a][b] = list(p)
                pairs[b][a] = [1 - p.estimate, 1 - p.high, 1 - p.low]
    return {"taus": taus.tolist(), "profiles": profiles, "improvement": pairs}


def study_data(study: Study, metrics: Sequence[tuple[str, str]]) -> Json:
    """Return all that the page shows of a study; `metrics` (name, sign), the primary one first."""
    primary, sign = metrics[0]
    table = scores(study, primary, sign)
    tables = {
        metric: [
            {"task": t, "arm": a, **summary(runs, metric, way)}
            for t in study.tasks
            for a in study.arms
            if (runs := study.cell(t, a))
        ]
        for metric, way in metrics
    }
    return {
        "name": study.name,
        "units": list(dict.fromkeys(step_unit(r.stamp.get("method", "")) for r in study.runs)),
        "methods": list(dict.fromkeys(str(r.stamp.get("method")) for r in study.runs)),
        "tasks": study.tasks,
        "arms": study.arms,
        "primary": primary,
        "sign": sign,
        "columns": study.columns,
        "seeds": len({seed_of(r) for r in study.runs}),
        "curves": [
            {
                "task": task,
                "metrics": {
                    m: {a: c for a in study.arms if (c := curve(study.cell(task, a), m))["seeds"]}
                    for m in study.columns
                },
            }
            for task in study.tasks
        ],
        "tables": tables,
        "normalised": len(study.tasks) > 1,
        **comparisons(table),
        "cost": [{"arm": a, **cost([r for r in study.runs if r.arm == a])} for a in study.arms],
    }
