"""First guesses: short trainings that say which contexts are trained to the end."""

import dataclasses

import pytest
import torch

from reverie.agents.mbtl import Matrix, MatrixCard, load_matrix
from reverie.agents.mbtl.guesses import guessed, share_of, shared_out
from reverie.agents.mbtl.synthetic import line_contexts
from reverie.agents.mbtl.worth import sample

X = line_contexts(5)


def matrix():
    """Of five contexts 2, 0 and 3 are tried, a short training being .4 of a whole one."""
    short = torch.zeros(5, 5, dtype=torch.float64)
    short[2], short[0, :2], short[3, 3:] = 0.1, 0.2, 0.4
    short[1] = 9.0  # not tried: nobody may look
    values = torch.full((5, 5), 0.3, dtype=torch.float64)
    values[3] = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])
    card = MatrixCard("T", ("place",), 100, (0,), short=40)
    return Matrix(values[..., None], X, card, torch.stack([values[2]] * 3), short=short[..., None])


def test_a_budget_is_shared_out_by_hand():
    """Of 5, 4 whole ones of which .2 is made: 5 - 3.2 tries 9; of .25: 5 - 3 tries 8; 3: 13."""
    assert [shared_out(5, w, 0.2) for w in (4, 3, 2)] == [9, 13, 17]
    assert shared_out(5, 4, 0.25) == 8 and shared_out(5, 4, 4000 / 18_000) == 8  # 8.5
    with pytest.raises(ValueError, match="5 could be tried, of which nothing is chosen"):
        shared_out(5, 5, 0.2)


def test_guesses_by_hand():
    """Spread are 2, 0 and 3. 0 is best alone; then 2 adds nothing, and 3 does on one context."""
    short = torch.zeros(5, 5, dtype=torch.float64)
    short[2], short[0], short[3, 4], short[1] = 0.5, 0.6, 1.0, 9.0
    got = guessed(X, short, 3, 2)
    assert got == ([2, 0, 3], [0, 3])
    rows = got.rows(torch.eye(5).double(), short)
    assert torch.equal(rows, torch.cat([torch.eye(5).double()[[0, 3]], short[[2, 0, 3]]]))
    assert len(guessed(X, short, 9, 2).short) == 5  # there are no more


def test_what_first_guesses_are_worth():
    """Two whole trainings buy one, .6 of it after its guess, and three tries. 3 promises .16.

    Whole it has [0, 0, 0, 0, 1]; with the short rows the library serves .2, .2, .1, .4 and 1.
    """
    m = matrix()
    assert share_of(m) == 0.4 and shared_out(2, 1, 0.4) == 3
    got = sample(m, "guesses-1", 2, {}, "performance")
    assert got.tolist() == [pytest.approx(0.38)]
    assert sample(m, "guesses-1", 2, {}, "worst_decile").tolist() == [pytest.approx(0.1)]
    with pytest.raises(ValueError, match="keeps no halves"):
        sample(m, "guesses-1", 2, {}, "held_out")
    with pytest.raises(ValueError, match="keeps no rows of short trainings"):
        share_of(dataclasses.replace(m, short=None))


def test_first_guesses_where_one_half_of_the_episodes_serves_and_the_other_scores():
    """The whole 3 earns 1 and .8 on the last context, its guess .4: both halves serve it there.

    Scored are .2, .2, .1, .4 and .8, and with 1 the other way round: .34 and .38.
    """
    m = matrix()
    other = m.values.clone()
    other[3, 4] = 0.8
    halves, shorts = torch.stack([m.values, other]), torch.stack([m.short] * 2)
    m = dataclasses.replace(m, halves=halves, short_halves=shorts)
    assert sample(m, "guesses-1", 2, {}, "held_out").tolist() == [pytest.approx(0.36)]
    shorts[1, 3, 4] = 0.9  # one half serves by the guess now, which earns .4 in the other
    m = dataclasses.replace(m, short_halves=shorts)
    assert sample(m, "guesses-1", 2, {}, "held_out").tolist() == [pytest.approx((0.34 + 0.26) / 2)]


def test_a_source_may_serve_as_it_was_early_too():
    """3 whole has [0, 0, 0, 0, 1], and had [0, 0, 0, .4, .4]: (.4 + 1) / 5; by halves the same."""
    m, picks = matrix(), {"improved": [[3]]}
    assert sample(m, "improved", 1, picks, "performance").tolist() == [pytest.approx(0.2)]
    got = sample(m, "improved and early", 1, picks, "performance")
    assert got.tolist() == [pytest.approx(0.28)]
    halves = [torch.stack([x] * 2) for x in (m.values, m.short)]
    m = dataclasses.replace(m, halves=halves[0], short_halves=halves[1])
    got = sample(m, "improved and early", 1, picks, "held_out")
    assert got.tolist() == [pytest.approx(0.28)]


def test_short_rows_come_back(tmp_path):
    m = matrix()
    m.save(tmp_path / "m")
    again = load_matrix(tmp_path / "m")
    assert torch.equal(again.short, m.short) and again.card.short == 40
    with pytest.raises(ValueError, match=r"short is \[5, 5, 1\] of this matrix"):
        dataclasses.replace(m, short=m.short[:4])
