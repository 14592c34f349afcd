"""Selectors: what they may read, what they pick, what they remember."""

import time

import pytest
import torch

from reverie.agents.mbtl import RULES, Locked, Seen, geometry, replay, scores, selector_of
from reverie.agents.mbtl.additive import fit_additive
from reverie.agents.mbtl.gaps import Pairs, fit_sides, improvement
from reverie.agents.mbtl.geometry import mountain
from reverie.agents.mbtl.improved import Improved, expected_gain, scaled
from reverie.agents.mbtl.own import OwnReturns
from reverie.agents.mbtl.published import LearnedSlopes, PaperGP, Switch, constant, falls_both_ways
from reverie.agents.mbtl.rules import Places, SequentialOracle, WorstServed, equidistant
from reverie.agents.mbtl.selector import Selector
from reverie.agents.mbtl.synthetic import flat, hill, line_contexts

X = line_contexts(12)
U = hill(3, 12)


def picks(rule, values, k, contexts=None):
    return replay(
        Selector(line_contexts(len(values)) if contexts is None else contexts, rule), values, k
    )


def test_a_row_that_is_not_trained_cannot_be_read():
    locked = Locked(U)
    with pytest.raises(LookupError, match="context 3 is not trained"):
        locked[3]
    assert torch.equal(locked.train(3), U[3]) and torch.equal(locked[3], U[3])


@pytest.mark.parametrize("name", RULES)
def test_every_selector_picks_each_context_once_and_only_gains(name):
    order = replay(selector_of(name, X, k=12), U, 12)
    assert sorted(order) == list(range(12))
    gained = scores.curve(U[order])
    assert bool((gained.diff() >= 0).all()) and gained[-1] == pytest.approx(scores.oracle(U))


@pytest.mark.parametrize("name", RULES)
def test_a_selector_goes_on_from_its_state(name):
    whole = selector_of(name, X, k=7, seed=5)
    order = list(replay(whole, U, 7))
    first = selector_of(name, X, k=7, seed=5)
    replay(first, U, 4)
    asked = first.ask()
    state = first.state_dict()
    first.ask(2)  # what is asked of it later is not in its state
    second = selector_of(name, X, k=7, seed=8)
    second.load_state_dict(state)
    assert second.pending == asked == order[4:5]
    second.tell(asked[0], U[asked[0]])
    assert replay(second, U, 7) == order
    assert torch.equal(second.rows, whole.rows)


@pytest.mark.parametrize("name", RULES)
def test_a_batch_is_of_different_contexts_and_rows_come_in_any_order(name):
    s = selector_of(name, X, k=9)
    first = s.ask(3)
    assert len(set(first)) == 3 and s.pending == first
    for i in reversed(first):
        s.tell(i, U[i])
    assert s.pending == []
    more = s.ask(3)
    assert len({*first, *more}) == 6 and s.picks == first[::-1]


def test_what_a_selector_refuses():
    s = selector_of("improved", X, k=3)
    with pytest.raises(ValueError, match="asked for 13 contexts of the 12"):
        s.ask(13)
    s.tell(4, U[4])  # trained elsewhere, never asked for
    with pytest.raises(ValueError, match="context 4 is told already"):
        s.tell(4, U[4])
    with pytest.raises(ValueError, match="finite return for each of 12"):
        s.tell(5, U[5] * torch.inf)
    with pytest.raises(ValueError, match="finite return for each of 12"):
        s.tell(5, U[5, :3])
    with pytest.raises(ValueError, match="no selector 'best'"):
        selector_of("best", X, k=3)
    with pytest.raises(ValueError, match="must be finite rows"):
        selector_of("improved", X * torch.nan, k=3)
    with pytest.raises(ValueError, match="are not 1 rows of 5 contexts"):
        selector_of("improved", X[:5], k=3).load_state_dict(s.state_dict())
    with pytest.raises(ValueError, match="one dimension, got 2"):
        selector_of("equidistant", torch.rand(5, 2), k=2).ask()


def test_orders_that_look_at_no_row():
    order = line_contexts(100)
    assert picks(equidistant(5), flat(), 5) == [10, 30, 49, 69, 89]
    assert picks(equidistant(2), flat(9), 3) == [2, 6, 0]  # a third as a spread takes it
    assert replay(selector_of("pseudo-greedy", order, k=4), flat(), 4) == [49, 82, 16, 32]
    turned = order.flip(0)  # the same line, told from its end: 50 is the lower middle
    assert replay(selector_of("pseudo-greedy", turned, k=2), flat(), 2) == [50, 17]
    assert picks(Places(mountain), flat(9), 3) == [4, 1, 7]
    a, b = (replay(selector_of("random", X, k=6, seed=s), U, 6) for s in (0, 1))
    assert a != b and a == replay(selector_of("random", X, k=6, seed=0), U, 6)


