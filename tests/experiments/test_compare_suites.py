"""Suites are checked before anything starts, and results of other settings are never re-used."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import offline_data

from reverie.buffers import aside
from reverie.experiments import bc, cli, load_run, ncap
from reverie.experiments.runs import stamp
from reverie.experiments.runs.config import read_config, save_config
from reverie.experiments.studies import compare, plots, pool
from reverie.experiments.studies.claims import HERE
from reverie.experiments.studies.compare import suite_file
from reverie.experiments.studies.jobs import Job, beside
from reverie.experiments.studies.results import last_rows, read_results, write_results
from reverie.experiments.studies.suite import DAMAGED, OTHER, parse_seeds, parse_suite, read_suite
from reverie.experiments.studies.tables import finals, reach, steps_to, table, units

SUITE = """
name = "tiny"
seeds = "0:2"

[[arms]]
name = "sac"
method = "sac"
set = { "agent.gamma" = 0.99 }

[[arms]]
name = "sb3"
method = "peer"

[[tasks]]
env = "Reacher-v5"
steps = 200
[tasks.set]
learning_starts = 100
"run.eval_every" = 100
"""


def read(tmp_path, text=SUITE):
    path = tmp_path / "suite.toml"
    path.write_text(text)
    return read_suite(path, tmp_path / "runs")[1]


def made(entry, returns=((100, 1.0), (200, 2.0)), status="finished", **filled):
    """Write the directory of a run as it was asked for; `filled` by its script."""
    entry.path.mkdir(parents=True)
    job = entry.job
    save_config(beside(entry.path, ".config.json"), job.method, job.config)
    save_config(entry.path / "config.json", job.method, job.config)
    if filled:
        change(entry.path / "config.json", **filled)
    rows = [{"step": s, "kind": "eval", "return": r} for s, r in returns]
    (entry.path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    about = {"status": status, "step": entry.config.steps, "started": "2026-01-01T12:00:00+00:00",
             "revision": "abc", "method": job.method, "seed": entry.seed}  # fmt: skip
    stamp.write(entry.path / "stamp.json", about)


def change(path, **values):
    data = json.loads(path.read_text())
    for name, value in values.items():
        at = data["config"]
        *parents, last = name.split("__")
        for parent in parents:
            at = at[parent]
        at[last] = value
    path.write_text(json.dumps(data))


def run(tmp_path, text=SUITE):
    (tmp_path / "suite.toml").write_text(text)
    args = ["compare", str(tmp_path / "suite.toml"), "--out", str(tmp_path / "runs")]
    return cli.main([*args, "--results", str(tmp_path / "results")])


def test_an_edited_suite_does_not_reuse_what_was_run_before_it(tmp_path, capsys):
    for entry in read(tmp_path):
        made(entry)
    assert run(tmp_path) == 0
    assert "4 of 4 runs are finished" in capsys.readouterr().out
    before = (tmp_path / "runs" / "tiny" / "sac" / "Reacher-v5-s0" / "config.json").read_bytes()
    assert run(tmp_path, SUITE.replace("0.99", "0.5")) == 1  # and nothing was started
    out = capsys.readouterr().out
    assert "2 of 4 runs are finished" in out
    assert "Reacher-v5-s1: agent.gamma is 0.99, the suite says 0.5" in out
    assert "| Reacher-v5 | sac | - | - | - | 0, 2 other settings |" in out
    assert "| Reacher-v5 | sb3 | 2.000 | 2.000 to 2.000 | 2.000 | 2 |" in out
    assert before == (tmp_path / "runs/tiny/sac/Reacher-v5-s0/config.json").read_bytes()
    ends = last_rows(tmp_path / "results" / "tiny", "return")
    assert {arm: rows.tolist() for arm, rows in ends.items()} == {"sb3": [[2.0], [2.0]]}
    assert run(tmp_path) == 0  # the suite put right again


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("0.99", "0.98", "agent.gamma is 0.99, the suite says 0.98"),
        ("steps = 200", "steps = 150", "steps is 200, the suite says 150"),
        ('"sac"\nset', '"td3"\nset', "method is 'sac', the suite says 'td3'"),
        ("learning_starts = 100", "learning_starts = 101", "learning_starts is 100"),
        ('set = { "agent', 'set = { agent.hidden = [32, 32], "agent', "agent.hidden is [256, 256]"),
        ('set = { "agent', 'preset = "layernorm"\nset = { "agent', "critic_norm is 'none'"),
        ('set = { "agent', 'set = { env_options = { a = 1 }, "agent', "env_options.a is None"),
        ("= 100\n", "= 100\n", None),
        ("= 100\n", '= 100\n"run.tensorboard" = false\n"run.keep" = 9\n', None),
        ("steps = 200", "steps = 300", None),
    ],
)
def test_what_makes_a_run_another_one(old, new, text, tmp_path):
    made(read(tmp_path)[0])
    entry = read(tmp_path, SUITE.replace('name = "sac"', "name = 'sac'").replace(old, new, 1))[0]
    departs = entry.departures()
    assert (departs and text in departs[0]) if text else not departs
    assert entry.status() == (OTHER if text else "finished" if "300" not in new else "shorter")


def test_a_run_that_cannot_go_on_is_not_thrown_away_for_a_longer_one(tmp_path):
    made(read(tmp_path)[2])
    peer = read(tmp_path, SUITE.replace("steps = 200", "steps = 300"))[2]
    assert peer.job.method == "peer" and peer.status() == OTHER


def test_a_run_cut_short_is_not_gone_on_with_under_other_settings(tmp_path, capsys):
    """Nor is one that was killed before it had a stamp."""
    first, second, *_ = read(tmp_path)
    made(first, status="interrupted")
    made(second)
    (second.path / "stamp.json").unlink()

    class Engine:
        jobs = []

        def submit(self, job):
            self.jobs.append(job)

        def poll(self):
            out, self.jobs[:] = [(j, 0) for j in self.jobs], []
            return out

        def begun(self):
            return []

    for text, started in ((SUITE, {"sac", "sb3"}), (SUITE.replace("0.99", "0.5"), {"sb3"})):
        engine, names = Engine(), set()
        submit = engine.submit
        engine.submit = lambda job, submit=submit, names=names: (
            names.add(job.path.parent.name), submit(job))  # fmt: skip
        compare.run_all(read(tmp_path, text), engine)
        assert names == started
    assert capsys.readouterr().out.count("other settings") == 2


def test_what_a_script_fills_in_is_not_another_setting(tmp_path):
    """Left open by the suite, filled from the data: environment, context, options."""
    text = SUITE.replace('"sac"\nset = { "agent.gamma" = 0.99 }', f'"bc"\nset = {{ {OPEN} }}')
    text = text.replace("learning_starts = 100\n", "").replace('"peer"', '"bc"')
    one, two, *_ = read(tmp_path, text)
    save_config(beside(made_folder(one), ".config.json"), "bc", one.config)
    bc.main(one.config)
    own = load_run(one.path).config["env_options"]
    assert own["max_episode_steps"] == 50  # of the data, where the suite names none
    assert one.departures() == [] and one.status() == "finished"
    made(two, context=["gravity=4.9"], env_options={"a": 1})
    assert two.departures() == []
    change(two.path / "config.json", batch_size=3)  # by hand, what the suite did set
    assert two.departures() == ["batch_size is 3, the suite says 16"]
    beside(two.path, ".config.json").unlink()  # what it was asked to be is not known
    assert len(two.departures()) == 3


OPEN = (
    f"data = ['dataset:{offline_data()}'], batch_size = 16, steps = 20, agent.hidden = [16], "
    "run.eval_episodes = 1"
)


def made_folder(entry):
    entry.path.parent.mkdir(parents=True)
    return entry.path


def test_a_search_fills_in_its_options_and_is_run_once(tmp_path):
    text = """
