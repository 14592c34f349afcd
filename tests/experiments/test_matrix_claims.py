"""Verdicts on stored matrices, and the table of what selectors get on them."""

import json

import pytest
import torch

from reverie.agents.mbtl import Matrix, MatrixCard
from reverie.agents.mbtl.worth import BEST
from reverie.experiments.studies import matrices
from reverie.experiments.studies.claim import MatrixClaim, parse
from reverie.experiments.studies.matrices import Drawn, decide, read_drawn, samples, table

X, Y = {"1": {"x": [[0], [0]], "y": [[1], [1]]}}, "performance"


def claim(**changes):
    own = {"matrices": ("m",), "sources": 1, "better": "x", "than": "y", **changes}
    return MatrixClaim("c", "x beats y", "s", **own)


def drawn(name, feature, of_x, of_y, middle=(0.0, 0.1, 0.2)):
    """Two contexts; source 0 earns `of_x` on both by seed, source 1 `of_y`, the middle's those."""
    source = torch.tensor([of_x, of_y], dtype=torch.float64)  # [source, seed]
    values = source[:, None].repeat(1, 2, 1)
    more = torch.tensor(middle, dtype=torch.float64)[:, None].repeat(1, 2)
    card = MatrixCard("T", (feature,), 60, (0, 1))
    at = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    return Drawn(name, Matrix(values, at, card, more), X)


THREE = [
    drawn("gear-log", "log gear", (0.2, 0.5), (0.0, 0.1)),  # differences .2, .4
    drawn("gear", "gear", (0.3, 0.5), (0.3, 0.3)),  # .0, .2
    drawn("length", "length", (0.5, 0.8), (0.0, 0.1)),  # .5, .7
]


def test_a_verdict_by_hand():
    """Gear counts once: .3 and .1 are .2; with length's .6 the mean is .4.

    Variances of the means .01 each, weights 1/4, 1/4, 1/2: error sqrt(.00375), 2 degrees of
    freedom, t 4.302653: .4 -+ .2635. Over the two of task and feature: .4 -+ 12.7062 x .2.
    """
    parts, units = samples(THREE, "x", "y", 1, "performance")
    assert [weight for _, weight in parts] == [0.25, 0.25, 0.5]
    assert units == {("T", "gear"): pytest.approx(0.2), ("T", "length"): pytest.approx(0.6)}
    told = decide(claim(), THREE)
    assert told.state == "stands" and told.t.difference == pytest.approx(0.4)
    assert told.detail == (
        "difference 0.400 (0.137 to 0.663) of 3 matrices, 2 tasks and features; "
        "over those -2.141 to 2.941, least 0.200"
    )
    assert decide(claim(better="y", than="x"), THREE).state == "refuted"
    assert decide(claim(), THREE[:1]).state == "undecided"  # .3 -+ 12.7 x .1


def test_an_equivalence_is_of_the_narrower_interval():
    """90 %: t 2.919986 by the same error: .4 -+ .1788."""
    told = decide(claim(margin=0.58), THREE)
    assert told.state == "equivalent" and "(0.221 to 0.579)" in told.detail
    assert told.detail.endswith("; 90 % interval, margin 0.58")
    assert decide(claim(margin=0.57), THREE).state == "not shown"


def test_best_of_k_seeds_is_a_sample_of_all_seeds_of_the_middle():
    """Of one source the pseudo-values are the seeds' own: 0, .1, .2 against .2, .5."""
    parts, units = samples(THREE[:1], "x", BEST, 1, "performance")
    assert [v.tolist() for v, _ in parts] == [
        pytest.approx([0.2, 0.5]), pytest.approx([0.0, 0.1, 0.2])
    ]  # fmt: skip
    assert [weight for _, weight in parts] == [1, -1] and units["T", "gear"] == pytest.approx(0.25)


