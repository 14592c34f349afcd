"""Panels of a report, from what methods leave behind, by hand."""

import csv
import json

import numpy as np
import pytest
import torch
from reported import put

from reverie.agents.mbtl.matrix import Matrix, MatrixCard
from reverie.buffers import Layout
from reverie.experiments.studies.quality import histograms
from reverie.experiments.studies.report import page
from reverie.experiments.studies.report_data import gather, plain
from reverie.experiments.studies.report_panels import HOW, conflict, forgetting, panels
from reverie.experiments.studies.report_study import Study
from reverie.experiments.studies.report_tables import markdown
from reverie.experiments.studies.results import read_results
from reverie.experiments.studies.shows import Show, told


def write(path, told):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told))


def test_what_is_not_stored_is_left_out_and_named(tmp_path):
    write(tmp_path / "other.json", {"rows": 3})
    write(tmp_path / "list.json", [1, 2])
    (tmp_path / "broken.json").write_text("{")
    found = panels([tmp_path], [])
    assert len(found["missing"]) == len(HOW) == 9
    assert all(not found[k] for k in found if k != "missing")


def test_panels_are_found_by_what_they_hold(tmp_path):
    kept = {"reverie_episodes": 1, "episodes": [{"label": "median", "circuit": {}}], "fan": {}}
    write(tmp_path / "a" / "walk.json", kept)
    write(tmp_path / "run" / "config.json", {})
    write(tmp_path / "run" / "figures" / "selection.json", {"picks": [1], "values": [[None, 2]]})
    write(tmp_path / "run" / "checkpoints" / "1" / "selection.json", {"picks": [], "values": []})
    write(tmp_path / "s" / "arm" / "E-v0-s0.json", {"picks": [], "values": []})  # a run's stamp
    found = panels([tmp_path, tmp_path / "run"], [])
    assert found["selections"] == [{"name": "run", "values": [[None, 2]], "picks": [1]}]
    assert [e["name"] for e in found["episodes"]] == ["a/walk"]
    assert found["fans"] == []  # an empty one is none
    missing = " ".join(found["missing"])
    assert "circuit" not in missing and "playable" not in missing and "dreams of" in missing


def test_a_stored_matrix_is_shown_in_units(tmp_path):
    """Seeds 2 and 4 of a scale from 1 to 5: 3 is a half."""
    values = torch.tensor([[[2.0, 4.0], [1.0, 1.0]], [[5.0, 5.0], [3.0, 3.0]]]).double()
    card = MatrixCard("E", ("gear",), 10, (0, 1), low=1.0, high=5.0)
    Matrix(values, torch.tensor([[1.0], [2.0]]).double(), card).save(tmp_path / "m" / "gear")
    (shown,) = panels([tmp_path], [])["matrices"]
    assert shown["values"] == [[0.5, 0], [1, 0.5]] and shown["about"] == "E, gear, 2 seeds"
    # In the results of a suite its card is named as a stamp is, and the stamp is there too.
    Matrix(values, torch.tensor([[1.0], [2.0]]).double(), card).save(tmp_path / "s" / "matrix-t-s0")
    put(tmp_path / "s", "matrix", 0, {"step": [1], "return": [0.0]}, task="t")
    names = [shown["name"] for shown in panels([tmp_path], [])["matrices"]]
    assert names == ["m/gear", "s/matrix-t-s0"]


def test_samplers_are_means_over_repeats(tmp_path):
    row = {"marginal": 0.9, "correlation": 0.8, "nearest_ratio": 1.0, "dynamics": 0.1,
           "rows_per_second": 10.0, "marginal_real": 0.96, "correlation_real": 0.97,
           "dynamics_real": 0.0}  # fmt: skip
    rows = [{"sampler": "x", "two_sample_auc": a, **row} for a in (0.8, 0.9)]
    write(tmp_path / "Hopper.json", {"task": "Hopper-v5", "rows": rows})
    (shown,) = panels([tmp_path], [])["samplers"]
    assert shown["table"][0]["two_sample_auc"] == pytest.approx(0.85)
    assert shown["real"] == {"marginal": 0.96, "correlation": 0.97, "dynamics": 0.0}


