"""Statistics of few seeds: estimates with intervals that say what they know.

Scores are arrays [runs, tasks]. The estimators follow Agarwal et al. (2021), "Deep RL at the edge
of the statistical precipice" (rliable); the bootstrap is vectorised and seeded.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

Scores = np.ndarray[Any, np.dtype[np.float64]]
Statistic = Callable[[Scores], Scores]  # [..., runs, tasks] -> [...]


class Interval(NamedTuple):
    """An estimate and its interval."""

    estimate: float
    low: float
    high: float


def _matrix(scores: Any) -> Scores:
    x = np.asarray(scores, np.float64)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or 0 in x.shape or not np.isfinite(x).all():
        raise ValueError(f"scores must be finite [runs, tasks], got shape {x.shape}")
    return x


def mean(scores: Scores) -> Scores:
    """Return the mean over runs and tasks."""
    return np.asarray(scores.mean(axis=(-2, -1)))


def median(scores: Scores) -> Scores:
    """Return the median over tasks of the mean over runs (Agarwal et al., section 4.3)."""
    return np.asarray(np.median(scores.mean(axis=-2), axis=-1))


def iqm(scores: Scores) -> Scores:
    """Return the interquartile mean: of the middle half of all runs and tasks together."""
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = int(0.25 * flat.shape[-1])  # as scipy.stats.trim_mean
    return np.asarray(flat[..., cut : flat.shape[-1] - cut].mean(axis=-1))


def optimality_gap(scores: Scores, target: float = 1.0) -> Scores:
    """Return by how much the runs fall short of `target` on average."""
    return np.asarray(target - np.minimum(scores, target).mean(axis=(-2, -1)))


def resample(scores: Scores, reps: int, seed: int) -> Scores:
    """Return [reps, runs, tasks]: runs drawn with replacement within each task."""
    runs, tasks = scores.shape
    pick = np.random.default_rng(seed).integers(0, runs, (reps, runs, tasks))
    return scores[pick, np.arange(tasks)]


def bootstrap(
    scores: Any,
    statistic: Statistic = iqm,
    *,
    method: str = "bca",
    level: float = 0.95,
    reps: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Return a statistic with its stratified bootstrap interval, `percentile` or `bca`.

    BCa (Efron 1987) corrects bias and skew by the jackknife. With one run there is no interval:
    ValueError.
    """
    x = _matrix(scores)
    if len(x) < 2:
        raise ValueError("an interval needs at least 2 runs")
    if method not in ("percentile", "bca"):
        raise ValueError(f"method must be percentile or bca, got {method!r}")
    estimate = float(statistic(x))
    draws = np.sort(statistic(resample(x, reps, seed)))
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca" and draws[0] < draws[-1]:
        tails = _bca_tails(x, statistic, draws, estimate, tails)
    low, high = np.quantile(draws, tails)
    return Interval(estimate, float(low), float(high))


def _bca_tails(
    x: Scores, statistic: Statistic, draws: Scores, estimate: float, tails: Scores
) -> Scores:
    below = (np.sum(draws < estimate) + 0.5 * np.sum(draws == estimate)) / len(draws)
    bias = stats.norm.ppf(np.clip(below, 1 / len(draws), 1 - 1 / len(draws)))
    # One jackknife value for each run of each task left out, the others of that task standing in.
    left_out = []
    for task in range(x.shape[1]):
        for run in range(x.shape[0]):
            y = x.copy()
            y[run, task] = np.delete(x[:, task], run).mean()
            left_out.append(float(statistic(y)))
    d = np.mean(left_out) - np.array(left_out)
    spread = float((d**2).sum())
    accel = float((d**3).sum() / (6 * spread**1.5)) if spread > 0 else 0.0
    z = bias + stats.norm.ppf(tails)
    return np.asarray(stats.norm.cdf(bias + z / (1 - accel * z)))


def mean_t(scores: Any, level: float = 0.95) -> Interval:
    """Return the mean of runs [n] with Student's t interval."""
    x = np.asarray(scores, np.float64)
    if x.ndim != 1 or len(x) < 2:
        raise ValueError(f"a t interval needs a vector of at least 2 runs, got shape {x.shape}")
    reach = stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean() - reach), float(x.mean() + reach))


class Paired(NamedTuple):
    """The mean difference of paired runs, its t interval and two-sided p value."""

    difference: float
    low: float
    high: float
    p: float


def paired_t(a: Any, b: Any, level: float = 0.95) -> Paired:
    """Compare arms run on the same seeds: mean of a - b [seeds] with Student's t interval."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2:
        raise ValueError(f"pairs need two equal vectors of at least 2 runs: {x.shape}, {y.shape}")
    d = x - y
    error = d.std(ddof=1) / np.sqrt(len(d))
    if error == 0:
        return Paired(float(d.mean()), float(d.mean()), float(d.mean()), float(d.mean() == 0))
    reach = stats.t.ppf((1 + level) / 2, len(d) - 1) * error
    p = 2 * stats.t.sf(abs(d.mean()) / error, len(d) - 1)
    return Paired(float(d.mean()), float(d.mean() - reach), float(d.mean() + reach), float(p))


def stratified_paired(a: Any, b: Any, level: float = 0.95) -> Paired:
    """Compare arms over tasks: mean over tasks of the mean of a - b, with a stratified interval.

    `a`, `b`: for each task a vector of runs, paired by seed; tasks may have different numbers of
    them. What tasks differ by is no noise here, as it is when all pairs go into one t interval,
    and their variances may differ (Welch 1947, Satterthwaite 1946).
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"both arms need the same tasks: {len(a)} and {len(b)}")
    left, right = ([np.asarray(x, np.float64) for x in arm] for arm in (a, b))
    pairs = list(zip(left, right, strict=True))
    if any(x.shape != y.shape or x.ndim != 1 or len(x) < 2 for x, y in pairs):
        shapes = [(x.shape, y.shape) for x, y in pairs]
        raise ValueError(f"each task needs two equal vectors of at least 2 runs: {shapes}")
    return contrast([(x - y, 1 / len(pairs)) for x, y in pairs], level)


