"""Final values and how soon they were reached, as Markdown."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import methods
from ..runs.result import load_run
from . import stats
from .results import common_end
from .suite import Entry

Frame = Mapping[str, np.ndarray[Any, Any]]


def units(entries: Sequence[Entry]) -> str:
    """Return the unit of the runs' steps; with several, whose is which."""
    of: dict[str, list[str]] = {}
    for entry in entries:
        of.setdefault(methods.script(entry.arm.method).STEP, []).append(entry.arm.name)
    if len(of) == 1:
        return next(iter(of))
    return ", ".join(f"{unit} ({', '.join(dict.fromkeys(arms))})" for unit, arms in of.items())


def cells(entries: Sequence[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """Return the runs of each task and arm, in the suite's order."""
    tasks = dict.fromkeys(e.task for e in entries)
    arms = dict.fromkeys(e.arm.name for e in entries)
    return {
        (task, arm): [e for e in entries if (e.task, e.arm.name) == (task, arm)]
        for task in tasks
        for arm in arms
    }


def table(entries: Sequence[Entry], metric: str = "return") -> str:
    """Return final values as a Markdown table: mean, t interval, IQM, seeds, other states."""
    lines = ["| task | arm | mean | 95 % t interval | IQM | seeds |", "|---|---|---|---|---|---|"]
    for (task, arm), mine in cells(entries).items():
        found, lost = _finals(mine, metric)
        values = np.array(list(found.values()))
        states = Counter(s for e in mine if (s := e.status()) != "finished")
        seeds = f"{len(values)}" + "".join(f", {states[s]} {s}" for s in sorted(states))
        seeds += f", {len(lost)} without the last evaluation" if lost else ""
        if len(values) < 2:
            mean = digits(values.mean()) if len(values) else "-"
            lines.append(f"| {task} | {arm} | {mean} | - | - | {seeds} |")
            continue
        t = stats.mean_t(values)
        middle = float(stats.iqm(values[:, None]))
        lines.append(
            f"| {task} | {arm} | {digits(t.estimate)} | {digits(t.low)} to {digits(t.high)} | "
            f"{digits(middle)} | {seeds} |"
        )
    return "\n".join(lines)


def reach(entries: Sequence[Entry], thresholds: Sequence[float]) -> str:
    """Return how soon each arm's evaluations reach a return, as a Markdown table.

    Mean steps with t interval where every seed got there, else how many did; at the evaluations
    that all of the arm's seeds have.
    """
    head = " | ".join(f"to {x:g}" for x in thresholds)
    lines = [f"| task | arm | {head} |", "|---" * (2 + len(thresholds)) + "|"]
    for (task, arm), mine in cells(entries).items():
        frames = [load_run(e.path).frame() for e in mine if e.status() == "finished"]
        shared = shared_steps(frames)
        short = any(len(f.get("step", ())) > len(shared) for f in frames)
        row = []
        for threshold in thresholds:
            steps = np.array([steps_to(f, threshold, shared) for f in frames])
            there = steps[np.isfinite(steps)]
            if len(there) < max(len(steps), 2):
                row.append(f"{len(there)} of {len(steps)}")
                continue
            t = stats.mean_t(there)
            row.append(f"{t.estimate:,.0f} ({t.low:,.0f} to {t.high:,.0f})")
        note = " (not all seeds have all evaluations)" if short else ""
        lines.append(f"| {task} | {arm}{note} | {' | '.join(row)} |")
    return "\n".join(lines)


def finals(
    entries: Sequence[Entry], arm: str, task: str, metric: str = "return"
) -> dict[int, float]:
    """Return a metric in the last evaluation of each finished seed of an arm on a task.

    Seeds without that evaluation are left out.
    """
    return _finals([e for e in entries if (e.arm.name, e.task) == (arm, task)], metric)[0]


def _finals(entries: Sequence[Entry], metric: str) -> tuple[dict[int, float], list[int]]:
    """Return the final value of each finished seed, and the seeds that lack it.

    The last evaluation is at the end of the run; a seed that missed it has an earlier one, which
    is not set beside the others'. Where no seed has the metric at all, none lacks it.
    """
    found: dict[int, tuple[int, float]] = {}
    lost, logged = [], False
    for entry in entries:
        if entry.status() != "finished":
            continue
        frame = load_run(entry.path).frame()
        logged |= metric in frame
        value = frame[metric][-1] if metric in frame else np.nan
        if np.isnan(value) or frame["step"][-1] < entry.config.steps:
            lost.append(entry.seed)
        else:
            found[entry.seed] = int(frame["step"][-1]), float(value)
    end = common_end(step for step, _ in found.values())
    lost += [seed for seed, (step, _) in found.items() if step != end]
    ends = {seed: value for seed, (step, value) in found.items() if step == end}
    return ends, lost if logged else []


def shared_steps(frames: Sequence[Frame]) -> np.ndarray[Any, Any]:
    """Return the steps of the evaluations that every one of some runs has."""
    steps = [np.unique(f.get("step", np.empty(0))) for f in frames]
    out = steps[0] if steps else np.empty(0)
    for other in steps[1:]:
        out = np.intersect1d(out, other)
    return out


def digits(x: float) -> str:
    """Return a number for a table: one decimal of returns, three of scores."""
    return f"{x:,.1f}" if abs(x) >= 10 else f"{x:.3f}"


def steps_to(frame: Frame, threshold: float, among: Any = None) -> float:
    """Return the step of the first evaluation at or above a threshold; NaN if there is none.

    `among`: the steps that are looked at, by default all.
    """
    steps, returns = np.asarray(frame["step"]), np.asarray(frame["return"])
    above = returns >= threshold
    if among is not None:
        above &= np.isin(steps, among)
    return float(steps[above][0]) if above.any() else float("nan")
