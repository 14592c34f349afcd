"""`reverie demo`: what its words are chosen by, its bar, and a demo made tiny from end to end."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from reverie.experiments import demo, methods
from reverie.experiments.runs import progress, stopping
from reverie.experiments.runs.config import save_config
from reverie.experiments.studies import shows
from reverie.experiments.studies.claim import parse
from reverie.experiments.studies.flight import Flight
from reverie.experiments.studies.jobs import Job, beside
from reverie.experiments.studies.report_diff import read_page
from reverie.experiments.studies.results import read_result
from reverie.experiments.studies.shows import SAYS, Show
from reverie.experiments.studies.suite import parse_suite

HIGHER = Show("M", "a against b", "s", "a", "b", "return", "higher", "c")
LOWER = HIGHER._replace(metric="forgetting", sign="lower")
# Gains of three seeds; t of two degrees of freedom is 4.303. Of 9, 10, 11: mean 10, standard error
# 1 / sqrt(3), so 7.516 to 12.484. Of 1, 10, 19: mean 10, error 9 / sqrt(3), so -12.358 to 32.358.
CASES = [
    ((9, 10, 11), "shown", (10, 7.516, 12.484)),
    ((1, 10, 19), "hint", (10, -12.358, 32.358)),
    ((-1, 2, 5), "nothing", (2, -5.452, 9.452)),
    ((0, 0, 0), "nothing", (0, 0, 0)),
    ((-1, -10, -19), "behind", (-10, -32.358, 12.358)),
    ((-9, -10, -11), "opposite", (-10, -12.484, -7.516)),
]


@pytest.mark.parametrize(("gains", "state", "interval"), CASES)
def test_words_are_chosen_by_the_numbers(gains, state, interval):
    theirs = {7: 100.0, 8: 200.0, 9: 300.0, 11: 5.0}  # of seed 11 the other arm has no end
    ours = {s: theirs[s] + g for s, g in zip((7, 8, 9), gains, strict=True)}
    row = shows.told(HIGHER, ours, theirs)
    assert row["state"] == state and row["interval"] == pytest.approx(interval, abs=1e-3)
    won = sum(g > 0 for g in gains)
    assert row["says"] == SAYS[state].format(better="a", than="b", won=won, n=3)
    assert row["means"] == [pytest.approx(200 + sum(gains) / 3), 200]
    assert row["values"]["b"] == {"7": 100, "8": 200, "9": 300}


def test_where_lower_is_better_a_negative_difference_is_a_gain():
    ours = {0: 0.1, 1: 0.2, 2: 0.3}
    theirs = {0: 0.6, 1: 0.71, 2: 0.79}  # differences -.5, -.51, -.49
    row = shows.told(LOWER, ours, theirs)
    assert row["state"] == "shown" and row["interval"][0] == pytest.approx(-0.5)
    assert "a ahead in 3 of 3 seeds" in row["says"]
    assert shows.told(LOWER, theirs, ours)["state"] == "opposite"
    assert shows.numbers(row) == "0.200 against 0.700: -0.500 (-0.525 to -0.475)"


def test_a_seed_or_none_decides_nothing():
    assert shows.told(HIGHER, {0: 9.0}, {0: 1.0})["says"] == SAYS["single"]
    none = shows.told(HIGHER, {0: 9.0}, {1: 1.0})
    assert none["says"] == SAYS["missing"] and shows.numbers(none) == "-"
    assert shows.numbers(shows.told(HIGHER, {0: 9.0}, {0: 1.0})) == "9.000 against 1.000"
    up = shows.told(HIGHER, {0: 11.0, 1: 21.0}, {0: 10.0, 1: 20.0})
    assert shows.numbers(up) == "16.0 against 15.0: +1.000 (1.000 to 1.000)"


def test_a_demo_counts_what_ended_and_what_runs(tmp_path, capsys):
    """Costs 10, 20 and 30 with 40 done before: of 100; the second is at step 50 of 200."""
    paths = [tmp_path / "s" / "arm" / name for name in ("a", "b", "c")]
    jobs = [Job("sac", SimpleNamespace(steps=200), path) for path in paths]
    paths[1].mkdir(parents=True)
    (paths[1] / "timing.jsonl").write_text('{"step": 50, "time": 0}\n{"step": 60, "ti')
    cost = dict(zip(paths, (10.0, 20.0, 30.0), strict=True))
    flight = Flight(jobs, lambda: jobs[1:2], cost, 40.0)
    flight.end(jobs[0])
    assert (flight.step, flight.steps) == (40 + 10 + 20 * 50 / 200, 100)


def test_the_line_of_a_log_says_its_unit_and_guesses_by_what_was_seen(monkeypatch):
    """From 40 to 70 of 100 in 20 seconds: 1.5 a second, 20 seconds for the other 30."""
    clock = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    counter = SimpleNamespace(step=40, steps=100, text="1 of 3 runs ended")
    line = progress.Line(counter, "3 runs", "CPU-s")
    assert str(line) == "3 runs 40/100 CPU-s, 0.0/s, 1 of 3 runs ended"
    counter.step = 70
    assert str(line) == "3 runs 70/100 CPU-s, 1.5/s, 20 s left, 1 of 3 runs ended"


TINY = """name = "tiny"
seeds = "0:2"
[[arms]]
name = "circuit"
method = "ncap"
[[arms]]
name = "cpg"
method = "ncap"
set = { controller = "cpg" }
[[tasks]]
env = "reverie/Swim-v0"
steps = 120
[tasks.set]
search = "cma"
episode_steps = 10
"es.population" = 6
env_options = { max_episode_steps = 20 }
"run.eval_every" = 60
"run.log_every" = 60
"run.eval_episodes" = 2
"run.tensorboard" = false
"""
SHOW = Show("NCAP", "a circuit against a wave", "tiny", "circuit", "cpg", "return", "higher", "c")


def tiny(folder, seeds="0:2"):
    (folder / "home" / "suites").mkdir(parents=True, exist_ok=True)
    (folder / "home" / "suites" / "tiny.toml").write_text(TINY.replace("0:2", seeds))
    return demo.Demo((SHOW,), {"tiny": 1.0}, folder / "home", folder / "demo")


class Here:
    """An engine that runs a job at each poll, in this process; asked to stop after so many."""

    def __init__(self, parallel, threads):
        self.jobs, self.ran = [], []

    def begun(self):
        return []

    def submit(self, job):
        self.jobs.append(job)

    def poll(self):
        if not self.jobs:
            return []
        job = self.jobs.pop(0)
        Here.ran.append(f"{job.path.parent.name}/{job.path.name}")
        save_config(beside(job.path, ".config.json"), job.method, job.config)
        methods.script(job.method).main(job.config)
        stopping.stop_asked = len(Here.ran) == Here.stop_after
        return [(job, 0)]

    def cancel(self):
        return self.jobs


@pytest.fixture
def here(monkeypatch):
    Here.ran, Here.stop_after = [], 0
    monkeypatch.setattr(demo, "LocalEngine", Here)
    monkeypatch.setattr(demo, "PLAYED", 2)
    monkeypatch.setattr(stopping, "stop_asked", False)
    return Here


def test_a_tiny_demo_is_stopped_goes_on_and_shows_what_it_measured(tmp_path, here, capsys):
    ours, here.stop_after = tiny(tmp_path, "0:1"), 1
    with pytest.raises(stopping.Interrupted, match="1 of 2 runs had ended; the same command goes"):
        demo.main([], ours)
    assert here.ran == ["circuit/Swim-v0-s0"]
    assert "1 methods, 2 small runs, 0 finished" in capsys.readouterr().out
    here.ran.clear()
    here.stop_after = 0
    assert demo.main([], ours) == 0 and here.ran == ["cpg/Swim-v0-s0"]
    out, err = capsys.readouterr()
    results = tmp_path / "demo" / "results"
    assert "1 runs 2/2 CPU-s" in err  # one of the two was done before
    assert "2 small runs, 1 finished" in out and str(tmp_path / "demo" / "report.html") in out
    (row,) = json.loads((results / "shows.json").read_text())["rows"]
    last = {
        arm: {str(s): read_result(results / f"tiny/{arm}/Swim-v0-s{s}.csv").columns["return"][-1]
              for s in range(1)}
        for arm in ("circuit", "cpg")
    }  # fmt: skip
    assert row["values"] == last
    assert shows.numbers(row) in " ".join(out.replace("│", " ").split()) or row["says"][:20] in out
    data = read_page(tmp_path / "demo" / "report.html")
    assert data["panels"]["shows"][0]["says"] == row["says"]
    played = {e["name"]: e["played"] for e in data["panels"]["episodes"]}
    assert played == {"tiny/circuit": 2, "tiny/cpg": 2}
    assert "reverie report" in data["command"] and [s["name"] for s in data["studies"]] == ["tiny"]
    edited = TINY.replace('population" = 6', 'population" = 4')  # as a newer version might have it
    (tmp_path / "home" / "suites" / "tiny.toml").write_text(edited)
    with pytest.raises(ValueError, match=r"es\.population is 6, the suite says 4.*move it away"):
        demo.main([], ours)


def test_a_seed_is_run_arm_by_arm_over_all_suites(tmp_path, here, monkeypatch):
    """What is finished is not run, and counts: 2 of a, 3 of b, in all 4 times 5."""

    def entry(suite, arm, seed):
        job = Job("sac", None, tmp_path / suite / f"{arm}{seed}")
        status = "finished" if (suite, arm, seed) in (("a", "y", 0), ("b", "x", 1)) else "missing"
        arms = SimpleNamespace(name=arm)
        return SimpleNamespace(path=job.path, job=job, arm=arms, seed=seed, status=lambda: status)

    suites = {s: [entry(s, a, k) for a in "xy" for k in (0, 1)] for s in "ab"}
    told = []
    monkeypatch.setattr(demo, "run_jobs", lambda jobs, engine, bar: told.append((jobs, bar)))
    demo.run(suites, {"a": 2.0, "b": 3.0})
    ((jobs, flight),) = told
    assert ["/".join(j.path.parts[-2:]) for j in jobs] == [
        "a/x0", "b/x0", "b/y0", "a/x1", "a/y1", "b/y1"]  # fmt: skip
    assert (flight.step, flight.steps) == (5, 20)


def test_what_a_run_leaves_for_the_panels_is_kept_once(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(demo, "keep_episodes", lambda path, out, *more, dream: keep(out, dream))
    monkeypatch.setattr(demo.quality, "main", lambda args: keep(Path(args[-1]), args[0]))

    def keep(out, what):
        done.append((out.name, what))
        out.write_text("{}")

    def entry(method, **settings):
        path = tmp_path / method
        (path / "figures").mkdir(parents=True, exist_ok=True)
        (path / "stamp.json").write_text("{}")
        arm = SimpleNamespace(name=method, method=method)
        return SimpleNamespace(path=path, arm=arm, config=SimpleNamespace(**settings))

    entries = [entry("synther", rows="diffusion"), entry("dreamland"), entry("mbtl")]
    (tmp_path / "mbtl" / "figures" / "selection.json").write_text("chosen")
    for e in entries:
        demo.keep_panels(e, tmp_path)
    expected = [("synther.json", False), ("synther-rows.json", str(tmp_path / "synther")),
                ("dreamland.json", True), ("mbtl.json", False)]  # fmt: skip
    assert done == expected and (tmp_path / "mbtl-selection.json").read_text() == "chosen"
    for e in entries:
        demo.keep_panels(e, tmp_path)
    assert done == expected  # they are younger than the runs
    os.utime(tmp_path / "synther.json", (0, 0))
    demo.keep_panels(entry("synther", rows="none"), tmp_path)
    assert done[4:] == [("synther.json", False)]


@pytest.mark.slow
def test_a_tiny_demo_in_processes_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "PLAYED", 2)
    assert demo.main([], tiny(tmp_path)) == 0
    told = capsys.readouterr()
    assert "4 small runs, 0 finished" in told.out and "CPU-seconds" in told.out
    data = read_page(tmp_path / "demo" / "report.html")
    (row,) = data["panels"]["shows"]
    assert row["says"].split(":")[0] in told.out and len(row["values"]["cpg"]) == 2
    logs = sorted(p.name for p in (tmp_path / "demo" / "runs").rglob("*.log"))
    assert logs == ["Swim-v0-s0.log"] * 2 + ["Swim-v0-s1.log"] * 2


def test_every_row_of_the_demo_has_its_arms_its_cost_and_a_claim_that_there_is():
    claims = parse((demo.HERE / "claims.toml").read_text(), "claims.toml")
    assert {s.suite for s in demo.SHOWS} == set(demo.COSTS)
    for show in demo.SHOWS:
        text = (demo.HERE / "suites" / f"{show.suite}.toml").read_text()
        arms = {a.name for a in parse_suite(text, show.suite).arms}
        assert {show.better, show.than} <= arms and show.claim in (*claims, "")
        if show.claim:  # of the same measure; a verdict on another contrast would mislead
            claim = claims[show.claim]
            assert (claim.metric, claim.sign) == (show.metric, show.sign)
