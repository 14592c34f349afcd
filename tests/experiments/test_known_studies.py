"""Results, tables, statistics, claims and pictures, against numbers worked out by hand."""

import dataclasses
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from known import Options
from tiny import config

from reverie.experiments import load_run, sac
from reverie.experiments.runs import zoo
from reverie.experiments.runs.config import RunOptions
from reverie.experiments.runs.run import Run
from reverie.experiments.studies import compare, plots, stats
from reverie.experiments.studies.claims import parse, verdict_of
from reverie.experiments.studies.evidence import Commit
from reverie.experiments.studies.results import (
    common_end,
    last_rows,
    read_results,
    write_results,
)
from reverie.experiments.studies.suite import Arm, Entry, parse_suite, put, read_suite
from reverie.experiments.studies.tables import digits, finals, reach, table

T2, T3, T4 = 12.7062047, 4.3026527, 3.1824463  # Student's t at 0.975 with 1, 2 and 3 degrees


def a_run(out, arm, seed, values, steps=20, ends=True):
    """An entry whose run was judged at equal distances, with these values."""
    name = f"E-v0-s{seed}"
    options = RunOptions(out=str(out / arm), name=name, tensorboard=False, progress=False)
    settings = Options(steps=steps, seed=seed, run=options)
    with Run("sac", settings, label=name, steps=steps, seed=seed) as run:
        with run.restored():
            pass
        for value in values:
            run.tick(steps // len(values) if ends else 1)
            row = value if isinstance(value, dict) else {"return": value}
            run.log(row, kind="eval")
    return Entry(Arm(arm, "sac", {}), "reverie/E-v0", seed, settings, run.path)


# -- what is kept, and tables of it


def test_a_csv_is_a_runs_evaluations_and_its_stamp_its_settings(tmp_path):
    entry = a_run(tmp_path, "a", 3, [{"return": 1.5, "x": 0.1}, {"return": -2.0, "y": 7.0}])
    write_results([entry], tmp_path / "results")
    target = tmp_path / "results" / "a" / "E-v0-s3.csv"
    assert target.read_text().splitlines() == [
        "step,return,seed,x,y", "10,1.5,3,0.1,nan", "20,-2.0,3,nan,7.0",
    ]  # fmt: skip
    stamp = json.loads(target.with_suffix(".json").read_text())
    assert (stamp["status"], stamp["seed"], stamp["config"]["steps"]) == ("finished", 3, 20)
    assert "out" not in stamp["config"]["run"] and "command" not in stamp
    assert not target.with_suffix(".tasks.csv").exists()
    short = a_run(tmp_path, "a", 4, [5.0, 6.0], ends=False)  # finished short of its steps
    assert short.status() == "shorter"
    other = a_run(tmp_path, "a", 5, [5.0, 6.0])  # at its end, but not as the suite says
    assert other.status() == "finished"
    other = dataclasses.replace(other, config=entry.config)
    assert other.status() == "other settings"
    assert other.departures() == ["seed is 5, the suite says 3"]
    write_results([entry, short, other], tmp_path / "results")
    assert {k: v.tolist() for k, v in last_rows(tmp_path / "results", "return").items()} == {
        "a": [[-2.0]]
    }


def test_a_transfer_matrix_is_kept_where_no_stamp_is_looked_for(tmp_path):
    entry = a_run(tmp_path, "a", 3, [1.5])
    for end in ("safetensors", "json", "report.json"):
        (entry.path / f"matrix.{end}").write_text(end)
    write_results([entry], tmp_path / "results")
    kept = {p.name: p.read_text() for p in (tmp_path / "results").glob("*.*")}
    ends = ("safetensors", "json", "report.json")
    assert kept == {f"a-E-v0-s3.{end}": end for end in ends}
    assert last_rows(tmp_path / "results", "return")["a"].tolist() == [[1.5]]


def test_a_table_holds_the_last_values_their_interval_and_middle(tmp_path):
    """10, 20, 60, 30: mean 30, deviation 21.602, t 3.182 / 2; of the middle two 25."""
    entries = [a_run(tmp_path, "a", s, [99.0, v]) for s, v in enumerate((10.0, 20.0, 60.0, 30.0))]
    entries.append(a_run(tmp_path, "b", 0, [7.0]))
    entries.append(a_run(tmp_path, "b", 1, [8.0], ends=False))
    reached = (1400 / 3) ** 0.5 * T4 / 2
    assert table(entries).splitlines()[2:] == [
        f"| reverie/E-v0 | a | 30.0 | {30 - reached:.3f} to {30 + reached:.1f} | 25.0 | 4 |",
        "| reverie/E-v0 | b | 7.000 | - | - | 1, 1 shorter |",
    ]
    assert finals(entries, "a", "reverie/E-v0") == {0: 10, 1: 20, 2: 60, 3: 30}
    assert (digits(9.9996), digits(10.0), digits(-1234.56)) == ("10.000", "10.0", "-1,234.6")


def test_how_soon_a_return_is_reached(tmp_path):
    """At steps 20 and 10: mean 15, deviation 7.07, t 12.7 / sqrt 2; 9 is reached by one of two."""
    entries = [a_run(tmp_path, "a", 0, [1.0, 5.0]), a_run(tmp_path, "a", 1, [5.0, 9.0])]
    row = reach(entries, [5.0, 9.0]).splitlines()[-1]
    assert row == f"| reverie/E-v0 | a | 15 ({15 - 5 * T2:.0f} to {15 + 5 * T2:.0f}) | 1 of 2 |"


# -- suites


def test_an_arms_settings_go_over_the_tasks_and_those_over_the_presets(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(
        'name = "s"\nseeds = "5:7"\n[[arms]]\nname = "x"\nmethod = "sac"\npreset = "redq"\n'
        'first = true\nset = { utd = 3.0, "agent.tau" = 0.5 }\n'
        '[[tasks]]\nenv = "reverie/Swim-v0"\nsteps = 40\n'
        'set = { utd = 2.0, batch_size = 7, "agent.tau" = 0.1, "agent.gamma" = 0.9 }\n'
    )
    _, entries = read_suite(path, tmp_path / "runs")
    assert [(e.seed, e.arm.first) for e in entries] == [(5, True), (6, True)]
    c = entries[1].config
    assert (c.env, c.steps, c.seed) == ("reverie/Swim-v0", 40, 6)
    assert (c.utd, c.batch_size, c.agent.tau, c.agent.gamma) == (3, 7, 0.5, 0.9)
    assert c.agent.critics == 10  # the preset's
    assert (c.run.out, c.run.name) == (str(tmp_path / "runs" / "s" / "x"), "Swim-v0-s6")
    assert entries[1].path == tmp_path / "runs" / "s" / "x" / "Swim-v0-s6"
    assert entries[1].key == "x/Swim-v0-s6"
    values = {"a": {"b": 1}, "c": 2}
    assert put(values, {"a.b": 5}) == {"a": {"b": 5}, "c": 2} and values["a"]["b"] == 1


def test_a_study_runs_seed_by_seed_what_is_not_finished(tmp_path, monkeypatch):
    done = a_run(tmp_path, "a", 1, [1.0])
    entries = [
        dataclasses.replace(done, arm=Arm(arm, "sac", {}), seed=s, path=tmp_path / arm / f"{s}")
        for arm in ("a", "b")
        for s in (2, 1)
    ]
    jobs = []
    monkeypatch.setattr(compare, "run_jobs", lambda given, *rest: jobs.extend(given))
    compare.run_all([done, *entries], None)
    assert [(job.path.parent.name, job.path.name) for job in jobs] == [
        ("a", "1"), ("b", "1"), ("a", "2"), ("b", "2"),
    ]  # fmt: skip
    jobs.clear()  # the others read what runs of b leave
    first = [dataclasses.replace(e, arm=Arm("b", "sac", {}, first=True)) for e in entries[2:]]
    compare.run_all([*entries[:2], *first], None)
    assert [(job.path.parent.name, job.path.name) for job in jobs] == [
        ("b", "1"), ("b", "2"), ("a", "1"), ("a", "2"),
    ]  # fmt: skip


def test_runs_end_where_most_of_them_do():
    """Not where the longest one does; of as many the later."""
    assert common_end([100, 100, 101, 90]) == 100 and common_end([90.0, 100.0]) == 100
    assert common_end([]) == 0


# -- statistics


def test_students_interval_of_a_mean():
    """1, 2, 6: mean 3, deviation sqrt 7, over sqrt 3, by t of two degrees 4.303."""
    got = stats.mean_t([1.0, 2.0, 6.0])
    reached = (7 / 3) ** 0.5 * T3
    assert got == pytest.approx((3.0, 3 - reached, 3 + reached))
    narrow = stats.mean_t([1.0, 2.0, 6.0], level=0.9)
    assert narrow.high - 3 == pytest.approx((7 / 3) ** 0.5 * 2.9199856)


def test_the_paired_interval_by_hand():
    """Differences 1, 2, 6."""
    got = stats.paired_t([1.0, 4.0, 9.0], [0.0, 2.0, 3.0])
    reached = (7 / 3) ** 0.5 * T3
    assert got[:3] == pytest.approx((3.0, 3 - reached, 3 + reached))


def test_aggregates_by_hand():
    x = np.array([[0.0, 10.0, 3.0], [2.0, 30.0, 8.0], [7.0, 20.0, 1.0]])  # task means 3, 20, 4
    assert stats.median(x) == 4 and stats.mean(x) == 9
    assert stats.iqm(x) == (2 + 3 + 7 + 8 + 10) / 5  # of nine, two off each side
    assert stats.performance_profile(x, [2.0]).tolist() == [6 / 9]  # above, not at
    a, b = [[1.0, 0.0], [1.0, 5.0]], [[0.0, 9.0], [1.0, 1.0]]
    # first task: wins 1, ties half: (1 + 0.5 + 1 + 0.5) / 4; second: only 5 over 1
    assert stats.probability_of_improvement(a, b) == (0.75 + 0.25) / 2


def test_each_task_draws_runs_of_its_own():
    runs = stats.resample(np.arange(12.0).reshape(4, 3), 50, 0) // 3
    assert set(runs.flatten()) == {0, 1, 2, 3} and (runs != runs[:, :, :1]).any()


def test_bca_moves_the_tails_by_bias_and_skew():
    """Efron (1987): z0 from the share below the estimate, a from the jackknife of 0, 0, 3.

    The others' mean stands in for the run left out: jackknife means 1.5, 1.5 and 0.
    """
    x = np.array([[0.0], [0.0], [3.0]])
    draws = np.array([0.0, 0.5, 1.0, 1.0, 2.0])  # two below 1, two at 1
    tails = stats._bca_tails(x, stats.mean, draws, 1.0, np.array([0.025, 0.975]))
    z0 = stats.stats.norm.ppf((2 + 1) / 5)
    d = np.array([-0.5, -0.5, 1.0])
    a = (d**3).sum() / (6 * (d**2).sum() ** 1.5)
    assert a == pytest.approx(0.75 / (6 * 1.5**1.5)) and z0 == pytest.approx(0.2533471)
    z = z0 + np.array([-1.9599640, 1.9599640])
    assert tails == pytest.approx(stats.stats.norm.cdf(z0 + z / (1 - a * z)))


# -- claims


TEXT = """[c]
says = "a beats b"
suite = "s"
env = "reverie/E-v0"
steps = 100
metric = "x"
better = "a"
than = "b"
seeds = "0:3"
"""
SUITE = """name = "s"
seeds = "0:3"
[[arms]]
name = "a"
method = "mine.a"
set = { lr = 1.0 }
[[arms]]
name = "b"
method = "mine.a"
set = { lr = 2.0 }
[[tasks]]
env = "reverie/E-v0"
steps = 150
"""
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CLAIMED = Commit("0" * 40, NOON)  # no later than its runs


def result(folder: Path, arm, seed, x, steps=(50, 100, 150)):
    path = folder / "s" / arm / f"E-v0-s{seed}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{s},-1,{seed},{x if s == 100 else -99}" for s in steps]
    path.write_text("\n".join(["step,return,seed,x", *rows]) + "\n")
    settings = {"env": "reverie/E-v0", "steps": 150, "lr": {"a": 1.0, "b": 2.0}[arm]}
    settings |= {"seed": seed, "run": {"name": path.stem, "threads": seed}}
    stamp = {"started": NOON.isoformat(), "status": "finished", "config": settings}
    stamp |= {"method": "mine.a", "revision": "abc123"}
    path.with_suffix(".json").write_text(json.dumps(stamp))


def commit(folder):
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        name = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(folder), *name, *words], check=True)