def test_forgetting_is_the_mean_over_finished_seeds(tmp_path):
    for seed, more in enumerate((0.0, 2.0, 50.0)):
        state = "finished" if seed < 2 else "diverged"
        path = put(tmp_path, "a", seed, {"step": [2], "return": [1.0]}, status=state)
        with path.with_suffix(".tasks.csv").open("w", newline="") as file:
            rows = [["step", "return", "task0", "task1"], [1, 0, 5 + more, 0], [2, 0, 3, 4 + more]]
            csv.writer(file).writerows(rows)
    put(tmp_path, "b", 0, {"step": [2], "return": [1.0]})
    shown = forgetting(Study("s", tmp_path, read_results(tmp_path)))
    assert shown == {"name": "s", "arms": {"a": {"values": [[6, 0], [3, 5]], "seeds": 2}}}
    put(tmp_path / "c", "b", 0, {"step": [2], "return": [1.0]})
    assert forgetting(Study("c", tmp_path / "c", read_results(tmp_path / "c"))) is None


def test_histograms_by_hand():
    """Observed 0 to 3 in equal shares, four bins; generated rows lie in the first and beyond."""
    layout = Layout(1, 1)
    real = np.array([[0.0, 0, 0, 9], [1, 0, 1, 9], [2, 0, 2, 9], [3, 0, 3, 9]])
    made = np.array([[-7.0, 0, 0, 9], [99, 0, 0, 9]])
    obs, action, reward = histograms(real, made, layout, bins=4)
    assert [h["name"] for h in (obs, action, reward)] == ["obs 0", "action 0", "reward"]
    assert obs["real"] == [0.25] * 4 and obs["made"] == [0.5, 0, 0, 0.5]
    assert obs["low"] == pytest.approx(0, abs=0.01) and obs["high"] == pytest.approx(3, abs=0.01)
    assert obs["score"] == 0.5 and reward["made"] == [1, 0, 0, 0] and reward["score"] == 0.25
    assert action["real"] == action["made"] == [1, 0, 0, 0] and action["score"] == 1


def test_the_page_has_the_panels(tmp_path):
    put(tmp_path, "a", 0, {"step": [2], "return": [1.0]})
    write(tmp_path / "selection.json", {"picks": [1], "values": [[0.5]]})
    data = gather([tmp_path], tmp_path / "none.toml")
    assert data["panels"]["selections"][0]["picks"] == [1]
    text = page(data, "A")
    assert 'data-panel="selections"' in text and 'data-panel="episodes"' not in text
    assert "playable episodes (`reverie watch" in text


def test_conflict_is_the_mean_over_finished_seeds_of_the_last_row(tmp_path):
    """Rows are tasks whose gradients, columns the tasks at whose policy: 0_1 of .2 and .6 is .4."""
    for seed, upper in enumerate((0.2, 0.6, 9.0)):
        cosines = {"conflict_0_0": [1, 1], "conflict_0_1": [9, upper], "conflict_1_0": [9, -0.5],
                   "conflict_1_1": [9, 1], "conflict": [9, 9]}  # fmt: skip
        rows = {"step": [1, 2], "return": [0.0, 0.0], **cosines}
        put(tmp_path, "a", seed, rows, status="finished" if seed < 2 else "diverged")
    put(tmp_path, "b", 0, {"step": [2], "return": [1.0]})
    study = Study("s", tmp_path, read_results(tmp_path))
    (arm,) = conflict(study)["arms"].items()
    assert arm == ("a", {"values": [[1, pytest.approx(0.4)], [-0.5, 1]], "seeds": 2})
    assert panels([tmp_path], [study])["conflict"][0]["name"] == "s"
    put(tmp_path / "c", "b", 0, {"step": [2], "return": [1.0]})
    assert conflict(Study("c", tmp_path / "c", read_results(tmp_path / "c"))) is None


def test_small_runs_stand_before_all_else(tmp_path):
    put(tmp_path / "tiny", "a", 0, {"step": [2], "return": [1.0]})
    show = Show("M", "one against two", "tiny", "a", "b", "return", "lower", "c")
    row = told(show, {0: 1.0, 1: 2.0}, {0: 3.0, 1: 4.5})  # differences -2 and -2.5
    write(tmp_path / "shows.json", {"reverie_shows": 1, "rows": [row]})
    data = gather([tmp_path], tmp_path / "none.toml")
    assert data["panels"]["shows"] == [plain(row)]
    text = page(data, "A")
    start = text.index('<section id="shows">')
    first = text[start : text.index("</section>", start)]
    assert "One against two. <b>a</b> and <b>b</b>, <code>return</code>, lower is better" in first
    assert "A hint, no more: a ahead in all 2 seeds" in first and 'class="forest"' in first
    assert "1.500 against 3.750: -2.250 (-5.427 to 0.927)" in first  # .25 x 12.706 about it
    assert start < text.index('<section class="study"')
    assert "| M: a | b | return, lower is better | 1.500 against 3.750" in markdown(data, "A")