name = "tiny"
seeds = "3"
[[arms]]
name = "es"
method = "ncap"
set = { "episode_steps" = 5, "es.population" = 4, "run.eval_episodes" = 1 }
[[tasks]]
env = "reverie/Swim-v0"
steps = 20
"""
    (entry,) = read(tmp_path, text)
    save_config(beside(made_folder(entry), ".config.json"), "ncap", entry.config)
    ncap.main(entry.config)
    assert load_run(entry.path).config["env_options"] == {"links": 6, "time_feature": True}
    assert entry.status() == "finished"
    (entry,) = read(tmp_path, text.replace("= 4,", "= 6,"))
    assert entry.departures() == ["es.population is 4, the suite says 6"]


def test_a_run_of_an_older_version_has_the_defaults_of_what_it_lacks(tmp_path):
    first, second, *_ = read(tmp_path)
    made(first)
    made(second)
    for entry in (first, second):
        for path in (entry.path / "config.json", beside(entry.path, ".config.json")):
            data = json.loads(path.read_text())
            del data["config"]["bfloat16"]
            if entry is second:
                data["config"]["gone"] = 1
            path.write_text(json.dumps(data))
    assert first.status() == "finished"
    assert second.status() == OTHER and "unknown field of Config: 'gone'" in second.departures()[0]
    (first.path / "config.json").write_text("{")
    assert first.status() == OTHER and "of no use" in first.departures()[0]


ARMS = SUITE[SUITE.index("[[arms]]") : SUITE.index("[[tasks]]")]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('name = "sb3"', 'name = "sac"', "arms[0] and arms[1] would share the directory 'sac'"),
        ('name = "sb3"', 'name = "SAC"', "arms[0] and arms[1] would share the directory 'SAC'"),
        ("[[tasks]]", '[[tasks]]\nenv = "reverie/Reacher-v5"\nsteps = 9\n[[tasks]]',
         "tasks[0] and tasks[1] would share the directory 'Reacher-v5'"),
        ("[[tasks]]", '[[tasks]]\nenv = "Reacher-v5"\nsteps = 9\nset = { utd = 2.0 }\n[[tasks]]',
         "give one of them another `name`"),
        ('"0:2"', '"0,1,0"', "seeds '0,1,0': [0] would run twice"),
        ('"0:2"', '"-2:1"', "-2 is negative"),
        ('"0:2"', '"2:2"', "names no seed"),
        ('"0:2"', '"0:3:1"', "give a range as 0:5"),
        ('"0:2"', '"0:99999999999"', "more than 10,000"),
        ('"0:2"', "[0, 1]", "seeds must be a text, got [0, 1]"),
        ('"0:2"', "2", "seeds must be a text, got 2"),
        ('seeds = "0:2"\n', "", "lacks seeds"),
        ('seeds = "0:2"', 'seed = "0:2"', "did you mean 'seeds'"),
        ('name = "tiny"', 'name = "../tiny"', "name: got '../tiny', expected a plain name"),
        ('name = "tiny"', 'name = "a/b"', "'a/b' cannot be a folder's name"),
        ('name = "sb3"', 'name = ""', "arms[1]: name: got ''"),
        ('name = "sb3"\n', "", "arms[1]: lacks name"),
        ('method = "peer"', "method = 3", "arms[1]: method must be a text, got 3"),
        ('method = "peer"', 'metod = "peer"', "did you mean 'method'"),
        ('method = "sac"', 'method = "sca"', "did you mean 'sac'"),
        ('method = "sac"', 'method = "sac"\npreset = "layernrm"', "did you mean 'layernorm'"),
        ('method = "sac"', 'method = "sac"\npreset = 3', "arms[0]: preset must be a text, got 3"),
        ('method = "peer"', 'method = "peer"\nset = 3', "arms[1]: set must be a table, got 3"),
        ("steps = 200", 'steps = "10"', "tasks[0]: steps must be a whole number, got '10'"),
        ("steps = 200", "steps = -1", "tasks[0]: steps: got -1"),
        ("steps = 200", "steps = 0", "tasks[0]: steps: got 0, expected at least 1"),
        ("steps = 200", "steps = 200.0", "tasks[0]: steps must be a whole number, got 200.0"),
        ("steps = 200", "steps = true", "tasks[0]: steps must be a whole number, got True"),
        ("steps = 200\n", "", "tasks[0]: lacks steps"),
        ("Reacher-v5", "Reachr-v5", "tasks[0] 'Reachr-v5': env: unknown environment"),
        ("Reacher-v5", "reverie/Reachr-v5", "did you mean 'reverie/Reacher-v5'"),
        ("Reacher-v5", "no_such_pkg:Reacher-v5", "'no_such_pkg'. Install it"),
        ('env = "Reacher-v5"', "env = 3", "tasks[0]: env must be a text, got 3"),
        ('env = "Reacher-v5"', 'env = "Reacher-v5"\nname = "a.b"', "'a.b' has a dot"),
        ("agent.gamma", "agent.gama", "did you mean 'gamma'"),
        ("agent.gamma", "agnt.gamma", "did you mean 'agent'"),
        ("= 0.99", '= "0.99"', "arms[0] 'sac': set: agent.gamma must be a number, got '0.99'"),
        ("= 0.99", "= nan", "agent.gamma must be a finite number, got nan"),
        ("= 0.99", "= true", "agent.gamma must be a number, got True"),
        ('"agent.gamma" = 0.99', '"agent.hidden" = 256', "agent.hidden must be a list, got 256"),
        ('"agent.gamma" = 0.99', '"agent.hidden" = [2.5]', "hidden[0] must be a whole number"),
        ('"agent.gamma" = 0.99', '"agent.critic_norm" = "lyer"', "one of none, layer, batch"),
        ('"agent.gamma" = 0.99', "agent = 3", "agent must be a table of the settings"),
        ('"agent.gamma" = 0.99', "batch_size = -3", "for 'sac': batch_size must be from 1"),
        ('"agent.gamma" = 0.99', "steps = 0", "set: steps: got 0"),
        ('"agent.gamma" = 0.99', '"steps.x" = 0', "steps is a value, not a table"),
        ('"agent.gamma" = 0.99', "seed = 3", "seed cannot be set here: the suite's `seeds` do"),
        ('"agent.gamma" = 0.99', 'run.out = "x"', "run.out cannot be set here"),
        ('"agent.gamma" = 0.99', '"env" = "x"', "env cannot be set here: a task names it"),
        ("learning_starts = 100", "learning_starts = '100'",
         "'Reacher-v5': for 'sac': set: learning_starts must be a whole number, got '100'"),
        ("learning_starts", "learning_start", "did you mean 'learning_starts'"),
        ("learning_starts = 100", "steps = 100", "steps cannot be set here: the task's own"),
        ('name = "tiny"', 'name = "tiny"\nthresholds = 3', "thresholds must be a list, got 3"),
        ('name = "tiny"', 'name = "tiny"\nmetrics = []', "metrics: the list is empty"),
        ('name = "tiny"', 'name = "tiny"\nmetrics = [3]', "metrics[0] must be a text, got 3"),
        ('name = "tiny"', "name = ", "suite.toml: "),
        (ARMS, "arms = []\n", "arms: there is none"),
        ("[[tasks]]", "[tasks]", "tasks must be a list, got {"),
    ],
)  # fmt: skip
def test_a_wrong_suite_is_told_before_anything_starts(old, new, text, tmp_path, capsys):
    assert old in SUITE
    assert run(tmp_path, SUITE.replace(old, new, 1)) == 2
    err = capsys.readouterr().err
    assert text in err and "suite.toml" in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_two_tasks_of_one_environment_have_names_of_their_own(tmp_path):
    more = '[[tasks]]\nname = "slow"\nenv = "reverie/Reacher-v5"\nsteps = 300\n[[tasks]]'
    entries = read(tmp_path, SUITE.replace("[[tasks]]", more))
    assert len({e.path for e in entries}) == len(entries) == 8
    assert [e.key for e in entries[:4:2]] == ["sac/slow-s0", "sac/Reacher-v5-s0"]
    assert entries[0].config.env == "reverie/Reacher-v5" and entries[0].config.steps == 300
    assert "| slow | sac |" in table(entries) and "| Reacher-v5 | sac |" in table(entries)


def test_a_table_of_settings_leaves_the_rest_of_its_part(tmp_path):
    """TOML's own dots make tables: they set what they name, and not the defaults of all else."""
    text = SUITE.replace(
        'set = { "agent.gamma" = 0.99 }', 'preset = "redq"\nset = { agent.gamma = 1 }'
    )
    agent = read(tmp_path, text)[0].config.agent
    assert (agent.gamma, agent.critics) == (1, 10)


