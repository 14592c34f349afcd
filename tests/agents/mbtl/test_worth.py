"""What libraries from a stored matrix are worth, seed by seed."""

import itertools

import pytest
import torch

from reverie.agents.mbtl import Matrix, MatrixCard, scores
from reverie.agents.mbtl.synthetic import hill, line_contexts
from reverie.agents.mbtl.worth import (
    BEST,
    held_out,
    performance,
    pseudo_values,
    sample,
    subsets,
    worst_decile,
)


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_metrics_by_hand():
    """Two policies, two targets. The second half of the episodes takes back what the first says."""
    first, second = rows([1, 0], [0, 0]), rows([0, 0], [1, 1])
    mean = (first + second) / 2  # [.5, 0] and [.5, .5]
    assert float(performance(mean[None])) == 0.5
    assert float(worst_decile(rows([[0.5, 0, 0.3], [0.1, 0.2, 0.1]]))) == pytest.approx(0.2)
    assert float(held_out(torch.stack([first, second]))) == 0.0
    # By the first half target 0 is served by 0 (then 3) and 1 by 1 (then 8); by the second 0 by 1
    # (2 before) and 1 by 1 (6 before): means 5.5 and 4.
    first, second = rows([4, 5], [2, 6]), rows([3, 1], [7, 8])
    assert float(held_out(torch.stack([first, second]))) == pytest.approx((5.5 + 4) / 2)


def test_pseudo_values_by_hand():
    """Of one seed they are its own mean; of two of three v01 + v02 - v12, and so on."""
    middle = rows([1, 5], [2, 2], [4, 0])
    assert pseudo_values(middle[None], 1, performance).tolist() == pytest.approx([3, 2, 2])
    pairs = (3.5, 4.5, 3.0)  # of 01, 02, 12
    expected = [3.5 + 4.5 - 3.0, 3.5 + 3.0 - 4.5, 4.5 + 3.0 - 3.5]
    got = pseudo_values(middle[None], 2, performance)
    assert got.tolist() == pytest.approx(expected)
    assert float(got.mean()) == pytest.approx(sum(pairs) / 3)
    with pytest.raises(ValueError, match="best of 3 seeds needs more than the 3"):
        pseudo_values(middle[None], 3, performance)


def test_subsets_are_all_or_many():
    assert subsets(4, 2).tolist() == [list(c) for c in itertools.combinations(range(4), 2)]
    some = subsets(20, 5, most=300)
    assert some.shape == (300, 5) and all(len(set(own)) == 5 for own in some.tolist())
    with pytest.raises(ValueError, match="k must be from 1 to the 3 rows, got 4"):
        subsets(3, 4)


def matrix(halves=True):
    values = torch.stack([hill(0, 6), hill(1, 6)], -1)
    middle = torch.cat([values[2].T, hill(2, 6)[2:4], hill(3, 6)[2:4]])
    own = {"halves": torch.stack([values, values])} if halves else {}
    card = MatrixCard("T", ("length",), 60, (0, 1), low=-1, high=3)
    return Matrix(values, line_contexts(6), card, middle, **own)


def test_samples_are_of_each_seed_in_units():
    m = matrix()
    picks = {"improved": [[0, 3], [4, 1]]}
    got = sample(m, "improved", 2, picks, "performance").tolist()
    units = [m.unit(0)[[0, 3]], m.unit(1)[[4, 1]]]
    assert got == pytest.approx([scores.performance(u) for u in units])
    assert sample(m, "improved", 2, picks, "held_out").tolist() == pytest.approx(got)
    best = sample(m, BEST, 2, {}, "performance")
    assert len(best) == 6
    assert float(best.mean()) == pytest.approx(scores.random_performance(m.unit_middle(), 2))
    for s, got in enumerate(sample(m, "random", 3, {}, "performance").tolist()):
        assert got == pytest.approx(scores.random_performance(m.unit(s), 3))
    worth = float(scores.myopic_oracle([m.unit(0), m.unit(1)], 2)[1][-1])
    assert float(sample(m, "oracle", 2, {}, "performance").mean()) == pytest.approx(worth)
    with pytest.raises(ValueError, match="no picks of 'own', only of best-of-k seeds, random"):
        sample(m, "own", 2, picks, "performance")
    with pytest.raises(ValueError, match="the matrix keeps no halves"):
        sample(matrix(halves=False), "improved", 2, picks, "held_out")