def contrast(samples: Sequence[tuple[Any, float]], level: float = 0.95) -> Paired:
    """Return a weighted sum of the means of independent samples, with its interval.

    `samples`: vectors of at least 2 runs, which may have different numbers and variances, and the
    weight of each one's mean (Welch 1947, Satterthwaite 1946).
    """
    parts = [(np.asarray(x, np.float64), weight) for x, weight in samples]
    if not parts or any(x.ndim != 1 or len(x) < 2 for x, _ in parts):
        raise ValueError(f"samples need at least 2 runs each: {[x.shape for x, _ in parts]}")
    mean = float(sum(weight * x.mean() for x, weight in parts))
    squares = [weight**2 * x.var(ddof=1) / len(x) for x, weight in parts]  # of each one's mean
    if not any(squares):
        return Paired(mean, mean, mean, float(mean == 0))
    error = np.sqrt(sum(squares))
    freedom = sum(squares) ** 2 / sum(
        v**2 / (len(x) - 1) for v, (x, _) in zip(squares, parts, strict=True)
    )
    reach = stats.t.ppf((1 + level) / 2, freedom) * error
    p = 2 * stats.t.sf(abs(mean) / error, freedom)
    return Paired(mean, float(mean - reach), float(mean + reach), float(p))


def equivalent(a: Any, b: Any, margin: float) -> bool:
    """Return whether paired runs differ by less than `margin`: the 90 % t interval lies inside.

    Two one-sided tests at 5 % (Schuirmann 1987). False means not shown, never that they differ.
    """
    t = paired_t(a, b, level=0.9)
    return -margin < t.low and t.high < margin


def within(values: Sequence[float], units: Sequence[Any]) -> dict[Any, float]:
    """Return the mean of the values of each unit.

    Runs that share something random (controllers trained in one model) are one unit: pairs are of
    units, else an interval counts the same luck many times.
    """
    rows: dict[Any, list[float]] = {}
    for unit, value in zip(units, values, strict=True):
        rows.setdefault(unit, []).append(value)
    return {unit: sum(row) / len(row) for unit, row in rows.items()}


def probability_of_improvement(a: Any, b: Any) -> float:
    """Return the mean over tasks of P(a run of `a` beats a run of `b`), ties half."""
    x, y = _matrix(a), _matrix(b)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"both need the same tasks: {x.shape[1]} and {y.shape[1]}")
    wins = x[:, None, :] > y[None, :, :]
    ties = x[:, None, :] == y[None, :, :]
    return float((wins + 0.5 * ties).mean(axis=(0, 1)).mean())


def performance_profile(scores: Any, taus: Any) -> Scores:
    """Return the share of runs, over all tasks, that score above each tau."""
    x = _matrix(scores)
    return np.asarray((x[None] > np.asarray(taus)[:, None, None]).mean(axis=(1, 2)))


def improvement(
    a: Any, b: Any, *, level: float = 0.95, reps: int = 2_000, seed: int = 0
) -> Interval:
    """Return the probability of improvement with its stratified percentile interval.

    Both arms are resampled, each task by itself (Agarwal et al. 2021, section 4.3).
    """
    x, y = _matrix(a), _matrix(b)
    draws = resample(x, reps, seed)[:, :, None], resample(y, reps, seed + 1)[:, None]
    wins = (draws[0] > draws[1]).mean(axis=(1, 2, 3)) + 0.5 * (draws[0] == draws[1]).mean(
        axis=(1, 2, 3)
    )
    low, high = np.quantile(wins, [(1 - level) / 2, (1 + level) / 2])
    return Interval(probability_of_improvement(x, y), float(low), float(high))


def profile_band(
    scores: Any, taus: Any, *, level: float = 0.95, reps: int = 2_000, seed: int = 0
) -> tuple[Scores, Scores]:
    """Return the ends of the pointwise stratified percentile interval of a performance profile."""
    draws, at = resample(_matrix(scores), reps, seed), np.asarray(taus)
    shares = np.stack([(draws > tau).mean(axis=(1, 2)) for tau in at])  # [taus, reps]
    low, high = np.quantile(shares, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return low, high


def coverage(
    runs: int, interval: Callable[[Scores], tuple[float, float]], trials: int = 500, seed: int = 0
) -> float:
    """Simulate how often an interval holds the true mean of lognormal scores (sigma 0.5)."""
    rng = np.random.default_rng(seed)
    truth = float(np.exp(0.5**2 / 2))
    hits = 0
    for _ in range(trials):
        low, high = interval(rng.lognormal(0, 0.5, (runs, 1)))
        hits += low <= truth <= high
    return hits / trials