def test_what_a_claim_of_matrices_says_is_checked():
    text = '[c]\nsays = "x beats y"\nsuite = "s"\nmatrices = ["m"]\nsources = 1\nbetter = "x"\n'
    assert parse(text + 'than = "y"\n') == {"c": claim()}
    for wrong, told in (
        ("", "claim c lacks than"),
        ('than = "x"\n', "better and than are both 'x'"),
        ('than = "y"\nsteps = 3\n', "key of claim c"),
        ('than = "y"\nmetric = "return"\n', "metric"),
        ('than = "y"\nmargin = 0.0\n', "more than 0"),
    ):
        with pytest.raises(ValueError, match=told):
            parse(text + wrong)
    for wrong, told in (
        (("sources = 1", "sources = 0"), "expected 1 or more"),
        (('["m"]', '["m", "m"]'), "names none, or one twice"),
        (('["m"]', "[]"), "names none, or one twice"),
    ):
        with pytest.raises(ValueError, match=told):
            parse(text.replace(*wrong) + 'than = "y"\n')


def test_the_table_of_stored_matrices(tmp_path, capsys):
    one = THREE[0]
    one.matrix.save(tmp_path / "gear-log")
    report = tmp_path / "gear-log.report.json"
    report.write_text(json.dumps({"picks": {"1": {"improved": [[0], [0]], "spread": [[1], [0]]}}}))
    kept = read_drawn(tmp_path, "gear-log")
    lines = table([kept], 1).splitlines()
    cells = dict(zip(lines[0].split(" | ")[1:], lines[2].split(" | ")[1:], strict=True))
    # Over seeds: (.2 + .5) / 2; (0 + .5) / 2; random (.1 + .3) / 2; the middle's (0 + .1 + .2) / 3.
    assert (cells["improved"], cells["spread"], cells["random"]) == ("0.350", "0.250", "0.200")
    assert cells[BEST] == "0.100" and cells["equidistant"] == "-" and cells["oracle |"] == "0.350 |"
    report.write_text("{}")
    with pytest.raises(ValueError, match="holds no picks: KeyError 'picks'"):
        read_drawn(tmp_path, "gear-log")
    with pytest.raises(FileNotFoundError, match="no matrix in it"):
        matrices.main([str(tmp_path / "none")])


def rival(folder, arm, seed, returns, end=300, **changes):
    """A kept run over gear .5 and 2, whose last evaluation said `returns`: the mean, the worst."""
    config = {"env": "T", "steps": 300, "context": ["gear=log:0.5:2:2"], **changes}
    stamp = {"status": "finished", "started": "2026-11-01", "config": config, "revision": "r"}
    (folder / arm).mkdir(parents=True, exist_ok=True)
    file = folder / arm / f"gear-s{seed}.csv"
    file.write_text(f"step,return,worst_decile\n100,99,99\n{end},{returns[0]},{returns[1]}\n")
    file.with_suffix(".json").write_text(json.dumps(stamp))


def test_rivals_stand_in_the_units_of_their_matrix(tmp_path, capsys):
    """5 sources of 60 steps are 300. 14 and 18 of 10 to 30 are .2 and .4; the worst .1 and .2."""
    card = MatrixCard("T", ("log gear",), 60, (0, 1), 10.0, 30.0)
    at = torch.tensor([[0.5], [2.0]]).double().log()
    matrix = Matrix(torch.zeros(2, 2, 2).double(), at, card, torch.zeros(6, 2).double())
    matrix.save(tmp_path / "matrix-gear-s0")
    report = {"picks": {k: {} for k in "2358"}}
    (tmp_path / "matrix-gear-s0.report.json").write_text(json.dumps(report))
    folder = tmp_path / "curricula"
    rival(folder, "plr", 0, (14, 12))
    rival(folder, "plr", 1, (18, 14))
    rival(folder, "sfl", 0, (20, 15))
    kept = matrices.read_results(folder)
    drawn = [read_drawn(tmp_path, "matrix-gear-s0"), THREE[0]]  # of the other there is no rival
    lines = matrices.rivals(drawn, kept, 5).splitlines()
    assert lines[0] == "| matrix | plr | sfl | seeds |"
    assert lines[2:] == ["| matrix-gear-s0 | 0.300 / 0.150 | 0.500 / 0.250 | 1, 2 |"]
    for changes in ({"end": 360}, {"env": "U"}, {"context": ["gear=lin:0.5:2:2"]},
                    {"context": ["gear=log:0.5:3:2"]}):  # fmt: skip
        rival(folder, "plr", 1, (18, 14), **changes)
        with pytest.raises(ValueError, match=r"plr/gear-s1\.csv is not 5 x 60 steps on all of"):
            matrices.rivals(drawn, matrices.read_results(folder), 5)
