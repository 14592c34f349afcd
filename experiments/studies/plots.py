"""Learning curves as pictures."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..runs.result import LoadedRun, load_run
from . import stats
from .results import last_rows
from .suite import Entry


def curves(runs: Sequence[LoadedRun], out: Path, kind: str = "eval") -> Path:
    """Draw return against environment steps; one line per method and environment, mean of seeds.

    Thin lines are single seeds. Raises ValueError when no run has rows of this kind.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups: dict[str, list[dict[str, np.ndarray[Any, Any]]]] = defaultdict(list)
    for run in runs:
        frame = run.frame(kind)
        if len(frame.get("return", ())):
            groups[f"{run.method} {run.config['env']}"].append(frame)
    if not groups:
        raise ValueError(f"no run has {kind!r} returns yet: {[str(r.path) for r in runs]}")
    figure, axes = plt.subplots(figsize=(6.5, 4.0), layout="constrained")
    for i, (name, frames) in enumerate(groups.items()):
        colour = f"C{i}"
        for frame in frames:
            axes.plot(frame["step"], frame["return"], color=colour, lw=0.7, alpha=0.45)
        last = min(f["step"][-1] for f in frames)
        grid = np.unique(np.concatenate([f["step"][f["step"] <= last] for f in frames]))
        mean = np.mean([np.interp(grid, f["step"], f["return"]) for f in frames], axis=0)
        axes.plot(grid, mean, color=colour, lw=2, label=f"{name} ({len(frames)} seeds)")
    axes.set_xlabel("environment steps")
    axes.set_ylabel(f"{kind} return")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    plt.close(figure)
    return out


def tradeoff(folders: Sequence[Path], x: str, y: str, out: Path) -> Path:
    """Draw y against x at the end: a point for each arm, mean over seeds with 95 % t interval.

    Raises ValueError when no results have both columns.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    arms: dict[str, np.ndarray[Any, Any]] = {}
    for folder in folders:
        for arm, rows in last_rows(folder, x, y).items():
            arms[f"{folder.name}/{arm}" if arm in arms else arm] = rows
    if not arms:
        raise ValueError(f"no results with {x!r} and {y!r} in {[str(f) for f in folders]}")
    figure, axes = plt.subplots(figsize=(8.0, 4.5), layout="constrained")
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
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    plt.close(figure)
    return out


def sparkline(values: Sequence[float]) -> str:
    """Return a curve in one line of text."""
    ticks = "▁▂▃▄▅▆▇█"
    low, high = min(values), max(values)
    scale = (len(ticks) - 1) / (high - low) if high > low else 0.0
    return "".join(ticks[round((v - low) * scale)] for v in values)


def panels(entries: Sequence[Entry], out: Path) -> None:
    """Draw a panel for each task: mean over seeds of every arm, single seeds thin."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(j.env for j in entries))
    figure, panels = plt.subplots(
        1, len(tasks), figsize=(5.5 * len(tasks), 4), layout="constrained", squeeze=False
    )
    for env, axes in zip(tasks, panels[0], strict=True):
        for i, arm in enumerate(dict.fromkeys(j.arm.name for j in entries)):
            frames = [
                load_run(j.path).frame()
                for j in entries
                if (j.arm.name, j.env) == (arm, env) and j.status() == "finished"
            ]
            for frame in frames:
                axes.plot(frame["step"], frame["return"], color=f"C{i}", lw=0.6, alpha=0.35)
            if frames:
                mean = np.mean([f["return"] for f in frames], axis=0)
                axes.plot(
                    frames[0]["step"], mean, color=f"C{i}", lw=2, label=f"{arm} ({len(frames)})"
                )
        axes.set(title=env, xlabel="environment steps", ylabel="evaluation return")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    figure.savefig(out, dpi=130)
    plt.close(figure)
