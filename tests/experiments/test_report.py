"""A report's numbers, worked out by hand, and that its page has them."""

import json
import re
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reported import claimed, put

from reverie.experiments import cli, load_run, sac
from reverie.experiments.runs.config import RunOptions
from reverie.experiments.runs.run import Run
from reverie.experiments.studies import report_data, stats
from reverie.experiments.studies import report_published as others
from reverie.experiments.studies.claim import MatrixClaim, Verdict
from reverie.experiments.studies.report import page
from reverie.experiments.studies.report_cost import cost, cost_of
from reverie.experiments.studies.report_data import embedded, find, gather, plain
from reverie.experiments.studies.report_study import (
    Study,
    comparisons,
    curve,
    finals,
    scores,
    study_data,
    summary,
)
from reverie.experiments.studies.results import read_result, read_results

T2 = 12.7062047  # Student's t at 0.975 with 1 degree of freedom


def kept(folder, *args, **more):
    return read_result(put(folder, *args, **more))


def test_what_is_looked_at_are_results_folders_of_such_and_runs(tmp_path):
    put(tmp_path / "all" / "one", "a", 0, {"step": [1], "return": [1.0]})
    put(tmp_path / "all" / "two" / "deep", "a", 3, {"step": [1], "return": [1.0]})
    assert [s.name for s in find([tmp_path / "all"])] == ["one", "two/deep"]
    assert [s.name for s in find([tmp_path / "all" / "one"])] == ["one"]
    assert find([tmp_path / "all"])[1].runs[0].path.name == "E-v0-s3.csv"
    with pytest.raises(ValueError, match="no results"):
        find([tmp_path / "all" / "one" / "a"])
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find([tmp_path / "none"])


def test_runs_that_differ_in_the_seed_only_are_an_arm(tmp_path):
    paths = []
    for seed, tau, value in ((0, 0.1, 1.0), (1, 0.1, 3.0), (0, 0.2, 7.0)):
        options = RunOptions(out=str(tmp_path), tensorboard=False, progress=False)
        settings = sac.Config(env="reverie/E-v0", steps=20, seed=seed, run=options)
        settings = replace(settings, agent=replace(settings.agent, tau=tau))
        with Run("sac", settings, label=f"{tau}-{seed}", steps=20, seed=seed) as run:
            with run.restored():
                pass
            run.tick(20)
            run.log({"return": value}, kind="eval")
        paths.append(run.path)
    (study,) = find(paths)
    assert (study.name, study.tasks) == ("runs", ["E-v0"])
    assert study.arms == ["sac tau=0.1", "sac tau=0.2"]
    assert finals(study.cell("E-v0", "sac tau=0.1"), "return") == {0: 1, 1: 3}
    data = gather(paths, tmp_path / "none.toml")
    assert data["studies"][0]["tables"]["return"][1]["mean"] == [7]
    made = shlex.join(load_run(paths[0]).stamp["command"])
    assert data["studies"][0]["stamps"]["commands"] == [made]


def test_a_curve_is_the_mean_at_the_steps_of_all_seeds_with_its_t_interval(tmp_path):
    """At 10: 1 and 3, mean 2, interval 12.7 x sqrt 2 / sqrt 2 = 12.7 to each side; 15 is one's."""
    runs = [
        kept(tmp_path, "a", 0, {"step": [10, 15, 20], "return": [1.0, 5.0, 4.0]}),
        kept(tmp_path, "a", 1, {"step": [10, 20], "return": [3.0, 4.0]}),
        kept(tmp_path, "a", 2, {"step": [10], "return": [99.0]}, status="diverged"),
    ]
    c = curve(runs, "return")
    assert (c["step"], c["mean"]) == ([10, 20], [2, 4])
    assert c["low"] == pytest.approx([2 - T2, 4]) and c["high"] == pytest.approx([2 + T2, 4])
    assert c["seeds"] == {"0": [[10, 15, 20], [1, 5, 4]], "1": [[10, 20], [3, 4]]}
    assert curve(runs[:1], "return")["low"] == []
    assert curve(runs, "none") == {"seeds": {}, "step": [], "mean": [], "low": [], "high": []}


