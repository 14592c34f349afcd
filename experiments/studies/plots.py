"""Learning curves as pictures."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...buffers.aside import aside
from .. import methods
from ..runs.result import LoadedRun
from . import stats
from .results import Kept, last_rows
from .settings import NEUTRAL, flat
from .tables import Frame, shared_steps


def step_unit(method: str) -> str:
    """Return the unit of a method's steps; of a script that is not at hand just `steps`."""
    try:
        return str(methods.known_script(method).STEP)
    except ValueError:  # a script of somebody's, which a picture is no reason to import
        return "steps"


def grouped(runs: Sequence[LoadedRun]) -> dict[str, list[LoadedRun]]:
    """Return runs that differ in nothing but the seed together, under a name that says what does.

    A name has method and environment, and the settings in which runs of that method differ.
    """
    groups: dict[str, tuple[dict[str, Any], list[LoadedRun]]] = {}
    for run in runs:
        own = {k: v for k, v in flat(run.config).items() if k not in NEUTRAL and k != "seed"}
        key = json.dumps([run.method, own], sort_keys=True)
        groups.setdefault(key, (own, []))[1].append(run)
    out = {}
    for own, mine in groups.values():
        method = mine[0].method
        others = [o for o, theirs in groups.values() if theirs[0].method == method]
        names = dict.fromkeys(k for o in others for k in o if k != "env")
        differ = [k for k in names if any(o.get(k) != own.get(k) for o in others)]
        short = [k.rpartition(".")[2] for k in differ]
        words = [
            f"{s if short.count(s) == 1 else k}={json.dumps(own.get(k), separators=(',', ':'))}"
            for k, s in zip(differ, short, strict=True)
        ]
        out[" ".join([method, str(own.get("env", "")), *words])] = mine
    return out


def new_figure(*grid: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """Return a figure for a file, of that size in inches, and its axes, in a grid if one is given.

    No window is asked for.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(*grid, figsize=size, layout="constrained", squeeze=not grid)
    return figure, axes


def save_figure(figure: Any, out: Path, dpi: int) -> Path:
    """Write a picture in one replace, in the format of its suffix; return its path."""
    import matplotlib.pyplot as plt

    with aside(out) as partial:
        figure.savefig(partial, dpi=dpi, format=out.suffix[1:] or "png")
    plt.close(figure)
    return out


def _draw(axes: Any, frames: Sequence[Frame], colour: str, name: str) -> None:
    """Draw single seeds thin, and thick their mean at the steps that every one of them has."""
    for frame in frames:
        axes.plot(frame["step"], frame["return"], color=colour, lw=0.7, alpha=0.4)
    shared = shared_steps(frames)
    rows = [f["return"][[np.flatnonzero(f["step"] == s)[-1] for s in shared]] for f in frames]
    note = "" if len(shared) else ", at no common steps: no mean"
    name = textwrap.fill(f"{name} ({len(frames)} seeds{note})", 70)
    mean = np.mean(rows, axis=0) if len(shared) else []
    axes.plot(shared, mean, color=colour, lw=2, label=name)


def curves(runs: Sequence[LoadedRun], out: Path, kind: str = "eval") -> Path:
    """Draw returns against steps: a line for runs that differ in the seed only, their mean.

    Thin lines are single seeds. Raises ValueError when no run has rows of this kind.
    """
    having = [r for r in runs if len(r.frame(kind).get("return", ()))]
    if not having:
        raise ValueError(f"no run has {kind!r} returns yet: {[str(r.path) for r in runs]}")
    figure, axes = new_figure(size=(6.5, 4.0))
    for i, (name, mine) in enumerate(grouped(having).items()):
        _draw(axes, [r.frame(kind) for r in mine], f"C{i}", name)
    units = dict.fromkeys(step_unit(r.method) for r in having)
    axes.set(xlabel=" or ".join(units), ylabel=f"{kind} return")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize="small")
    return save_figure(figure, out, 150)


def tradeoff(folders: Sequence[Path], x: str, y: str, out: Path) -> Path:
    """Draw y against x at the end: a point for each arm, mean over seeds with 95 % t interval.

    Raises ValueError when no results have both columns.
    """
    arms: dict[str, np.ndarray[Any, Any]] = {}
    for folder in folders:
        for arm, rows in last_rows(folder, x, y).items():
            arms[f"{folder.name}/{arm}" if arm in arms else arm] = rows
    if not arms:
        raise ValueError(f"no results with {x!r} and {y!r} in {[str(f) for f in folders]}")
    figure, axes = new_figure(size=(8.0, 4.5))
    for i, (arm, rows) in enumerate(sorted(arms.items(), key=lambda a: a[1][:, 0].mean())):
        at, mean = rows[:, 0].mean(), rows[:, 1].mean()
        if len(rows) > 1:
            t = stats.mean_t(rows[:, 1])
            axes.vlines(at, t.low, t.high, color=f"C{i}", lw=1.5, alpha=0.6)
        marker = "osD^v"[i // 10 % 5]
        axes.plot(at, mean, marker, color=f"C{i}", label=f"{arm} ({len(rows)})")
    low, high = (f(rows[:, 0].mean() for rows in arms.values()) for f in (min, max))
    if low > 0 and high > 20 * low:
        axes.set_xscale("log")
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return save_figure(figure, out, 130)


def panels(runs: Sequence[Kept], out: Path, units: str | None = None) -> Path:
    """Draw a panel for each task of a study: mean over seeds of every arm, single seeds thin.

    `units` of the steps; by default those of the runs' methods.
    """
    runs = [r for r in runs if r.finished and len(r.columns.get("return", ()))]
    if not runs:
        raise ValueError("no run is finished and has returns")
    arms = list(dict.fromkeys(r.arm for r in runs))
    units = units or " or ".join(dict.fromkeys(step_unit(r.stamp.get("method", "")) for r in runs))
    tasks = list(dict.fromkeys(r.task for r in runs))
    figure, panels = new_figure(1, len(tasks), size=(5.5 * len(tasks), 4))
    for task, axes in zip(tasks, panels[0], strict=True):
        for i, arm in enumerate(arms):
            if frames := [r.columns for r in runs if (r.arm, r.task) == (arm, task)]:
                _draw(axes, frames, f"C{i}", arm)
        axes.set(title=task, xlabel=units, ylabel="evaluation return")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    return save_figure(figure, out, 130)
