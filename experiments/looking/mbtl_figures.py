"""Looking at a selection: the matrix with its picks, what they gave, what was expected of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...agents.mbtl import Rule, Seen, scores
from ...buffers.aside import write_text
from ..studies.plots import save_figure

ROUNDS = 6  # that are shown of all, the last among them


def draw(folder: Path, values: Tensor, seen: Seen, rule: Rule) -> list[Path]:
    """Write three figures of a selection on a matrix [N, N], and its numbers; return their paths.

    Rows of the matrix that nobody trained may be NaN.
    `rule`: a fresh one like that which picked, shown the rows again. One without a process has no
    third figure.
    """
    known = [[v if v == v else None for v in row] for row in values.tolist()]
    told = {"picks": list(seen.picks), "values": known, "contexts": seen.contexts.tolist()}
    write_text(folder / "selection.json", json.dumps(told) + "\n")
    paths = [matrix_figure(folder / "matrix.png", values, seen.picks)]
    paths.append(performance_figure(folder / "performance.png", values, seen))
    expected = expected_figure(folder / "rounds.png", seen, rule)
    return paths + ([expected] if expected else [])


def _axes(rows: int, height: float) -> tuple[Any, list[Any]]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, 1, figsize=(6.4, height), squeeze=False, sharex=rows > 1)
    return figure, list(axes[:, 0])


def matrix_figure(out: Path, values: Tensor, picks: list[int]) -> Path:
    """Draw returns [N, N] as a heat map, each source picked with its number in the order."""
    figure, (axes,) = _axes(1, 5.2)
    image = axes.imshow(values.numpy(), aspect="auto", interpolation="nearest")
    for number, pick in enumerate(picks, 1):
        axes.axhline(pick, color="white", lw=0.5, alpha=0.6)
        axes.annotate(str(number), (pick, pick), color="white", ha="center", va="center", size=7)
    axes.set(xlabel="target context", ylabel="source context")
    figure.colorbar(image, label="return")
    return save_figure(figure, out, 120)


def performance_figure(out: Path, values: Tensor, seen: Seen) -> Path:
    """Draw generalised performance by sources; where all rows are known beside what is best.

    That is the myopic oracle; and random sources, exactly, and one policy for each context.
    """
    k = len(seen.picks)
    figure, (axes,) = _axes(1, 4)
    at = np.arange(1, k + 1)
    axes.plot(at, scores.curve(seen.rows).numpy(), "C0o-", ms=3, label="this selector")
    if not bool(values.isnan().any()):
        by_chance = [scores.random_performance(values, int(i)) for i in at]
        axes.plot(at, scores.myopic_oracle([values], k)[1].numpy(), "k:", label="myopic oracle")
        axes.plot(at, by_chance, "C7--", label="random, expected")
        axes.axhline(scores.independent(values), color="C3", lw=0.8, label="one policy each")
    axes.set(xlabel="sources trained", ylabel="generalised performance")
    axes.legend(frameon=False)
    return save_figure(figure, out, 120)


def expected_figure(out: Path, seen: Seen, rule: Rule) -> Path | None:
    """Draw mean, deviation and gain of contexts for some rounds; None where nothing is expected."""
    looks = []
    for k in range(1, len(seen.picks)):
        before = Seen(seen.contexts, seen.picks[:k], seen.rows[:k])
        looks.append((k, before, rule.look(before)))
    looks = [(k, b, look) for k, b, look in looks if look is not None]
    if not looks:
        return None
    shown = [
        looks[i] for i in np.unique(np.linspace(0, len(looks) - 1, ROUNDS).round().astype(int))
    ]
    figure, axes = _axes(len(shown), 1.7 * len(shown))
    for panel, (k, before, look) in zip(axes, shown, strict=True):
        mean, sd, expected = (x.numpy() for x in look)
        at = np.arange(len(mean))
        panel.fill_between(at, mean - 2 * sd, mean + 2 * sd, alpha=0.2)
        panel.plot(at, mean, lw=1)
        panel.plot(before.picks, before.own.numpy(), "k.", ms=4)
        panel.axvline(seen.picks[k], color="C3", lw=0.8)
        gain = panel.twinx()
        gain.plot(at, expected, "C1", lw=0.8)
        gain.set_yticks([])
        panel.set_ylabel(f"round {k + 1}", fontsize=8)
    axes[-1].set_xlabel("context (line: expectation and 2 deviations; orange: gain; red: the pick)")
    return save_figure(figure, out, 120)