def test_final_values_are_of_the_last_evaluation_that_the_arm_has(tmp_path):
    """1 ends early, 2 lacks the metric at its end, 3 diverged: one is left, beside two lost."""
    runs = [
        kept(tmp_path, "a", 0, {"step": [10, 20], "x": [9.0, 4.0]}),
        kept(tmp_path, "a", 1, {"step": [10], "x": [5.0]}),
        kept(tmp_path, "a", 2, {"step": [10, 20], "x": [5.0, np.nan]}),
        kept(tmp_path, "a", 3, {"step": [10, 20], "x": [5.0, 6.0]}, status="diverged"),
    ]
    assert finals(runs, "x") == {0: 4.0}
    s = summary(runs, "x")
    assert s["states"] == {"diverged": 1, "without the last evaluation": 2}
    assert (s["mean"], s["iqm"], s["iqm_interval"], s["best"]) == ([4], None, None, 9)
    assert summary(runs, "x", "lower")["best"] == 4


def test_a_summary_of_five_seeds(tmp_path):
    """1, 2, 3, 4, 10: mean 4, deviation 3.5355, t 2.7764; a fifth of five is cut from each end."""
    rows = enumerate((1.0, 2.0, 3.0, 4.0, 10.0))
    runs = [kept(tmp_path, "a", s, {"step": [1], "return": [v]}) for s, v in rows]
    s = summary(runs, "return")
    reach = 2.7764451 * 12.5**0.5 / 5**0.5
    assert s["mean"] == pytest.approx([4, 4 - reach, 4 + reach]) and s["iqm"] == 3
    assert s["iqm_interval"] == list(stats.bootstrap([1.0, 2, 3, 4, 10])[1:])
    assert summary(runs[:4], "return")["iqm_interval"] is None


def a_study(folder, tasks):
    """Arms a and b with these values by seed for each task."""
    for task, (a, b) in tasks.items():
        for arm, values in (("a", a), ("b", b)):
            for seed, value in enumerate(values):
                put(folder, arm, seed, {"step": [1], "return": [value]}, task=task)
    return Study("s", folder, read_results(folder))


def test_scores_of_several_tasks_lie_on_each_tasks_range(tmp_path):
    """E from 0 to 10, F from -4 to 0; a has two seeds on F, so two count."""
    study = a_study(tmp_path, {"E": ((0.0, 10.0, 7.0), (5.0, 5.0)), "F": ((0.0, -1.0), (-4, -2))})
    x = scores(study, "return", "higher")
    assert x["a"].tolist() == [[0, 1], [1, 0.75]] and x["b"].tolist() == [[0.5, 0], [0.5, 0.5]]
    assert scores(study, "return", "lower")["a"].tolist() == [[1, 0], [0, 0.25]]


def test_comparisons_of_arms(tmp_path):
    """a has 1 and 3, b 2 and 2: each wins half of the pairs; above 2 is one of a's, none of b's."""
    study = a_study(tmp_path, {"E": ((1.0, 3.0), (2.0, 2.0))})
    c = comparisons(scores(study, "return", "higher"))
    assert c["taus"][0] == 1 and c["taus"][30] == 2 and c["taus"][-1] == 3
    assert [c["profiles"][arm]["mean"][30] for arm in "ab"] == [0.5, 0]
    assert c["profiles"]["a"]["low"] == []
    assert c["improvement"]["a"]["b"] == [0.5, 0, 1] and c["improvement"]["b"]["a"] == [0.5, 0, 1]
    study = a_study(tmp_path, {"E": ((3.0, 4.0), (2.0, 2.0))})
    c = comparisons(scores(study, "return", "higher"))
    assert c["improvement"] == {"a": {"b": [1, 1, 1]}, "b": {"a": [0, 0, 0]}}
    assert comparisons({"a": np.ones((2, 1))}) == {}


COSTS = [
    ("sac", {"learning_starts": 5, "utd": 2.0}, 20, {"env_steps": 20, "updates": 30}),
    ("peer", {"learning_starts": 5}, 20, {"env_steps": 20, "updates": 15}),
    ("synther", {"learner": "sac", "refit_every": 6, "rows": "diffusion", "synthetic": 100,
                 "learning_starts": 5, "utd": 20.0}, 20,
     {"env_steps": 20, "updates": 300, "synthetic": 300}),
    ("synther", {"learner": "iql", "refit_every": 6, "rows": "noise", "synthetic": 100}, 20,
     {"env_steps": 0, "updates": 20, "synthetic": 100}),
    ("oer", {}, 20, {"env_steps": 0, "updates": 20}),
    ("ncap", {"search": "cma"}, 20, {"env_steps": 20, "updates": 0}),
    ("ncap", {"search": "td3", "learning_starts": 5, "utd": 2.0}, 20,
     {"env_steps": 20, "updates": 30}),
    ("ncap", {"search": "ppo"}, 20, {"env_steps": 20}),
    ("dreamland", {"controllers": 3}, 20, {"dreamed": 60, "env_steps": 6}),
    ("mine.a", {}, 20, {}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "config", "steps", "costs"), COSTS)