leaves = st.one_of(st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=4))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    where=st.sampled_from(["name", "seeds", "arms", "tasks", "metrics", "thresholds"]),
    value=leaves | st.lists(leaves | st.dictionaries(st.sampled_from(["name", "env"]), leaves)),
)
def test_whatever_a_suite_holds_it_is_read_or_refused_with_its_file(where, value, monkeypatch):
    import tomllib

    data = {**tomllib.loads(SUITE), where: value}
    monkeypatch.setattr("tomllib.loads", lambda text: data)
    try:
        parse_suite("", "the.toml")
    except ValueError as error:
        assert str(error).startswith("the.toml: ")
    finally:
        monkeypatch.undo()


def test_seeds():
    assert parse_seeds("0:3") == [0, 1, 2] and parse_seeds("5, 0,7") == [5, 0, 7]


def test_the_table_names_what_did_not_finish(tmp_path):
    jobs = read(tmp_path)
    assert table(jobs).count("0, 2 missing") == 2
    assert finals(jobs, "sac", "Reacher-v5") == {}


def test_a_seed_without_the_last_evaluation_is_named_and_not_averaged(tmp_path):
    """Seed 1 missed the evaluation at 200, seed 2 logged no return there."""
    jobs = read(tmp_path, SUITE.replace('"0:2"', '"0:3"'))
    made(jobs[0], [(100, 1.0), (200, 10.0)])
    made(jobs[1], [(100, 5.0)])
    made(jobs[2], [(100, 5.0), (200, float("nan"))])
    assert finals(jobs, "sac", "Reacher-v5") == {0: 10.0}
    assert "| sac | 10.0 | - | - | 1, 2 without the last evaluation |" in table(jobs)
    write_results(jobs, tmp_path / "results")
    assert last_rows(tmp_path / "results", "return")["sac"].tolist() == [[10.0]]


