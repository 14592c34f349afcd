"""What a library is worth, by hand; the recovered CartPole blocks and what is known of them."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from reverie.agents.mbtl import scores
from reverie.agents.mbtl.checks import row_structure, seed_noise, shares
from reverie.agents.mbtl.geometry import equidistant, middle, pseudo_greedy, spread
from reverie.agents.mbtl.synthetic import flat, line_contexts

HAND = torch.tensor([[4.0, 1.0, 0.0], [2.0, 5.0, 2.0], [0.0, 0.0, 6.0]], dtype=torch.float64)
CARTPOLE = Path(__file__).parent / "cartpole"


def block(trial):
    path = CARTPOLE / f"cartpole_polelength_block_trial{trial}.csv"
    return torch.from_numpy(np.loadtxt(path, delimiter=","))


def test_a_library_by_hand():
    assert scores.served(HAND[:2]).tolist() == [4, 5, 2]
    assert scores.best_rows(HAND).tolist() == [0, 1, 2]
    assert scores.performance(HAND[[0, 2]]) == pytest.approx((4 + 1 + 6) / 3)
    assert scores.curve(HAND).tolist() == pytest.approx([5 / 3, 11 / 3, 5])
    assert scores.independent(HAND) == scores.oracle(HAND) == 5
    tens = torch.arange(20.0)[None]
    assert scores.worst_decile(tens) == 0.5 and scores.worst_decile(HAND) == 4


def test_the_myopic_oracle_by_hand():
    order, got = scores.myopic_oracle([HAND], 3)
    assert order == [1, 2, 0] and got.tolist() == pytest.approx([3, 13 / 3, 5])
    # Of two matrices it takes one order: row 0 of the second is worth more than all of the first.
    second = torch.zeros(3, 3, dtype=torch.float64)
    second[0] = 100
    order, got = scores.myopic_oracle([HAND, second], 1)
    assert order == [0] and got.tolist() == pytest.approx([(5 / 3 + 100) / 2])


def test_regret_is_against_the_best_pick_of_the_same_history():
    # After source 0 (5/3 of 3 at best), source 2 gives 11/3 and source 1 gives 11/3 too.
    assert scores.regret(HAND, [0, 2, 1]).tolist() == pytest.approx([3 - 5 / 3, 0, 0])
    # After source 1: source 2 gives 13/3, source 0 gives 11/3.
    assert scores.regret(HAND, [1, 0]).tolist() == pytest.approx([0, 2 / 3])
    # After 1 and 2 there are 2 5 6: source 0 makes it 4 5 6, source 1 again nothing.
    assert scores.regret(HAND, [1, 2, 1]).tolist() == pytest.approx([0, 0, 2 / 3])


def test_the_expected_best_of_a_random_subset_is_the_mean_over_all_subsets():
    for k in (1, 2, 3):
        subsets = [scores.served(HAND[list(s)]) for s in itertools.combinations(range(3), k)]
        want = torch.stack(subsets).mean(0)
        assert torch.allclose(scores.expected_best(HAND, k), want)
    with pytest.raises(ValueError, match="k must be from 1 to the 3 rows, got 4"):
        scores.expected_best(HAND, 4)


def test_a_span():
    assert scores.span(0.75, 0.5, 1.5) == 0.25
    with pytest.raises(ValueError, match="must be above random"):
        scores.span(1, 1, 1)


def test_geometry_on_a_flat_matrix():
    """Equidistant loses slope n / (4 k); independent is the peak."""
    u = flat()
    for k, want in ((1, 0.775), (2, 0.8375), (4, 0.86875), (5, 0.875), (10, 0.8875)):
        assert scores.performance(u[equidistant(100, k)]) == pytest.approx(want, abs=1e-4)
    assert scores.independent(u) == pytest.approx(0.9)
    assert equidistant(100, 5) == [10, 30, 49, 69, 89]
    order = []
    for _ in range(8):
        order.append(pseudo_greedy(100, order))
    assert order == [49, 82, 16, 32, 65, 40, 73, 93]


def test_the_middle_and_a_spread():
    assert middle(line_contexts(100)) == 49 and middle(line_contexts(15)) == 7
    grid = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))
    assert grid[middle(grid)].tolist() == [4, 4]  # 3.5 to even
    assert spread(line_contexts(9), [4]) == 1  # leaves 1 0 1 1 0 1 2 3 4, as 7 does
    assert spread(line_contexts(9), [4, 1]) == 7


@pytest.mark.parametrize(
    ("trial", "own", "most", "by_chance", "greedy", "first", "even", "share"),
    [
        (0, 460.1, 497.0, (409.3, 449.7, 465.0, 479.7), (490.6, 497.0, 497.0), [0, 1, 2],
         (376.7, 431.5, 472.2, 496.9), (0.35, 0.47, 0.06)),
        (1, 475.3, 493.0, (401.3, 447.0, 464.5, 478.7), (473.0, 492.7, 493.0), [3, 0, 2],
         (430.4, 457.2, 462.0, 480.4), (0.11, 0.37, 0.26)),
        (2, 459.7, 493.4, (410.2, 449.2, 466.0, 482.1), (464.2, 491.6, 493.4), [3, 0, 4],
         (463.2, 436.8, 488.4, 493.2), (0.20, 0.44, 0.13)),
    ],
)  # fmt: skip
def test_the_recovered_cartpole_blocks(trial, own, most, by_chance, greedy, first, even, share):
    u = block(trial)
    assert scores.independent(u) == pytest.approx(own, abs=0.1)
    assert scores.oracle(u) == pytest.approx(most, abs=0.1)
    got = [scores.random_performance(u, k) for k in (1, 2, 3, 5)]
    assert got == pytest.approx(by_chance, abs=0.1)
    order, curve = scores.myopic_oracle([u], 3)
    assert order == first and curve.tolist() == pytest.approx(greedy, abs=0.1)
    sets = ([4], [2, 7], [1, 4, 8], [0, 2, 4, 6, 8])
    assert [scores.performance(u[s]) for s in sets] == pytest.approx(even, abs=0.1)
    assert shares(u, line_contexts(10)) == pytest.approx(share, abs=0.006)


def test_the_recovered_multitask_table():
    """The published .9967 is the checkpoint at 50 M steps; at equal budget it is 300 of 500."""
    table = np.loadtxt(
        CARTPOLE / "cartpole_multitask_mean_return_12budgets_x_3trials.csv", delimiter=","
    )
    want = [349, 421, 471, 466, 439, 436, 480, 488, 416, 498, 409, 300]
    assert np.round(table.mean(1)).tolist() == want
    assert table[9].mean() / 500 == pytest.approx(0.9967, abs=1e-3)


def test_shares_of_variance_by_hand():
    x = line_contexts(2)
    assert shares(torch.tensor([[1.0, 1.0], [3.0, 3.0]]).double(), x) == pytest.approx((1, 0, 0))
    assert shares(torch.tensor([[1.0, 3.0], [1.0, 3.0]]).double(), x) == pytest.approx((0, 1, 0))
    assert shares(torch.tensor([[3.0, 1.0], [1.0, 3.0]]).double(), x) == pytest.approx((0, 0, 1))
    assert shares(torch.ones(2, 2).double(), x) == (0, 0, 0)


def test_row_structure_tells_a_flat_matrix():
    x = line_contexts(3)
    same = torch.full((3, 3), 0.96, dtype=torch.float64)
    test = row_structure(same, x, low=0, high=1)
    assert test.flat and test.one_of_all == 1 and test.own_gain == pytest.approx(0)
    # The best single row has mean 3 of 5, own returns 5, a random row (5/3 + 3 + 2) / 3 = 20/9.
    test = row_structure(HAND, x, low=0, high=10)
    assert not test.flat and test.one_of_all == pytest.approx(0.6)
    assert test.own_gain == pytest.approx((5 - 20 / 9) / 10)
    # Signature of the published HalfCheetah friction: one source is all, and own is no better.
    lucky = torch.tensor([[0.966] * 3, [0.5] * 3, [0.5] * 3], dtype=torch.float64)
    assert row_structure(lucky, x, low=0, high=1).flat
    # One source is all, but each of the others is good at home: its own training gains.
    home = torch.tensor([[1.0, 1, 1], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    test = row_structure(home, x, low=0, high=1)
    assert not test.flat and test.one_of_all == 1 and test.own_gain == pytest.approx(4 / 9)
    with pytest.raises(ValueError, match="from low to a greater high"):
        row_structure(HAND, x, low=1, high=1)


def test_seed_noise_by_hand():
    """Own returns 5 +- sqrt 2 and a fall of 1 a step: 10 steps are above it, one is not."""
    x = line_contexts(3)
    fall = (x - x.T).abs()
    values = torch.stack([6 - fall, 4 - fall], -1)
    test = seed_noise(values, x)
    assert test.seed_sd == pytest.approx(2**0.5) and test.gap == pytest.approx(10)
    assert not test.luck and seed_noise(values, x, steps=1).luck
    with pytest.raises(ValueError, match="two seeds"):
        seed_noise(values[..., :1], x)
