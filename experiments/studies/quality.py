"""How good generated transitions are: statistics of rows beside those of real ones."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...agents.synther import noise
from ...buffers import Layout
from ...envs import BatchEnv

Floats = NDArray[np.float64]
BLIND = 5_000  # rows of each kind below which a classifier tells little apart


def features(rows: Tensor, layout: Layout) -> Floats:
    """Return obs, action, reward and next_obs of packed rows [n, width] as [n, d]."""
    return rows[:, : 2 * layout.obs_dim + layout.act_dim + 1].double().numpy()


def marginal(real: Floats, made: Floats) -> float:
    """Return the mean over columns of 1 - the Kolmogorov-Smirnov distance; 1: equal."""
    return 1 - float(np.mean([ks(a, b) for a, b in zip(real.T, made.T, strict=True)]))


def histograms(real: Floats, made: Floats, layout: Layout, bins: int = 30) -> list[dict[str, Any]]:
    """Return shares in equal bins, of observed and acted numbers and the reward, with their scores.

    The range is that of the middle 99.8 % of the real rows; what lies beyond is in the end bins.
    """
    names = [f"obs {i}" for i in range(layout.obs_dim)]
    names += [f"action {i}" for i in range(layout.act_dim)] + ["reward"]
    out = []
    for name, a, b in zip(names, real.T, made.T, strict=False):  # next_obs is left out
        low, high = np.quantile(a, [0.001, 0.999])
        edges = np.linspace(low, high if high > low else low + 1, bins + 1)
        shares = [np.histogram(x.clip(low, edges[-1]), edges)[0] / len(x) for x in (a, b)]
        out.append({"name": name, "low": float(low), "high": float(edges[-1]),
                    "score": 1 - ks(a, b), "real": shares[0].tolist(),
                    "made": shares[1].tolist()})  # fmt: skip
    return out


def ks(a: Floats, b: Floats) -> float:
    """Return the largest gap between the distribution functions of two samples."""
    at = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def correlation(real: Floats, made: Floats) -> float:
    """Return the mean over pairs of columns of 1 - |difference of rank correlations| / 2.

    Columns that never change in one of the samples are left out; NaN where fewer than two stay.
    """
    moving = (np.ptp(real, 0) > 0) & (np.ptp(made, 0) > 0)
    if moving.sum() < 2:
        return math.nan
    a, b = (rank_correlations(x[:, moving]) for x in (real, made))
    pairs = np.triu_indices(len(a), 1)
    return 1 - float(np.abs(a - b)[pairs].mean()) / 2


def rank_correlations(x: Floats) -> Floats:
    """Return Spearman's correlations [d, d] of columns [n, d]."""
    from scipy.stats import rankdata

    out: Floats = np.corrcoef(rankdata(x, axis=0), rowvar=False)
    return out


def two_sample_auc(real: Floats, made: Floats, seed: int = 0) -> tuple[float, int]:
    """Return the AUC of a classifier of real and generated rows, and how many of each it had.

    Boosted trees, fit on one half and scored on the other; 0.5: they cannot be told apart.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    n, rng = min(len(real), len(made)), np.random.default_rng(seed)
    parts = [x[rng.permutation(len(x))[:n]] for x in (real, made)]
    x, y = np.concatenate(parts), np.repeat([0, 1], n)
    learn = np.tile(np.arange(n) < n // 2, 2)
    classifier = HistGradientBoostingClassifier(random_state=seed, early_stopping=False)
    classifier.fit(x[learn], y[learn])
    score = classifier.predict_proba(x[~learn])[:, 1]
    return float(roc_auc_score(y[~learn], score)), n


def nearest(x: Floats, among: Floats, scale: Floats) -> Floats:
    """Return the Euclidean distance [n] of each row to the nearest of others, by columns / scale.

    Columns that do not change, scale 0, are left out.
    """
    use = scale > 0
    out: Floats = noise.nearest(
        *(torch.from_numpy(v[:, use] / scale[use]) for v in (x, among))
    ).numpy()
    return out


def ends(real: Tensor, made: Tensor, layout: Layout, rule: Any = None) -> dict[str, float]:
    """Return the share of terminated rows, and how well they fit the task's rule where it has one.

    `rule`: next_obs [n, O] -> [n] bool. Precision: of the rows that say they ended, the share that
    the rule ends; recall: of those that the rule ends, the share that says so.
    """
    rows = layout.unpack(made)
    said = rows.terminated > 0.5
    out = {
        "terminal_rate": float(said.float().mean()),
        "terminal_rate_real": float(layout.unpack(real).terminated.mean()),
    }
    if rule is not None:
        true = rule(rows.next_obs).bool()
        both = int((said & true).sum())
        out["terminal_precision"] = both / int(said.sum()) if said.any() else math.nan
        out["terminal_recall"] = both / int(true.sum()) if true.any() else math.nan
    return out


def outside(made: Tensor, layout: Layout) -> float:
    """Return the share of rows with an action beyond [-1, 1]."""
    return float((layout.unpack(made).action.abs() > 1).any(1).float().mean())


def quality(
    made: Tensor,
    train: Tensor,
    fresh: Tensor,
    layout: Layout,
    *,
    env: BatchEnv | None = None,
    rule: Any = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Return every measure of generated rows [n, width] by name, and what was not measured.

    `train`: the rows that the generator was fit to; `fresh`: real rows that it never saw, against
    which it is compared (`_real`: what these have of each measure, or `train`). `env`: a world of
    the task, for the error of its dynamics, and for that of rows of `train` with as much noise as
    puts them as far from it as generated rows lie.
    """
    real, seen, new = (features(x, layout) for x in (fresh, train, made))
    scale = seen.std(0)
    auc, rows = two_sample_auc(real, new, seed)
    novelty, floor = (float(np.median(nearest(x, seen, scale))) for x in (new, real))
    out: dict[str, Any] = {
        "rows": len(made),
        "rows_real": len(fresh),
        "marginal": marginal(real, new),
        "marginal_real": marginal(real, seen),
        "correlation": correlation(real, new),
        "correlation_real": correlation(real, seen),
        "two_sample_auc": auc,
        "two_sample_rows": rows,
        "nearest": novelty,
        "nearest_real": floor,
        "nearest_ratio": novelty / floor if floor else math.nan,
        "outside_box": outside(made, layout),
        **ends(fresh, made, layout, rule),
    }
    notes = [] if rows >= BLIND else [f"a classifier is nearly blind at {rows:,} rows of each"]
    if env is not None:
        measured, told = simulated(env, made, train, fresh, layout, seed)
        out |= measured
        notes += told
    return {**out, "notes": notes}


def simulated(
    env: BatchEnv, made: Tensor, train: Tensor, fresh: Tensor, layout: Layout, seed: int = 0
) -> tuple[dict[str, float], list[str]]:
    """Return the errors of `dynamics_error`, those of rows with noise beside them, and notes.

    `noise_sd`: of that noise, in standard deviations of each column; `dynamics_noise_ratio`: its
    error by that of the generated rows.
    """
    from .simulated import dynamics_error

    out, notes = dynamics_error(env, made, fresh, layout)
    if out:
        control = noise.Noise(layout, 0.0, seed=seed)
        control.match(train, made)
        theirs, _ = dynamics_error(env, control.generate(train, len(made)), fresh, layout)
        out |= {"noise_sd": control.sd, "dynamics_noise": theirs["dynamics"]}
        ratio = theirs["dynamics"] / out["dynamics"] if out["dynamics"] else math.nan
        out["dynamics_noise_ratio"] = ratio
    return out, notes
