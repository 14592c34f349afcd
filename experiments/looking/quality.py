"""`reverie quality`: what generated rows are like beside real ones, as a table and a picture."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ...agents.synther.codec import rules_of
from ...buffers import Card
from ...buffers.aside import write_text
from ...envs import BatchEnv, make
from ..runs.config import parse
from ..runs.resources import use_threads
from ..runs.stamp import hardware
from ..studies import quality as measures
from .commands import PICTURES
from .generated import Made, Real, beside, made_by, some

TABLE = {  # label: the measure of generated rows, of real ones that the fit did not see, of noise
    "marginal score (1: equal)": ("marginal", "marginal_real", ""),
    "correlation score (1: equal)": ("correlation", "correlation_real", ""),
    "two-sample AUC (0.5: equal)": ("two_sample_auc", "", ""),
    "distance to the nearest seen row": ("nearest", "nearest_real", ""),
    "  as a multiple": ("nearest_ratio", "", ""),
    "dynamics error": ("dynamics", "dynamics_real", "dynamics_noise"),
    "  of the median row": ("dynamics_median", "dynamics_median_real", ""),
    "reward error": ("reward_error", "reward_error_real", ""),
    "terminal rate": ("terminal_rate", "terminal_rate_real", ""),
    "  precision by the task's rule": ("terminal_precision", "", ""),
    "  recall": ("terminal_recall", "", ""),
    "share outside the action box": ("outside_box", "", ""),
}


@dataclass(frozen=True)
class QualityOptions:
    """Measure generated rows beside real ones that their fit saw, and others that it did not."""

    data: tuple[str, ...] = ()
    """real rows that the fit saw, dataset:PATH or a run; none are the run's own"""
    fresh: tuple[str, ...] = ()
    """real rows that it did not see, dataset:PATH or a run"""
    held_out: float = 0.0
    """instead, the share at the end of the data that it did not see: you say so. Without either
    they are the rows that the run's fit held out"""
    sample: bool = False
    """let the run's generator make rows, instead of taking those that it stored"""
    sampler: Literal["dpm", "sde", "heun"] | None = None
    """with --sample, another sampler than the run's"""
    levels: int | None = None
    """with --sample, its noise levels"""
    sigma_max: float | None = None
    """with --sample, the noise that it begins with"""
    sigma_min: float | None = None
    """with --sample, the last noise"""
    rows: int = 10_000
    """rows to measure, of the generated ones and of the unseen real ones"""
    env: str | None = None
    """the environment, where a card or a run names a module to import"""
    seed: int = 0
    """seed of the rows' choice, of samples and of the classifier"""
    threads: int | None = None
    """CPU threads"""
    json: Path | None = None
    """file for the measures, the notes and the stamp of this machine"""
    png: Path | None = None
    """picture to write: .png, .pdf or .svg"""


def main(args: Sequence[str]) -> int:
    """Print the table of a run's or a dataset's rows; write what was asked for."""
    names = args[: next((i for i, a in enumerate(args) if a.startswith("-")), len(args))]
    o = parse(QualityOptions, args[len(names) :], "quality RUN|dataset:PATH")
    if len(names) != 1:
        raise ValueError(
            f"`reverie quality` measures one run or dataset:PATH, named first; got {len(names)}"
        )
    if o.png is not None and o.png.suffix not in PICTURES:
        raise ValueError(f"--png {o.png}: end it with one of {', '.join(PICTURES)}")
    names_of = ("sampler", "levels", "sigma_max", "sigma_min")
    sampler = {k: v for k in names_of if (v := getattr(o, k)) is not None}
    if sampler and not o.sample:
        raise ValueError(f"--{next(iter(sampler)).replace('_', '-')} goes with --sample")
    use_threads(o.threads)
    made = made_by(names[0], o.rows, anew=o.sample, sampler=sampler, env=o.env, seed=o.seed)
    real = beside(made, o.data, o.fresh, o.held_out, o.env)
    real = real._replace(fresh=some(real.fresh, o.rows, o.seed))
    out = measure(made, real, o)
    print("\n".join(table(made, real, out)))
    if o.json is not None:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(o).items()}
        new, fresh = (measures.features(x, made.layout) for x in (made.rows, real.fresh))
        shares = measures.histograms(fresh, new, made.layout)
        text = {
            "what": names[0],
            "marginals": shares,
            **out,
            "options": settings,
            "stamp": hardware(),
        }
        write_text(o.json, json.dumps(_plain(text), indent=1) + "\n")
    if o.png is not None:
        from .quality_figure import draw

        print(draw(made, real, out, o.png))
    return 0


