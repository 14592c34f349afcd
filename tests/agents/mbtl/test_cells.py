"""The published tables of SD-MBTL on synthetic matrices, and the selectors' gates on them.

Columns: random, GP-MBTL, M-MBTL, M/GP-MBTL, myopic oracle; 50 sources.
"""

import pytest
import torch

from reverie.agents.mbtl import replay, scores, selector_of
from reverie.agents.mbtl.study import aggregate, cell, mountain_order, units
from reverie.agents.mbtl.synthetic import Grid, grids, grids_5d, hill, line_contexts

NAMES = ("random", "gp", "mountain", "switch", "oracle")
PUBLISHED = {
    0: {
        "const,linear,nd": (0.7028, 0.7250, 0.7055, 0.7250, 0.7250),
        "const,linear,L1": (0.7122, 0.7110, 0.7187, 0.7187, 0.7190),
        "const,none,nd": (0.8688, 0.9091, 0.8736, 0.9091, 0.9091),
        "const,none,L1": (0.9244, 0.9364, 0.9374, 0.9374, 0.9382),
        "linear,linear,nd": (0.5544, 0.5714, 0.5552, 0.5714, 0.5714),
        "linear,linear,L1": (0.5517, 0.5714, 0.5535, 0.5714, 0.5714),
        "linear,none,nd": (0.6761, 0.7000, 0.6772, 0.7000, 0.7000),
        "linear,none,L1": (0.7660, 0.7857, 0.7678, 0.7857, 0.7857),
    },
    5: {
        "const,linear,nd": (0.6956, 0.7212, 0.6976, 0.7168, 0.7260),
        "const,linear,L1": (0.7011, 0.6961, 0.7038, 0.7038, 0.7048),
        "const,none,nd": (0.7906, 0.8369, 0.7936, 0.8334, 0.8375),
        "const,none,L1": (0.7722, 0.7747, 0.7762, 0.7762, 0.7778),
        "linear,linear,nd": (0.5773, 0.6088, 0.5782, 0.6086, 0.6090),
        "linear,linear,L1": (0.5880, 0.6218, 0.5900, 0.6216, 0.6221),
        "linear,none,nd": (0.6672, 0.7083, 0.6683, 0.7073, 0.7088),
        "linear,none,L1": (0.7401, 0.7744, 0.7422, 0.7751, 0.7756),
    },
    30: {
        "const,linear,nd": (0.7083, 0.7274, 0.7091, 0.7202, 0.7319),
        "const,linear,L1": (0.6879, 0.6825, 0.6879, 0.6876, 0.6952),
        "const,none,nd": (0.7036, 0.7274, 0.7045, 0.7215, 0.7295),
        "const,none,L1": (0.7125, 0.7181, 0.7125, 0.7150, 0.7205),
    },
}
FIVE = {
    "linear,linear,L1": (0.5996, 0.6229, 0.5993, 0.6122, 0.6265),
    "linear,linear,nd2": (0.6142, 0.6120, 0.6156, 0.6160, 0.6236),
    "linear,linear,nd1": (0.6128, 0.6140, 0.6142, 0.6172, 0.6262),
    "linear,none,L1": (0.7348, 0.7440, 0.7344, 0.7461, 0.7626),
    "linear,none,nd2": (0.6891, 0.6810, 0.6910, 0.6910, 0.7016),
    "linear,none,nd1": (0.7007, 0.6930, 0.7024, 0.7012, 0.7175),
    "const,linear,L1": (0.7049, 0.6887, 0.7090, 0.7089, 0.7117),
    "const,linear,nd1": (0.6982, 0.7463, 0.6917, 0.7421, 0.7482),
    "const,linear,nd2": (0.7000, 0.7457, 0.6987, 0.7441, 0.7503),
    "const,none,L1": (0.7374, 0.7411, 0.7423, 0.7422, 0.7457),
    "const,none,nd1": (0.7482, 0.8134, 0.7396, 0.8129, 0.8150),
    "const,none,nd2": (0.7548, 0.8189, 0.7531, 0.8167, 0.8202),
}
CONTEXTS = Grid().contexts


@pytest.fixture(scope="module")
def order():
    return mountain_order(CONTEXTS)


def test_the_generators_formula_by_hand():
    """From (7, 0, 3) to (2, 4, 3): 500 + 4 * 10 + 3 * 9 - (3 * 5 + 1 * -4)."""
    g = Grid(source=4, target=3, left=(1, 1, -3))
    place = {tuple(x): i for i, x in enumerate(g.contexts.tolist())}
    assert g.mean()[place[7, 0, 3], place[2, 4, 3]] == 500 + 40 + 27 - (15 - 4)
    noisy = Grid(noise=5)
    a, b = noisy.trial(0), noisy.trial(1)
    assert float((a - noisy.mean()).std()) == pytest.approx(5, rel=0.01)
    assert a[0, 0] == pytest.approx(500 + 5 * 1.764052345967664)  # NumPy's first of seed 0
    low, high = noisy.bounds(2)
    assert low == min(a.min(), b.min()) and high == max(a.max(), b.max())


