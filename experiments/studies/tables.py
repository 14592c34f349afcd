"""Final values and how soon they were reached, as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..runs.result import load_run
from . import stats
from .suite import Entry


def table(entries: Sequence[Entry], metric: str = "return") -> str:
    """Return final values as a Markdown table: mean, t interval, IQM, seeds, other states."""
    lines = ["| task | arm | mean | 95 % t interval | IQM | seeds |", "|---|---|---|---|---|---|"]
    for env in dict.fromkeys(j.env for j in entries):
        for arm in dict.fromkeys(j.arm.name for j in entries):
            mine = [j for j in entries if (j.arm.name, j.env) == (arm, env)]
            values = np.array(list(finals(entries, arm, env, metric).values()))
            other = [j.status() for j in mine if j.status() != "finished"]
            seeds = f"{len(values)}" + "".join(
                f", {other.count(s)} {s}" for s in sorted(set(other))
            )
            if len(values) < 2:
                mean = digits(values.mean()) if len(values) else "-"
                lines.append(f"| {env} | {arm} | {mean} | - | - | {seeds} |")
                continue
            t = stats.mean_t(values)
            middle = float(stats.iqm(values[:, None]))
            lines.append(
                f"| {env} | {arm} | {digits(t.estimate)} | {digits(t.low)} to {digits(t.high)} | "
                f"{digits(middle)} | {seeds} |"
            )
    return "\n".join(lines)


def reach(entries: Sequence[Entry], thresholds: Sequence[float]) -> str:
    """Return how soon each arm's evaluations reach a return, as a Markdown table.

    Mean steps with t interval where every seed got there, else how many did.
    """
    head = " | ".join(f"to {x:g}" for x in thresholds)
    lines = [f"| task | arm | {head} |", "|---" * (2 + len(thresholds)) + "|"]
    for env in dict.fromkeys(j.env for j in entries):
        for arm in dict.fromkeys(j.arm.name for j in entries):
            mine = [j for j in entries if (j.arm.name, j.env) == (arm, env)]
            frames = [load_run(j.path).frame() for j in mine if j.status() == "finished"]
            cells = []
            for threshold in thresholds:
                steps = np.array([steps_to(f, threshold) for f in frames])
                there = steps[np.isfinite(steps)]
                if len(there) < max(len(steps), 2):
                    cells.append(f"{len(there)} of {len(steps)}")
                    continue
                t = stats.mean_t(there)
                cells.append(f"{t.estimate:,.0f} ({t.low:,.0f} to {t.high:,.0f})")
            lines.append(f"| {env} | {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def finals(
    entries: Sequence[Entry], arm: str, env: str, metric: str = "return"
) -> dict[int, float]:
    """Return a metric in the last evaluation of each finished seed of an arm on a task."""
    out = {}
    for entry in entries:
        if (entry.arm.name, entry.env) == (arm, env) and entry.status() == "finished":
            frame = load_run(entry.path).frame()
            if metric in frame:
                out[entry.seed] = float(frame[metric][-1])
    return out


def digits(x: float) -> str:
    """Return a number for a table: one decimal of returns, three of scores."""
    return f"{x:,.1f}" if abs(x) >= 10 else f"{x:.3f}"


def steps_to(frame: Mapping[str, Any], threshold: float) -> float:
    """Return the step of the first evaluation at or above a threshold; NaN if there is none."""
    above = np.flatnonzero(np.asarray(frame["return"]) >= threshold)
    return float(frame["step"][above[0]]) if len(above) else float("nan")