def test_a_verdict_is_of_the_metric_at_the_claims_step_paired_by_seed(tmp_path):
    """Differences 1, 2, 6: 3 +- 6.57; and 5, 6, 7: 6 +- 2.48."""
    for seed, (x, y) in enumerate([(1.0, 0.0), (4.0, 2.0), (9.0, 3.0)]):
        result(tmp_path, "a", seed, x)
        result(tmp_path, "b", seed, y)
    claim, reached = parse(TEXT)["c"], (7 / 3) ** 0.5 * T3
    suite = parse_suite(SUITE, "s")
    assert verdict_of(claim, tmp_path, CLAIMED, suite).state == "results not committed"
    commit(tmp_path)
    verdict = verdict_of(claim, tmp_path, CLAIMED, suite)
    assert verdict.state == "undecided"
    assert verdict.detail == (
        f"4.667 against 1.667: difference 3.000 ({3 - reached:.3f} to {3 + reached:.3f}), 3 pairs"
    )
    for seed, x in enumerate((5.0, 8.0, 10.0)):
        result(tmp_path, "a", seed, x)
    commit(tmp_path)
    verdict = verdict_of(claim, tmp_path, CLAIMED, suite)
    assert verdict.state == "stands"
    assert verdict.detail == (
        f"7.667 against 1.667: difference 6.000 ({6 - T3 / 3**0.5:.3f} to "
        f"{6 + T3 / 3**0.5:.3f}), 3 pairs"
    )
    other = TEXT.replace('"a"', '"c"').replace('"b"', '"a"').replace('"c"', '"b"')
    assert verdict_of(parse(other)["c"], tmp_path, CLAIMED, suite).state == "refuted"