@pytest.mark.parametrize("row", PUBLISHED[0])
def test_cells_without_noise(row, order):
    """Independent training and the library of all policies too (sheet, gate 2)."""
    (u,) = units(grids(0)[row], [0])
    published = dict(zip(NAMES, PUBLISHED[0][row], strict=True))
    assert cell("random", CONTEXTS, [u]) == pytest.approx(published["random"], abs=0.005)
    assert cell("oracle", CONTEXTS, [u]) == pytest.approx(published["oracle"], abs=1e-3)
    assert scores.performance(u[order]) == pytest.approx(published["mountain"], abs=0.005)
    own = (0.6750, 0.7500, 0.8182, 1.0, 0.5000, 0.5000, 0.6000, 0.7143)
    table = dict(zip(PUBLISHED[0], own, strict=True))
    assert scores.independent(u) == pytest.approx(table[row], abs=1e-4)


QUICK = [("const,linear,L1", "gp"), ("const,linear,L1", "switch"), ("linear,none,L1", "switch")]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        pytest.param(row, name, marks=[] if (row, name) in QUICK else [pytest.mark.slow])
        for row in PUBLISHED[0]
        for name in ("gp", "switch")
    ],
)
def test_cells_of_learning_selectors_without_noise(row, name):
    u = units(grids(0)[row], [0])
    want = PUBLISHED[0][row][NAMES.index(name)]
    assert cell(name, CONTEXTS, u) == pytest.approx(want, abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "near", "trials"), [(5, 0.005, 4), (30, 0.01, 4)])
@pytest.mark.parametrize("name", NAMES[:-1])
def test_cells_with_noise(noise, near, trials, name):
    for row, published in PUBLISHED[noise].items():
        got = cell(name, CONTEXTS, units(grids(noise)[row], range(trials)))
        assert got == pytest.approx(published[NAMES.index(name)], abs=near), row


@pytest.mark.slow
@pytest.mark.parametrize("noise", [5, 30])
def test_cells_of_the_oracle_with_noise(noise):
    """One order for 30 trials, which knows a little of their noise."""
    for row, published in PUBLISHED[noise].items():
        got = cell("oracle", CONTEXTS, units(grids(noise)[row], range(30)))
        assert got == pytest.approx(published[-1], abs=0.01), row


# Which of the published rows is nd1 and which nd2 follows from these for linear f.
@pytest.mark.slow
@pytest.mark.parametrize("row", [r for r in FIVE if r.startswith("linear")])
def test_random_cells_in_five_dimensions(row):
    grid = grids_5d()[row]
    got = cell("random", grid.contexts, units(grid, [0], of=5))
    assert got == pytest.approx(FIVE[row][0], abs=0.005)


def improved(row, noise, trials):
    published = PUBLISHED[noise][row]
    got = cell("improved", CONTEXTS, units(grids(noise)[row], trials))
    return got, published[0], published[-1]


@pytest.mark.slow
def test_the_improved_selector_on_one_family_with_noise():
    """Where GP-MBTL falls below random, .6961 of .7011 to .7048: a target's slope is no gap's."""
    assert scores.span(*improved("const,linear,L1", 5, [0])) > 0.88


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "least"), [(5, 0.88), (30, 0.40)])
def test_the_improved_selectors_aggregate(noise, least):
    """Published best: .871 at noise 5, .310 at noise 30."""
    assert aggregate(improved(row, noise, range(4)) for row in PUBLISHED[noise]) >= least


@pytest.mark.slow
def test_the_improved_selectors_aggregate_in_five_dimensions():
    """Published best .533."""
    cells = []
    for row, published in FIVE.items():
        grid = grids_5d()[row]
        got = cell("improved", grid.contexts, units(grid, [0], of=5))
        cells.append((got, published[0], published[-1]))
    assert aggregate(cells) >= 0.60


def means(name, k, seeds, **family):
    x = line_contexts()
    curves = []
    for seed in range(seeds):
        u = hill(seed, **family)
        curves.append(scores.curve(u[replay(selector_of(name, x, k=k), u, k)]))
    return torch.stack(curves).mean(0)


def test_the_improved_selector_on_hills():
    """Random .761 and oracle .794 at 15; at 5 equidistant has .744 and the oracle .787."""
    got = means("improved", 15, 5)
    assert got[-1] >= 0.78 and got[4] >= 0.755


def test_regret_of_the_improved_selector_falls():
    rows = []
    for seed in range(4):
        u = hill(seed)
        picked = replay(selector_of("improved", line_contexts(), k=12), u, 12)
        rows.append(scores.regret(u, picked))
    regret = torch.stack(rows).mean(0)
    assert regret[8:].mean() < 0.2 * regret[:4].mean()


@pytest.mark.slow
def test_gates_on_forty_hills():
    """Sheet, gate 6: paper about .706 (by a grid search), improved at least .78."""
    assert means("improved", 15, 40)[-1] >= 0.78
    assert float(means("paper", 15, 40)[-1]) == pytest.approx(0.71, abs=0.02)
    uneven = means("improved", 15, 12, left=0.010, right=0.002)[-1]
    assert uneven > means("spread", 15, 12, left=0.010, right=0.002)[-1] + 0.01


@pytest.mark.slow
def test_own_returns_on_hills():
    """Sheet 2.2: .743 at 5 and .788 at 15, where the released settings have .696 and .706."""
    got = means("own", 15, 8)
    assert float(got[4]) == pytest.approx(0.743, abs=0.01) and got[-1] >= 0.78