def test_what_a_run_cost(method, config, steps, costs, tmp_path):
    rows = {"step": [20], "return": [1.0], "real_steps": [6.0]}
    run = kept(tmp_path, "a", 0, rows, method=method, config=config, step=steps)
    assert cost_of(run) == {**costs, "seconds": 30}


def test_the_cost_of_an_arm_is_the_mean_of_its_finished_runs(tmp_path):
    config = {"learning_starts": 0, "utd": 1.0}
    rows = {"step": [1], "return": [1.0]}
    runs = [kept(tmp_path, "a", s, rows, method="sac", config=config, step=n,
                 status="finished" if s < 2 else "diverged")
            for s, n in enumerate((10, 30, 99))]  # fmt: skip
    assert cost(runs) == {"runs": 2, "env_steps": 20, "updates": 20, "dreamed": None,
                          "synthetic": None, "seconds": 30}  # fmt: skip


# -- numbers of others


def test_a_file_of_seeds_is_read(tmp_path):
    """At 20 both seeds: 3 and 5, mean 4, deviation sqrt 2; 30 is one's only."""
    file = tmp_path / "theirs.csv"
    file.write_text(
        "exp,env,seed,metric,step,value\n"
        "x,Hopper-v4,0,return,10,1\nx,Hopper-v4,0,return,20,3\nx,Hopper-v4,0,return,30,9\n"
        "x,Hopper-v4,1,return,10,2\nx,Hopper-v4,1,return,20,5\nx,Hopper-v4,1,length,20,7\n"
    )
    first, length = others.read_seeds(file, "2")
    assert (first.exp, first.env, first.version, first.action_repeat) == ("x", "Hopper", "v4", "2")
    assert (first.step, first.mean, first.n, first.source) == (20, 4, 2, "theirs.csv")
    assert first.sd == pytest.approx(2**0.5) and first.curve == {10: 1.5, 20: 4}
    assert (length.metric, length.n, length.sd) == ("length", 1, None)
    early = first.at(15)
    assert (early.step, early.mean, early.sd) == (10, 1.5, pytest.approx(0.5**0.5))
    assert first.at(5) is first


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("exp,env,seed,step,value\n", "lacks the columns metric"),
        ("exp,env,seed,metric,step,value\n", "has no rows"),
        ("exp,env,seed,metric,step,value\nx,E,0,return,1,nan\n", "line 2.*must be finite"),
        ("exp,env,seed,metric,step,value\nx,E,0,return,1,2\nx,E,0,return,,2\n", "line 3"),
    ],
)
def test_what_is_wrong_with_a_file_of_seeds_is_told(text, told, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=told):
        others.read_seeds(tmp_path / "a.csv")


def test_the_built_in_numbers_are_those_of_the_sheet():
    rows = {(p.exp, p.env, p.step): p for p in others.built_in()}
    flash = rows["FlashSAC", "HalfCheetah", 100_000]
    assert (flash.mean, flash.sd, flash.n, flash.version) == (9815, 173, 5, "v4")
    assert rows["SynthER", "Hopper", 100_000].version == "v2"
    assert rows["SimbaV2 UTD 8", "cheetah-run", 100_000].action_repeat == "2"
    assert rows["XQC", "Humanoid", 1_000_000].mean == 11461
    assert rows["PGR curiosity", "finger-turn-hard", 300_000].mean == 886
    three = ("HalfCheetah", "Hopper", "Walker2d")  # means that the sheet prints too
    for exp, mean in (("REDQ UTD 20", 4677), ("XQC", 5012), ("SAC", 2650), ("FlashSAC", 5078)):
        assert round(np.mean([rows[exp, env, 100_000].mean for env in three])) == mean