# -- pictures


@pytest.fixture
def figure(monkeypatch):
    """The figure that was drawn last, instead of closing it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn = []
    close = plt.close
    monkeypatch.setattr(plt, "close", drawn.append)
    yield lambda: drawn[-1]
    close("all")


def lines(axes):
    return [np.stack(line.get_data(), 1).tolist() for line in axes.lines]


def test_a_curve_is_the_mean_of_seeds_at_every_step_that_all_were_judged(tmp_path, figure):
    """0, 10, 20 and 9, 1, 0 at steps 10, 20, 30, where one that is judged twice as often has 3, 1,
    7: means 4, 4, 9. One of 10, 30 at 15, 30 shares the last with the first: (20 + 30) / 2."""
    runs = [
        a_run(tmp_path, "a", 0, [0.0, 10.0, 20.0], 30),
        a_run(tmp_path, "a", 1, [10.0, 30.0], 30),
        a_run(tmp_path, "a", 2, [-99.0, 3.0, 99.0, 1.0, 50.0, 7.0], 30),
        a_run(tmp_path, "a", 3, [9.0, 1.0, 0.0], 30),
    ]
    for entry in runs:  # all of the method and environment that their configuration says
        file = entry.path / "config.json"
        about = json.loads(file.read_text())
        about["config"]["env"] = "E"
        file.write_text(json.dumps(about))
    loaded = [load_run(e.path) for e in runs]
    plots.curves(loaded[:2], tmp_path / "c.png")
    one, two, mean = lines(figure().axes[0])
    assert one == [[10, 0], [20, 10], [30, 20]] and two == [[15, 10], [30, 30]]
    assert mean == [[30, 25]]
    plots.curves([loaded[0], *loaded[2:]], tmp_path / "c.png")
    one, often, three, mean = lines(figure().axes[0])
    assert one == [[10, 0], [20, 10], [30, 20]] and three == [[10, 9], [20, 1], [30, 0]]
    assert often == [[5, -99], [10, 3], [15, 99], [20, 1], [25, 50], [30, 7]]
    assert mean == [[10, 4], [20, 4], [30, 9]]


def test_panels_show_each_arms_mean_on_each_task(tmp_path, figure):
    entries = [a_run(tmp_path, "a", s, [v, 2 * v]) for s, v in ((0, 1.0), (1, 3.0))]
    entries.append(a_run(tmp_path, "b", 0, [7.0, 8.0]))
    write_results(entries, tmp_path / "results")
    plots.panels(read_results(tmp_path / "results"), tmp_path / "p.png")
    drawn = lines(figure().axes[0])
    assert drawn[2] == [[10, 2], [20, 4]] and drawn[4] == [[10, 7], [20, 8]]


def test_a_tradeoff_has_a_point_for_each_arm(tmp_path, figure):
    """Arm a: costs 1 and 3, returns 10 and 20: (2, 15), by t of one degree 5 x 12.7."""
    rows = [{"return": 0.0, "cost": 50.0}, {"return": 10.0, "cost": 1.0}]
    entries = [a_run(tmp_path, "a", 0, rows)]
    entries.append(a_run(tmp_path, "a", 1, [{"return": 20.0, "cost": 3.0}]))
    entries.append(a_run(tmp_path, "b", 0, [{"return": 7.0, "cost": 9.0}]))
    write_results(entries, tmp_path / "results")
    plots.tradeoff([tmp_path / "results"], "cost", "return", tmp_path / "t.png")
    axes = figure().axes[0]
    assert lines(axes) == [[[2, 15]], [[9, 7]]]
    (bar,) = axes.collections[0].get_segments()
    assert np.allclose(bar, [[2, 15 - 5 * T2], [2, 15 + 5 * T2]])


# -- the zoo


def test_a_policy_of_the_zoo_has_the_return_of_its_step(tmp_path, monkeypatch):
    """Judged and saved at 60, 120 and 180; the last two checkpoints are kept."""
    monkeypatch.setattr(zoo, "HERE", tmp_path / "zoo")
    options = config("sac", tmp_path, "run", steps=180)
    run = dataclasses.replace(options.run, eval_every=60)
    path = sac.main(dataclasses.replace(options, run=run)).path
    zoo.add(path, "early", 120)
    frame, about = load_run(path).frame(), zoo.card("early")
    judged = dict(zip(frame["step"].tolist(), frame["return"].tolist(), strict=True))
    assert about["return"] == judged[120] != judged[180]
    assert about["curve"] == [[s, round(judged[s], 2)] for s in (60, 120)]
    assert (about["steps"], about["env"], about["seed"]) == (120, "reverie/Reacher-v5", 0)