def test_the_worst_served_and_the_oracle_by_hand():
    u = torch.tensor([[4.0, 1.0, 0.0], [2.0, 5.0, 2.0], [0.0, 0.0, 6.0]]).double()
    assert picks(WorstServed(), u, 3) == [1, 0, 2]  # both are served 2: the first of equals
    assert picks(SequentialOracle(u), u, 3) == [1, 2, 0]


def test_slopes_of_both_sides_are_found_exactly():
    """Rows of b + 2 min(x - x', 0) - 3 max(x - x', 0)."""
    way = X - X.T
    rows = 7 + 2 * way.clamp(max=0) - 3 * way.clamp(min=0)
    assert fit_sides(X, [2, 9], rows[[2, 9]]).tolist() == pytest.approx([2, -3])
    pairs = Pairs(X, torch.tensor([2.0, -3.0]).double())
    assert torch.allclose(pairs.rows(torch.arange(12)), rows - 7)


def test_improvement_by_hand():
    """Value 2 falls 1 a step: on 0 1 2 from 0 it is 2 1 0, above .5 by 1.5 + .5 + 0."""
    x, slopes = line_contexts(3), torch.tensor([1.0, -1.0]).double()
    got = improvement(x, torch.full((3,), 2.0).double(), slopes, torch.full((3,), 0.5).double())
    assert got.tolist() == pytest.approx([2 / 3, 2.5 / 3, 2 / 3])


def test_the_paper_preset_is_what_scikit_learn_makes_of_the_released_code():
    """On a flat matrix, where the length scale of one value is left where the search begins."""
    order = picks(PaperGP(), flat(), 6)
    assert order == [49, 50, 6, 81, 40, 82]
    got = scores.curve(flat()[order]).tolist()
    assert got == pytest.approx([0.775, 0.7775, 0.8146, 0.8553, 0.8629, 0.8638], abs=1e-4)


def test_the_paper_presets_targets_are_the_best_so_far():
    """The second source has .2 at home, where the first had .8."""
    rows = torch.stack([torch.full((12,), 0.8), torch.full((12,), 0.2)]).double()
    mean, _ = PaperGP().process(Seen(X, [2, 9], rows))
    assert mean[[2, 9]].tolist() == pytest.approx([0.8, 0.8], abs=0.05)


def test_the_paper_preset_falls_back_to_the_worst_served():
    """Returns far below 0 leave nothing to gain by the clipped values."""
    seen = Seen(X, [5], torch.full((1, 12), 5.0).double())
    low = seen.rows.clone()
    low[0, 8] = 4.9
    assert PaperGP(slope=10.0).choose(seen._replace(rows=low * 100)) == 8


def test_the_switch_by_hand():
    way = (X - X.T).abs()
    mountain_like = 10 - way
    assert constant(mountain_like[[1, 5, 9]], [1, 5, 9])
    assert falls_both_ways(X, [1, 5, 9], mountain_like[[1, 5, 9]])
    sloped = 5 * X - way  # the source is worth 5 a step: own returns vary more than rows
    assert not constant(sloped[[1, 5, 9]], [1, 5, 9])
    one_way = (X - X.T).clamp(max=0) + (X - X.T).clamp(min=0)
    assert not falls_both_ways(X, [1, 5, 9], one_way[[1, 5, 9]])
    rule = Switch()
    picks(rule, sloped, 9)
    assert rule.gp_rounds == 3  # of rounds 7 to 9
    rule = Switch()
    picks(rule, mountain_like, 9)
    assert rule.gp_rounds == 0


def test_the_parts_of_rows_are_found_exactly():
    """Worth 3 x_s, target 2 a step, way -1 a step, target 4 worth .5 more in every row."""
    column = torch.zeros(12).double()
    column[4] = 0.5
    u = 3 * X + 2 * X.T - (X - X.T).abs() + column
    parts = fit_additive(X, [2, 5, 9], u[[2, 5, 9]])
    assert parts.way.item() == pytest.approx(-1, abs=0.05)
    assert parts.target.item() == pytest.approx(2, abs=0.05)
    assert parts.source.diff().tolist() == pytest.approx([9, 12], rel=0.03)
    assert parts.noise < 1e-3
    assert parts.column[4] - parts.column[7] == pytest.approx(0.5, abs=0.02)
    got = parts.row(X, 5, float(parts.source[1]))
    assert torch.allclose(got, u[5], atol=0.05)