def test_curves_survive_seeds_with_other_evaluations(tmp_path, monkeypatch):
    """Their mean is at the steps that all of them have: 100 and 300, of (1, 3) and (2, 6)."""
    jobs = read(tmp_path, SUITE.replace("steps = 200", "steps = 300"))
    made(jobs[0], [(100, 1.0), (200, 9.0), (300, 2.0)])
    made(jobs[1], [(100, 3.0), (300, 6.0)])
    made(jobs[2], [(300, 0.0)])
    made(jobs[3], [(250, 0.0), (300, 1.0)])
    (tmp_path / "suite.toml").write_text(SUITE.replace("steps = 200", "steps = 300"))
    assert run(tmp_path, SUITE.replace("steps = 200", "steps = 300")) == 0
    picture = tmp_path / "results" / "tiny" / "curves.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    folder = str(tmp_path / "results" / "tiny")
    assert cli.main(["plot", folder, "--out", str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").read_bytes() == picture.read_bytes()  # from the small files
    monkeypatch.setattr(plots, "save_figure", lambda figure, out, dpi: figure)
    axes = plots.panels(read_results(tmp_path / "results" / "tiny"), picture).axes[0]
    thick = [line for line in axes.lines if line.get_linewidth() == 2]
    assert [line.get_xdata().tolist() for line in thick] == [[100, 300], [300]]
    assert [np.asarray(line.get_ydata()).tolist() for line in thick] == [[2.0, 4.0], [0.5]]
    assert axes.get_xlabel() == "environment steps"


def test_steps_to_a_threshold(tmp_path):
    frame = {"step": np.array([0, 10, 20]), "return": np.array([1.0, 5.0, 3.0])}
    assert steps_to(frame, 4) == 10 and steps_to(frame, 0) == 0
    assert np.isnan(steps_to(frame, 6)) and steps_to(frame, 3, [0, 20]) == 20
    jobs = read(tmp_path)
    made(jobs[0], [(100, 5.0), (150, 6.0), (200, 7.0)])
    made(jobs[1], [(100, 1.0), (200, 7.0)])  # at 150 nobody knows: read at 100 and 200 in both
    text = reach(jobs, [4, 5.5])
    assert (
        "| sac (not all seeds have all evaluations) | 150 (-485 to 785) | 200 (200 to 200) |"
        in text
    )
    shutil.rmtree(jobs[0].path)
    shutil.rmtree(jobs[1].path)
    made(jobs[0], [(100, 5.0), (200, 7.0)])
    made(jobs[1], [(100, 1.0), (200, 7.0)])
    assert "| sac | 150 (" in reach(jobs, [4])


def test_steps_have_the_unit_of_their_method(tmp_path):
    assert units(read(tmp_path)) == "environment steps"
    text = SUITE.replace('method = "peer"', "method = 'bc'\nset = { data = ['dataset:x'] }")
    mixed = read(tmp_path, text.replace("learning_starts = 100\n", ""))
    assert units(mixed) == "environment steps (sac), gradient steps (sb3)"
    for entry in mixed[2:]:
        made(entry)
    write_results(mixed, tmp_path / "results")
    kept = read_results(tmp_path / "results")
    figures = []
    save = plots.save_figure
    plots.save_figure = lambda figure, out, dpi: figures.append(figure)
    try:
        plots.panels(kept, tmp_path / "x.png")
        plots.curves([load_run(e.path) for e in mixed[2:]], tmp_path / "x.png")
    finally:
        plots.save_figure = save
    assert [f.axes[0].get_xlabel() for f in figures] == ["gradient steps"] * 2


def test_plot_sets_runs_apart_by_everything_but_the_seed(tmp_path):
    more = SUITE.replace(
        'name = "sb3"\nmethod = "peer"',
        '''name = "wide"
method = "sac"
set = { "agent.hidden" = [32, 32], "agent.gamma" = 0.99 }

[[arms]]
name = "droq"
method = "sac"
preset = "droq"

[[arms]]
name = "sb3"
method = "peer"''',
    )
    jobs = read(tmp_path, more)
    for job in jobs:
        made(job)
    runs = [load_run(job.path) for job in jobs]
    groups = plots.grouped(runs)
    assert [len(g) for g in groups.values()] == [2, 2, 2, 2]
    names = list(groups)
    assert names[0].startswith('sac Reacher-v5 utd=1.0 hidden=[256,256] critic_norm="none"')
    assert names[1].startswith("sac Reacher-v5 utd=1.0 hidden=[32,32]")
    assert 'critic_norm="layer"' in names[2] and "dropout=0.01" in names[2]
    assert names[3] == "peer Reacher-v5"
    assert list(plots.grouped(runs[:2])) == ["sac Reacher-v5"]


def test_files_are_whole_or_the_old_ones(tmp_path, monkeypatch):
    """Each writer, on a disk that refuses at the last moment, leaves what was there and no more."""
    jobs = read(tmp_path)
    for job in jobs:
        made(job)
    assert run(tmp_path) == 0
    entry, results = jobs[0], tmp_path / "results" / "tiny"
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    before = {p: p.read_bytes() for p in files}
    made_again = {**json.loads((entry.path / "stamp.json").read_text()), "status": "running"}

    def refuse(number):
        raise OSError("no space left")

    monkeypatch.setattr(aside.os, "fsync", refuse)
    for write in (
        lambda: save_config(entry.path / "config.json", "td3", entry.config),
        lambda: stamp.write(entry.path / "stamp.json", made_again),
        lambda: write_results(jobs[1:], results),
        lambda: plots.panels(read_results(results)[:1], results / "curves.png"),
        lambda: aside.write_text(results / "table.md", "x"),
    ):
        with pytest.raises(OSError, match="no space"):
            write()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_results_that_are_damaged_are_named(tmp_path):
    jobs = read(tmp_path)
    made(jobs[0])
    write_results(jobs, tmp_path / "results")
    path = tmp_path / "results" / "sac" / "Reacher-v5-s0.csv"
    for text in ("step,return,seed\n1,2\n", "step,return,seed\n1,x,0\n", "return\n3\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read_results(tmp_path / "results")
    path.write_text("step,return,seed\n1,2,0\n")
    path.with_suffix(".json").write_text("[]")
    with pytest.raises(ValueError, match=r"Reacher-v5-s0\.json is not a run's stamp"):
        read_results(tmp_path / "results")
    with pytest.raises(FileNotFoundError, match="no results"):
        read_results(tmp_path)


# -- names with dots, stamps that say nothing


def test_names_that_differ_after_a_dot_share_no_file(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(pool.subprocess, "Popen", lambda command, **own: started.append(command))
    engine, one = pool.LocalEngine(2, 1), read(tmp_path)[0]
    names = ["a.1", "a.2", "a"]
    for i, name in enumerate(names):
        config = dataclasses.replace(one.config, seed=i)
        engine._start(Job("sac", config, tmp_path / "of" / name))
    files = sorted(p.name for p in (tmp_path / "of").iterdir())
    assert files == sorted(f"{name}.{end}" for name in names for end in ("config.json", "log"))
    asked = [command[command.index("--config") + 1] for command in started]
    assert [read_config(Path(file))[1]["seed"] for file in asked] == [0, 1, 2]
    entry = dataclasses.replace(one, path=tmp_path / "of" / "a.1", seed=0)
    save_config(entry.path / "config.json", "sac", one.config)
    assert entry.departures() == []
    save_config(beside(entry.path, ".config.json"), "sac", read(tmp_path)[1].config)
    assert entry.departures() == ["seed is 1, the suite says 0"]


@pytest.mark.parametrize("data", [b"", b"[" * 100_000, b"[]", b'{"status": 3, "step": 200}'])
def test_a_damaged_stamp_hides_no_other_run(data, tmp_path, monkeypatch, capsys, caplog):
    jobs = read(tmp_path)
    for job in jobs:
        made(job)
    (jobs[0].path / "stamp.json").write_bytes(data)
    assert jobs[0].status() == DAMAGED
    monkeypatch.setattr(compare, "run_jobs", lambda jobs, engine, told: None)  # it goes on in vain
    assert run(tmp_path) == 1
    assert "3 of 4 runs are finished" in capsys.readouterr().out
    (told,) = [text for text in caplog.messages if "left out of" in text]
    assert told.startswith(f"{jobs[0].path}/stamp.json is damaged: ")
    assert len(read_results(tmp_path / "results" / "tiny")) == 3


def test_suites_of_ours_have_names(tmp_path, monkeypatch):
    """`reverie compare mbtl`: a suite for each method, found from any folder."""
    folder = HERE / "suites"
    for name in ("ncap", "oer", "synther", "mbtl", "dreams"):
        assert suite_file(name) == folder / f"{name}.toml"
    for path in folder.glob("*.toml"):
        suite, entries = read_suite(path, tmp_path)
        assert suite.name == path.stem and len(suite.arms) * len(suite.tasks) > 0 and entries
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ncap").write_text("")
    assert suite_file("ncap") == Path("ncap")  # a file of one's own comes first
    with pytest.raises(ValueError, match="did you mean 'mbtl'"):
        suite_file("mbtk")
    with pytest.raises(FileNotFoundError, match=r"mine/ncap\.toml: no such suite"):
        suite_file("mine/ncap.toml")
    with pytest.raises(FileNotFoundError, match=r"mbtl\.toml: no such suite"):
        suite_file("mbtl.toml")
