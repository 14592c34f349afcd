"""The statistics equal the published formulas, and their intervals cover what they say."""

import numpy as np
import pytest
from scipy import stats as sp

from reverie.experiments.studies import stats

X = np.random.default_rng(1).normal(1.0, 0.6, (5, 10))
Y = np.random.default_rng(2).normal(0.7, 0.6, (7, 10))


def test_point_estimates_equal_rliables_formulas():
    assert stats.iqm(X) == pytest.approx(sp.trim_mean(X, 0.25, axis=None))
    assert stats.median(X) == pytest.approx(np.median(np.mean(X, axis=0)))
    assert stats.mean(X) == pytest.approx(np.mean(np.mean(X, axis=0)))
    assert stats.optimality_gap(X) == pytest.approx(1.0 - np.mean(np.minimum(X, 1.0)))
    u = [sp.mannwhitneyu(X[:, t], Y[:, t]).statistic / (len(X) * len(Y)) for t in range(10)]
    assert stats.probability_of_improvement(X, Y) == pytest.approx(np.mean(u))
    taus = [0.0, 0.5, 1.0]
    assert stats.performance_profile(X, taus) == pytest.approx([np.mean(t < X) for t in taus])


def test_hand_computed():
    x = np.array([[0.0, 4.0], [1.0, 5.0], [2.0, 6.0], [3.0, 7.0]])
    assert stats.iqm(x) == 3.5  # of 2, 3, 4, 5
    assert stats.optimality_gap(x, 2.0) == pytest.approx(2 - (0 + 1 + 2 + 2 + 2 * 4) / 8)
    assert stats.probability_of_improvement([1.0, 2.0], [1.0, 0.0]) == (0.5 + 1 + 1 + 1) / 4


def test_ties_count_half():
    assert stats.probability_of_improvement([1.0, 1.0], [1.0, 1.0]) == 0.5


def test_batched_statistics_equal_one_by_one():
    many = stats.resample(X, 50, 0)
    for f in (stats.iqm, stats.mean, stats.median, stats.optimality_gap):
        assert np.allclose(f(many), [f(x) for x in many])


def test_resampling_stays_within_tasks():
    x = np.arange(12.0).reshape(4, 3)
    assert (stats.resample(x, 20, 0) % 3 == np.arange(3)).all()


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_the_bootstrap_is_seeded_and_close_to_scipys(method):
    x = np.random.default_rng(3).gamma(2.0, 1.0, (12, 1))
    ours = stats.bootstrap(x, stats.mean, method=method, reps=20_000)
    assert ours == stats.bootstrap(x, stats.mean, method=method, reps=20_000)
    assert ours != stats.bootstrap(x, stats.mean, method=method, reps=20_000, seed=1)
    kind = {"percentile": "percentile", "bca": "BCa"}[method]
    theirs = sp.bootstrap(
        (x[:, 0],), np.mean, method=kind, n_resamples=20_000, rng=np.random.default_rng(0)
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.03)
    assert ours.high == pytest.approx(theirs.high, abs=0.03)


def test_paired_t_equals_scipys():
    a, b = X[:, 0], X[:, 1]
    got, expected = stats.paired_t(a, b), sp.ttest_rel(a, b)
    bounds = expected.confidence_interval()
    assert got.p == pytest.approx(expected.pvalue)
    assert (got.low, got.high) == pytest.approx((bounds.low, bounds.high))
    assert stats.paired_t([1.0, 2.0], [1.0, 2.0]).p == 1.0


# Simulated on lognormal scores, 95 % intervals; docs/reference/statistics.md states these figures.
COVERAGE = {
    ("t", 5): 0.92,
    ("t", 10): 0.93,
    ("percentile", 5): 0.81,
    ("percentile", 10): 0.89,
    ("bca", 5): 0.82,
    ("bca", 10): 0.89,
}


@pytest.mark.parametrize(("kind", "runs"), COVERAGE)
def test_coverage_is_what_the_docs_say(kind, runs):
    def interval(x):
        if kind == "t":
            return stats.paired_t(x[:, 0], np.zeros(len(x)))[1:3]
        return stats.bootstrap(x, stats.mean, method=kind, reps=1000)[1:]

    assert stats.coverage(runs, interval, trials=600) == pytest.approx(
        COVERAGE[kind, runs], abs=0.03
    )


def test_stratified_pairs_by_hand():
    """Tasks with means 2 and 11: of d = 1, 3 (variance of its mean 1) and d = 10, 10, 13 (1)."""
    got = stats.stratified_paired([[2.0, 5.0], [10.0, 11.0, 15.0]], [[1.0, 2.0], [0.0, 1.0, 2.0]])
    freedom = (1 + 1) ** 2 / (1 / 1 + 1 / 2)  # Welch-Satterthwaite: 8/3
    reach = sp.t.ppf(0.975, freedom) * 2**0.5 / 2
    assert got[:3] == pytest.approx((6.5, 6.5 - reach, 6.5 + reach))
    assert got.p == pytest.approx(2 * sp.t.sf(6.5 / (2**0.5 / 2), freedom))
    one = stats.stratified_paired([X[:, 0]], [X[:, 1]])  # of one task it is the paired t
    assert one == pytest.approx(stats.paired_t(X[:, 0], X[:, 1]))
    assert stats.stratified_paired([[1.0, 1.0]], [[0.0, 0.0]]) == (1.0, 1.0, 1.0, 0.0)
    for bad in ([[1.0]], [[1.0, 2.0], [3.0]], []):
        with pytest.raises(ValueError, match="task"):
            stats.stratified_paired(bad, bad)