def test_the_expected_gain_by_hand():
    """Sure of it, max(z, 0); of mean 0 and deviation s, s / sqrt(2 pi)."""
    x = scaled(line_contexts(2))
    assert x.flatten().tolist() == [-0.5, 0.5]
    parts = fit_additive(x, [0], torch.zeros(1, 2).double())
    worth = Improved().worth(Seen(line_contexts(2), [0], torch.zeros(1, 2).double()))
    sure = worth._replace(
        parts=parts, mean=torch.tensor([1.0, -1]).double(), sd=torch.zeros(2).double()
    )
    best = torch.tensor([0.0, 3.0]).double()
    assert expected_gain(x, sure, best).tolist() == pytest.approx([0.5, 0], abs=1e-6)
    unsure = sure._replace(mean=torch.zeros(2).double(), sd=torch.full((2,), 3.0).double())
    want = 3 / (2 * torch.pi) ** 0.5
    assert expected_gain(x, unsure, torch.zeros(2).double()).tolist() == pytest.approx([want] * 2)
    noisy = unsure._replace(parts=parts._replace(noise=16.0))  # 9 + 16: a deviation of 5
    got = expected_gain(x, noisy, torch.zeros(2).double())
    assert got.tolist() == pytest.approx([want * 5 / 3] * 2)


def test_what_is_believed_of_a_source_that_is_not_trained():
    seen = Seen(X, [2, 5, 9], (3 * X + 2 * X.T - (X - X.T).abs())[[2, 5, 9]])
    want = 3 * X[7] + 2 * X[:, 0] - (X[7] - X[:, 0]).abs()
    assert torch.allclose(Improved().believe(seen, 7), want, atol=1.5)
    rule = LearnedSlopes()
    before = rule.state_dict()
    row = rule.believe(seen, 7)
    assert rule.state_dict() == before and row.shape == (12,)
    paper = PaperGP(slope=0.5).believe(seen, 7)
    assert (paper[7] - paper[3]).item() == pytest.approx(2)
    assert torch.equal(WorstServed().believe(seen, 7), seen.rows.amax(0))


def test_the_first_three_of_the_improved_selector_look_at_no_row():
    """A target that cannot be learnt draws the worst served, and not this one."""
    u = flat(9)
    u[:, 0] = 0
    assert picks(WorstServed(), u, 3) == [4, 0, 8]
    assert picks(Improved(), u, 3) == [4, 1, 7]
    for rule in (Improved(), PaperGP(), LearnedSlopes(), OwnReturns()):
        s = Selector(line_contexts(9), rule)
        replay(s, u, 4)
        look = rule.look(s.seen)
        assert {tuple(t.shape) for t in look} == {(9,)} and bool((look.sd >= 0).all())
    assert WorstServed().look(s.seen) is None


def test_a_pick_takes_under_a_second_at_4096_contexts():
    """Of processor time, so that what else runs does not count; twice that is a failure."""
    x = torch.cartesian_prod(*[torch.arange(16.0)] * 3).double()
    s = selector_of("improved", x, k=5)
    draw = torch.Generator().manual_seed(0)
    for _ in range(4):
        begun = time.process_time()
        i = s.ask()[0]
        took = time.process_time() - begun
        way = (x - x[i]).abs().sum(1)
        s.tell(i, 500 + x.sum(1) - way + torch.randn(4096, generator=draw))
    assert took < 2


def refined_alone(x, near):
    """K-means of every start to its own end, nothing shared: centres and what they leave."""
    centres, mine = x.clone(), torch.cdist(x, x, p=1) <= near
    for _ in range(300):
        count = mine.sum(1, keepdim=True)
        moved = torch.where(count > 0, mine.to(x) @ x / count.clamp(min=1), centres)
        moves = (moved - centres).abs().amax(1, keepdim=True) >= 1e-6
        if not bool(moves.any()):
            break
        centres = torch.where(moves, moved, centres)
        distance = torch.cdist(centres, x, p=1)
        mine = torch.where(moves, (distance < near) | (mine & (distance <= near)), mine)
    return centres, torch.cdist(centres, x, p=1).minimum(near).sum(1)


def test_starts_that_come_to_one_cluster_are_followed_once_and_no_pick_is_another():
    """300 contexts are two lots of starts; whoever comes second to a cluster is dropped."""
    x = torch.rand(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    taken = [geometry.middle(x)]
    for _ in range(2):
        near = torch.cdist(x, x[taken], p=1).amin(1)
        centres, left = refined_alone(x, near)
        gone = geometry.Gone(x)
        lots = torch.split(x, 256)
        kept = [geometry._refined(x, own.clone(), near, 300, gone)[1] for own in lots]
        assert sum(map(len, kept)) < 150 and len(kept[1]) < len(lots[1])
        assert float(torch.cat(kept).min()) == pytest.approx(float(left.min()), abs=1e-9)
        best = centres[left < left.min() + 1e-9][0]
        free = torch.zeros(300, dtype=torch.bool)
        free[taken] = True
        taken.append(geometry.nearest(x, best, free))
        assert geometry.mountain(x, taken[:-1]) == taken[-1]
