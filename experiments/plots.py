"""Learning curves as pictures."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .result import LoadedRun


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


def sparkline(values: Sequence[float]) -> str:
    """Return a curve in one line of text."""
    ticks = "▁▂▃▄▅▆▇█"
    low, high = min(values), max(values)
    scale = (len(ticks) - 1) / (high - low) if high > low else 0.0
    return "".join(ticks[round((v - low) * scale)] for v in values)