def measure(made: Made, real: Real, o: QualityOptions) -> dict[str, Any]:
    """Return every measure by name, where the real rows are from, and notes."""
    env = world(made.card, o.env)
    rule = rules_of(env).terminated
    out = measures.quality(
        made.rows, real.train, real.fresh, made.layout, env=env, rule=rule, seed=o.seed
    )
    if made.model is not None:
        losses = made.model.loss_by_level(real.fresh)
        out["loss_by_level"] = {f"{level:g}": loss for level, loss in losses.items()}
    out |= {"rows_seen": len(real.train), "unseen": real.how, "unseen_but_seen": real.seen}
    if real.seen:
        out["notes"].insert(
            0,
            f"THE FIT SAW {real.seen:,} of the real rows that it is measured by: nearest distance, "
            "scores and loss flatter it",
        )
    return out


def world(card: Card, env: str | None) -> BatchEnv:
    """Return worlds of the task that rows are of, in its context."""
    values = {k: v if isinstance(v, Sequence) else [v] for k, v in card.context.items()}
    kinds = math.prod(len(v) for v in values.values())
    worlds = {"context": values or None, "dtype": torch.float64, **card.env_options}
    return make(env or card.env, 64 if kinds == 1 else kinds, **worlds)


def table(made: Made, real: Real, out: Mapping[str, Any]) -> list[str]:
    """Return the lines of the report: aligned text."""
    lines = [
        f"{made.name}: {out['rows']:,} generated rows of {made.card.env}, "
        f"{made.layout.obs_dim} numbers observed, {made.layout.act_dim} acted",
        f"real rows: {out['rows_seen']:,} that the fit saw; {out['rows_real']:,} that it did not, "
        f"{real.how}",
        "",
        f"{'':34}{'generated':>11}{'unseen real':>13}{'noise':>9}   rows",
    ]
    for label, keys in TABLE.items():
        if keys[0] in out:
            cells = [_number(out.get(k)) for k in keys]
            lines.append(
                f"{label:34}{cells[0]:>11}{cells[1]:>13}{cells[2]:>9}   {_rows(out, keys[0])}"
            )
    if "loss_by_level" in out:
        lines += ["", "loss of unseen real rows by noise level (1: nothing learned)"]
        levels = out["loss_by_level"].items()
        lines += ["  " + "  ".join(f"{k:>5}" for k, _ in levels)]
        lines += ["  " + "  ".join(f"{v:5.3f}" for _, v in levels)]
    return [*lines, "", *(f"note: {n}" for n in out["notes"])] if out["notes"] else lines


def _rows(out: Mapping[str, Any], key: str) -> str:
    """Return how many rows a measure had: of each kind, generated / real."""
    if key == "two_sample_auc":
        n = out["two_sample_rows"]
        return f"{n:,} of each" + (
            f", blind below {measures.BLIND:,}" if n < measures.BLIND else ""
        )
    if key.startswith(("dynamics", "reward")):
        text = f"{out['dynamics_rows']:,} / {out['dynamics_rows_real']:,}"
        return f"{text}; noise of sd {out['noise_sd']:.3g}" if key == "dynamics" else text
    if key in ("outside_box", "terminal_precision", "terminal_recall"):
        return f"{out['rows']:,}"
    return f"{out['rows']:,} / {out['rows_real']:,}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return "-" if math.isnan(value) else f"{value:.4g}"


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: what is not a number is null."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