def test_a_contrast_by_hand():
    """1 x 3 - .5 x 4: variances of the means 1 and 1/3 x 1/4, t(df) by Satterthwaite.

    df = (1 + 1/12)^2 / (1 / 1 + (1/12)^2 / 2) = 1.1695.
    """
    got = stats.contrast([([2.0, 4.0], 1.0), ([3.0, 4.0, 5.0], -0.5)])
    assert got.difference == pytest.approx(1.0)
    reach = sp.t.ppf(0.975, (13 / 12) ** 2 / (1 + 1 / 288)) * (13 / 12) ** 0.5
    assert (got.low, got.high) == pytest.approx((1 - reach, 1 + reach))
    for bad in ([], [([1.0], 1.0)]):
        with pytest.raises(ValueError, match="samples need at least 2 runs each"):
            stats.contrast(bad)


@pytest.mark.parametrize(("runs", "stratified"), [(3, 0.92), (5, 0.92), (10, 0.93)])
def test_what_tasks_differ_by_is_no_noise_when_they_are_strata(runs, stratified):
    """Two tasks of other means and spreads: one t interval over all pairs is twice too wide."""
    rng, truth, hits, widths = np.random.default_rng(0), (4 * np.exp(0.125) + 2) / 2, [0, 0], [0, 0]
    for _ in range(600):
        gaps = [rng.lognormal(0, 0.5, runs), 3 * rng.lognormal(0, 0.5, runs) + 2]
        zeros = [np.zeros(runs)] * 2
        both = stats.stratified_paired(gaps, zeros)[1:3], stats.mean_t(np.concatenate(gaps))[1:]
        for i, (low, high) in enumerate(both):
            hits[i] += low <= truth <= high
            widths[i] += high - low
    assert hits[0] / 600 == pytest.approx(stratified, abs=0.03)
    assert hits[1] / 600 > 0.99 and widths[1] > 1.5 * widths[0]


def test_equivalence_is_the_90_percent_interval_inside_the_margin():
    d = [0.1, -0.1, 0.2, 0.0, -0.2]  # mean 0, standard error 0.0707, t(4) at 95 %: 2.132
    assert stats.equivalent(d, [0.0] * 5, 0.151) and not stats.equivalent(d, [0.0] * 5, 0.150)
    assert not stats.equivalent([0.3 + x for x in d], [0.0] * 5, 0.4)  # to one side: high is 0.45
    assert not stats.equivalent([x - 0.3 for x in d], [0.0] * 5, 0.4)


@pytest.mark.parametrize(("runs", "shown"), [(5, 0.30), (10, 0.80)])
def test_how_often_an_equivalence_is_shown(runs, shown):
    """Normal differences of unit spread, margin 1: when they are 1 apart, and when they are 0."""
    rng = np.random.default_rng(0)
    noise, zero = rng.standard_normal((800, runs)), np.zeros(runs)
    wrong = np.mean([stats.equivalent(1 + d, zero, 1.0) for d in noise])
    assert wrong == pytest.approx(0.045, abs=0.02)
    assert np.mean([stats.equivalent(d, zero, 1.0) for d in noise]) == pytest.approx(
        shown, abs=0.04
    )


def test_pairs_of_units_cover_what_pairs_of_their_runs_do_not():
    """Six models of six controllers each; model and controller have the same spread."""
    assert stats.within([1.0, 3.0, 10.0], ["a", "a", "b"]) == {"a": 2.0, "b": 10.0}
    rng, hits = np.random.default_rng(0), [0, 0]
    names = np.repeat(np.arange(6), 6).tolist()
    for _ in range(600):
        runs = (rng.standard_normal((6, 1)) + rng.standard_normal((6, 6))).ravel()
        units = list(stats.within(runs.tolist(), names).values())
        for i, values in enumerate((units, runs)):
            low, high = stats.mean_t(values)[1:]
            hits[i] += low <= 0 <= high
    assert hits[0] / 600 == pytest.approx(0.95, abs=0.03)
    assert hits[1] / 600 == pytest.approx(0.70, abs=0.05)


def test_wrong_scores_are_told():
    for bad in ([[np.nan]], np.zeros((0, 3)), np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match="scores must be"):
            stats.bootstrap(bad)
    with pytest.raises(ValueError, match="2 runs"):
        stats.bootstrap([1.0])
    with pytest.raises(ValueError, match="equal vectors"):
        stats.paired_t([1.0, 2.0], [1.0])


def test_the_interval_of_a_probability_of_improvement():
    """0 and 1 against 0.5: a resample has no, one or two winners in 1, 2 and 1 of 4 cases."""
    assert stats.improvement([0.0, 1.0], [0.5, 0.5]) == (0.5, 0, 1)
    assert stats.improvement([2.0, 3.0], [0.0, 1.0]) == (1, 1, 1)
    assert stats.improvement([1.0, 1.0], [1.0, 1.0]) == (0.5, 0.5, 0.5)


def test_the_band_of_a_performance_profile():
    """Of 0 and 1 a resample has none, one or both above 0.5; above -1 all, above 1 none."""
    low, high = stats.profile_band([0.0, 1.0], [-1.0, 0.5, 1.0])
    assert low.tolist() == [1, 0, 0] and high.tolist() == [1, 1, 0]