def test_numbers_of_others_stand_at_the_steps_nearest_to_ours(tmp_path):
    """Ours end at 20: single numbers from the first budget beyond, a curve at its last step."""
    one = others.Published("y", "Hopper", "return", 30, 1.0)
    far = others.Published("y", "Hopper", "return", 90, 2.0)
    line = others.Published("x", "hopper", "return", 30, 9.0, curve={10: 1.5, 30: 9.0})
    other = others.Published("z", "Ant", "return", 30, 9.0)
    assert others.nearest([one, far], 100) == [far]
    rows = {"step": [10, 20], "return": [1.0, 2.0]}
    put(tmp_path, "a", 0, rows, task="Hopper-v5", method="sac",
        config={"env": "reverie/Hopper-v5", "learning_starts": 0})  # fmt: skip
    study = Study("s", tmp_path, read_results(tmp_path))
    data = study_data(study, [("return", "higher")])
    envs = {"Hopper-v5": "reverie/Hopper-v5"}
    (place,) = others.beside(data, envs, [one, far, line, other])
    assert [(p.exp, p.step, p.mean) for p in place["theirs"]] == [("y", 30, 1), ("x", 10, 1.5)]
    (ours,) = place["ours"]
    assert (ours["arm"], ours["step"], ours["version"], ours["mean"]) == ("a", 20, "v5", [2])
    data["units"] = ["gradient steps"]
    assert others.beside(data, envs, [one]) == []


# -- the page


def test_a_report_has_the_verdict_with_its_interval(tmp_path):
    """2, 3 and 4 apart: mean 3, deviation 1, t 4.3027 / sqrt 3."""
    results = claimed(tmp_path)
    data = gather([results.parent], tmp_path / "claims.toml", command="reverie report x")
    (claim,) = data["claims"]
    reach = 4.3026527 / 3**0.5
    assert claim["state"] == "stands" and claim["level"] == 95
    assert claim["interval"] == pytest.approx([3, 3 - reach, 3 + reach], rel=1e-5)
    (study,) = data["studies"]
    assert (study["claims"], study["primary"], study["sign"]) == (["faster"], "return", "higher")
    assert study["stamps"]["revisions"] == ["abc123"] and study["stamps"]["first"] == "2026-01-01"
    before = study["stamps"]["digest"]
    put(results, "b", 0, {"step": [10, 20], "return": [2.0, 10.5]})
    again = gather([results], tmp_path / "claims.toml")
    assert again["claims"][0]["state"] == "results not committed"
    assert again["claims"][0]["interval"] is None
    assert len(before) == 64 and again["studies"][0]["stamps"]["digest"] != before
    text = page(data, "A <title>")
    assert "A &lt;title&gt;" in text and '<span class="pill">stands</span>' in text
    assert f"{3 - reach:.3f} to {3 + reach:.3f}" in text
    told = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1]
    assert json.loads(told) == data


def test_a_verdict_on_matrices_is_shown(tmp_path, monkeypatch):
    """It is of no column of a run, and more is better."""
    results = claimed(tmp_path)
    on = MatrixClaim("c", "x beats y", "s", ("m",), 5, "x", "y", "held_out", margin=0.02)
    told = Verdict(on, "equivalent", "difference .01", stats.Paired(0.01, -0.01, 0.015, 0.5))
    monkeypatch.setattr(report_data, "judged", lambda *_: [report_data.claim_data(told)])
    data = gather([results], tmp_path / "claims.toml")
    (study,), (claim,) = data["studies"], data["claims"]
    assert (study["claims"], study["primary"], study["sign"]) == (["c"], "return", "higher")
    assert (claim["sign"], claim["level"], claim["interval"]) == (
        "higher",
        90,
        [0.01, -0.01, 0.015],
    )
    assert '<span class="pill">equivalent</span>' in page(data, "A")


