"""The published tables of SD-MBTL on synthetic matrices, and the selectors' gates on them.

Columns: random, GP-MBTL, M-MBTL, M/GP-MBTL, myopic oracle; 50 sources.
"""

import json

import pytest
import torch

from reverie.agents.mbtl import replay, scores, selector_of
from reverie.agents.mbtl.study import aggregate, cell, mountain_order, units
from reverie.agents.mbtl.synthetic import Grid, grids, grids_5d, hill, line_contexts
from reverie.experiments.studies import cells

NAMES = ("random", "gp", "mountain", "switch", "oracle")
PUBLISHED: dict[int, dict[str, tuple[float, ...]]] = {0: {}, 5: {}, 30: {}}
FIVE: dict[str, tuple[float, ...]] = {}
for line in cells.published():
    table = FIVE if line["family"] == "5d" else PUBLISHED[int(line["noise"])]
    table[line["row"].replace("-", ",")] = tuple(float(line[name]) for name in NAMES)
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


# Which of the published rows is nd1 and which nd2 follows from these: the tables do not say.
@pytest.mark.slow
@pytest.mark.parametrize("row", FIVE)
def test_random_and_oracle_cells_in_five_dimensions(row):
    """The published random is one draw for each of five trials, ours of one trial is exact.

    Of each pair of names the oracles lie .0021 apart at least.
    """
    grid = grids_5d()[row]
    matrices = units(grid, range(5), of=5)
    assert cell("random", grid.contexts, matrices[:1]) == pytest.approx(FIVE[row][0], abs=0.006)
    assert cell("oracle", grid.contexts, matrices) == pytest.approx(FIVE[row][-1], abs=0.0005)


@pytest.mark.slow
@pytest.mark.parametrize("row", FIVE)
def test_cells_of_the_papers_process_in_five_dimensions(row):
    grid = grids_5d()[row]
    got = cell("gp", grid.contexts, units(grid, [0], of=5))
    assert got == pytest.approx(FIVE[row][1], abs=0.005)


def test_the_study_keeps_its_cells_and_says_their_places(tmp_path, capsys, monkeypatch):
    """Without noise oracle .7250 and random .7028: the published .7055 is .1216 of the way."""
    first = cells.published()[:1]
    monkeypatch.setattr(cells, "published", lambda: first)
    argv = ["--families", "3d-0", "--selectors", "random", "oracle", "mountain"]
    assert cells.main([*argv, "--out", str(tmp_path)]) == 0
    told, places = capsys.readouterr().out, json.loads((tmp_path / "cells.json").read_text())
    assert "3d 0 const-linear-nd random 1 0.7028 0.7028" in told
    assert places["published"] == {"3d-0 mountain": pytest.approx(27 / 222, abs=1e-4)}
    lines = (tmp_path / "cells.csv").read_text()
    other = "5d,5,const-none-L1,random,5,0.1234,0.7374\n"  # of another table, and with another
    (tmp_path / "cells.csv").write_text(lines.replace("0.7250\n", "0.9\n") + other)  # reference
    kept = (tmp_path / "cells.csv").read_bytes().replace(b"0.9\n", b"0.7250\n")
    own = float(kept.decode().split("mountain,1,")[1][:6])
    assert places["places"] == {"3d-0 mountain": pytest.approx((own - 0.7028) / 0.0222, abs=1e-4)}
    assert cells.main([*argv, "--out", str(tmp_path)]) == 0
    assert "const-linear-nd" not in capsys.readouterr().out  # nothing is played twice
    assert (tmp_path / "cells.csv").read_bytes() == kept


def test_a_family_is_scaled_over_as_many_trials_as_its_table(monkeypatch):
    asked = []
    monkeypatch.setattr(cells, "units", lambda grid, trials, of: asked.append((list(trials), of)))
    assert cells.matrices.__wrapped__("5d", "5", "const-none-L1", 2)[0].shape == (5**5, 5)
    assert cells.matrices.__wrapped__("3d", "30", "const-none-L1", 1)[0].shape == (512, 3)
    assert asked == [([0, 1], 5), ([0], 100)]


def test_places_by_hand():
    """.3 of .2 to .4 is half the way, .8 of .6 to .8 all: the mean is .75."""
    rows = [("a", "random", 0.2), ("a", "gp", 0.3), ("a", "oracle", 0.4), ("b", "random", 0.6),
            ("b", "gp", 0.8), ("b", "oracle", 0.8)]  # fmt: skip
    keys = ("row", "selector", "score")
    lines = [dict(zip(keys, map(str, r), strict=True), family="3d", noise="5") for r in rows]
    assert cells.places(lines, "score") == {"3d-5 gp": 0.75}


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
    got = []
    for row, published in FIVE.items():
        grid = grids_5d()[row]
        score = cell("improved", grid.contexts, units(grid, [0], of=5))
        got.append((score, published[0], published[-1]))
    assert aggregate(got) >= 0.60


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
