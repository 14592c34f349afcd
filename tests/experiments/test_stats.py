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


# Simulated on lognormal scores, 95 % intervals; docs/statistics.md states these figures.
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


def test_wrong_scores_are_told():
    for bad in ([[np.nan]], np.zeros((0, 3)), np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match="scores must be"):
            stats.bootstrap(bad)
    with pytest.raises(ValueError, match="2 runs"):
        stats.bootstrap([1.0])
    with pytest.raises(ValueError, match="equal vectors"):
        stats.paired_t([1.0, 2.0], [1.0])
