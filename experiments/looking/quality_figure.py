"""What generated rows are like beside real ones, as one picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..studies import quality as measures
from ..studies.plots import new_figure, save_figure
from .generated import Made, Real, some

FEW = 2000  # rows whose distances are drawn
GREY, BLUE, RED = "0.55", "#4c72b0", "#c44e52"


def draw(made: Made, real: Real, out: Mapping[str, Any], path: Path) -> Path:
    """Draw scores by column, correlations, nearest distances, and loss by level; return `path`."""
    layout = made.layout
    new, fresh, seen = (measures.features(x, layout) for x in (made.rows, real.fresh, real.train))
    figure, axes = new_figure(2, 2, size=(9, 6.5))
    figure.suptitle(f"{made.name}: {out['rows']:,} rows of {made.card.env}", fontsize=10)
    _marginals(axes[0, 0], new, fresh, layout, out)
    _correlations(axes[0, 1], new, fresh, out)
    few, others = (measures.features(some(x, FEW, 0), layout) for x in (made.rows, real.fresh))
    _distances(axes[1, 0], few, others, seen, out)
    _losses(axes[1, 1], out)
    return save_figure(figure, path, 120)


def _marginals(axes: Any, new: Any, fresh: Any, layout: Any, out: Mapping[str, Any]) -> None:
    scores = [1 - measures.ks(a, b) for a, b in zip(fresh.T, new.T, strict=True)]
    o, a = layout.obs_dim, layout.act_dim
    colours = [BLUE] * o + [RED] * a + ["black"] + [GREY] * o
    axes.bar(np.arange(len(scores)), scores, color=colours, width=0.9)
    axes.axhline(out["marginal"], color="black", lw=0.8, ls=":")
    axes.set_ylim(min(0.9, *scores), 1)
    axes.set_title(f"marginal score by column, mean {out['marginal']:.3f}", fontsize=9)
    axes.set_xlabel("obs (blue), action (red), reward (black), next_obs (grey)", fontsize=8)


def _correlations(axes: Any, new: Any, fresh: Any, out: Mapping[str, Any]) -> None:
    moving = (np.ptp(fresh, 0) > 0) & (np.ptp(new, 0) > 0)
    gap = np.full((len(moving), len(moving)), np.nan)
    if moving.sum() > 1:
        gap[np.ix_(moving, moving)] = np.abs(
            measures.rank_correlations(new[:, moving])
            - measures.rank_correlations(fresh[:, moving])
        )
    image = axes.imshow(gap, vmin=0, cmap="magma_r", interpolation="nearest")
    axes.figure.colorbar(image, ax=axes, shrink=0.8)
    axes.set_title(f"|difference of rank correlations|, score {out['correlation']:.3f}", fontsize=9)


def _distances(axes: Any, new: Any, fresh: Any, seen: Any, out: Mapping[str, Any]) -> None:
    scale = seen.std(0)
    parts = {"generated": (new, RED), "unseen real": (fresh, GREY)}
    apart = {name: measures.nearest(x, seen, scale) for name, (x, _) in parts.items()}
    top = max(float(np.quantile(x, 0.99)) for x in apart.values()) or 1.0
    for name, values in apart.items():
        axes.hist(
            np.minimum(values, top), np.linspace(0, top, 50), label=name, color=parts[name][1],
            histtype="step", density=True,
        )  # fmt: skip
    axes.legend(fontsize=8)
    ratio = out["nearest_ratio"]
    axes.set_title(f"distance to the nearest seen row, ratio of medians {ratio:.2f}", fontsize=9)


def _losses(axes: Any, out: Mapping[str, Any]) -> None:
    losses = out.get("loss_by_level")
    if losses is None:
        axes.axis("off")
        axes.text(0.5, 0.5, "no generator: no loss by noise level", ha="center", fontsize=8)
        return
    axes.semilogx([float(k) for k in losses], list(losses.values()), "o-", color=BLUE)
    axes.axhline(1, color=GREY, lw=0.8, ls=":")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("noise level", fontsize=8)
    axes.set_title("loss of unseen real rows (1: nothing learned)", fontsize=9)