def test_a_page_asks_nothing_of_any_network(tmp_path):
    results = claimed(tmp_path)
    text = page(gather([results], tmp_path / "none.toml"), "A")
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:,)|@import|url\(|fetch\(""", text)
    assert "</script>" not in embedded({"a": "</script><b>\u2028"})
    assert plain({"a": np.float32(0.1), "b": float("nan"), "c": 2.0, "d": (1, None, True)}) == {
        "a": 0.1, "b": None, "c": 2, "d": [1, None, True],
    }  # fmt: skip


def test_the_command_writes_page_and_tables(tmp_path, capsys, monkeypatch):
    results = claimed(tmp_path)
    theirs = tmp_path / "theirs.csv"
    theirs.write_text("exp,env,seed,metric,step,value\nx,E-v0,0,return,20,7.5\n")
    out, tables = tmp_path / "r.html", tmp_path / "r.md"
    argv = ["report", str(results), "--claims", str(tmp_path / "claims.toml"), "--out", str(out),
            "--markdown", str(tables), "--published", str(theirs)]  # fmt: skip
    assert cli.main(argv) == 0
    assert "1 studies, 6 runs" in capsys.readouterr().out and "7.5" in out.read_text()
    lines = tables.read_text().splitlines()
    reach = 4.3026527 / 3**0.5
    assert (
        f"| E-v0 | a | 13.0 | {13 - reach:.1f} to {13 + reach:.1f} | 13.0 | - | 13.0 | 3 |" in lines
    )
    assert "| a |  | 1.00 |" in lines and "| b | 0.00 |  |" in lines
    assert any("| stands |" in line for line in lines)
    assert cli.main(["report"]) == 2 and "needs results" in capsys.readouterr().err
    assert cli.main([*argv[:2], "--out", "a.txt"]) == 2 and ".html" in capsys.readouterr().err
    monkeypatch.setattr("reverie.experiments.studies.report.LARGEST", 10)
    assert cli.main(argv) == 2 and "name fewer" in capsys.readouterr().err


def test_what_two_pages_say_differently(tmp_path, capsys):
    """b's seeds 0 and 1 are 2 and 4 higher: mean 3, deviation sqrt 2, interval 12.7 each way."""
    results, claims = claimed(tmp_path), tmp_path / "claims.toml"
    old, new = tmp_path / "old.html", tmp_path / "new.html"
    old.write_text(page(gather([results], claims), "A"))
    assert cli.main(["report", "--diff", str(old), str(old)]) == 0
    assert capsys.readouterr().out.endswith("1 of 1 studies are of the same files.\n")
    for seed in (0, 1):
        rows = {"step": [10, 20], "return": [2.0, 12.0 + 2 * seed]}
        put(results, "b", seed, rows)
    for file in (results / "b").glob("*-s2.*"):
        file.unlink()
    put(results, "c", 0, {"step": [20], "return": [1.0]})
    new.write_text(page(gather([results], claims), "A"))
    said = tmp_path / "d.md"
    assert cli.main(["report", "--diff", str(old), str(new), "--markdown", str(said)]) == 0
    told = said.read_text()
    assert capsys.readouterr().out == told
    reach = 4.3026527 / 3**0.5
    assert (
        f"| faster | stands ({3 - reach:.3f} to {3 + reach:.3f}) | incomplete (no interval) |"
        in told
    )
    more = f"3.000 ({3 - T2:.3f} to {3 + T2:.1f}), 2 shared seeds"
    assert f"| s | return | E-v0 | b | 10.0 | 13.0 | {more} |" in told
    assert "| s | return | E-v0 | c | - | 1.000 | 0 shared seeds |" in told
    assert "| a |" not in told and told.endswith("0 of 1 studies are of the same files.\n")
    assert cli.main(["report", "--diff", str(old), str(claims)]) == 2
    assert "no page of" in capsys.readouterr().err
    assert cli.main(["report", str(results), "--diff", str(old), str(new)]) == 2
    old.write_text(old.read_text().replace('"reverie_report":1', '"reverie_report":0'))
    assert cli.main(["report", "--diff", str(old), str(new)]) == 2
    assert "version 0" in capsys.readouterr().err


def test_a_wheel_has_the_page_and_the_references():
    root = Path(__file__).parents[2]
    data = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]
    for package, folder in (("reverie.experiments.studies", "page"),
                            ("reverie.experiments", "references")):  # fmt: skip
        home = root.joinpath(*package.split(".")[1:])
        kept = {file for pattern in data[package] for file in home.glob(pattern)}
        assert {f for f in (home / folder).iterdir() if f.is_file()} <= kept


def test_studies_stand_in_the_order_of_their_folders_those_with_claims_first(tmp_path):
    claimed(tmp_path)
    put(tmp_path / "results" / "other", "a", 0, {"step": [1], "return": [1.0]})
    put(tmp_path / "mine" / "zero", "a", 0, {"step": [1], "return": [1.0]})
    paths = [tmp_path / "mine", tmp_path / "results"]
    data = gather(paths, tmp_path / "claims.toml")
    assert [s["name"] for s in data["studies"]] == ["zero", "s", "other"]
