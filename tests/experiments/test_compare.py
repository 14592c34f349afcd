"""`reverie compare`: suites are run, resumed after a kill, and written down."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import offline_data

from reverie.experiments import cli, load_run
from reverie.experiments.runs.config import save_config
from reverie.experiments.studies.groups import jobs_of
from reverie.experiments.studies.results import last_rows
from reverie.experiments.studies.suite import read_suite

SUITE = """
name = "tiny"
seeds = "0:2"
metrics = ["return", "length", "nothing"]

[[arms]]
name = "sac"
method = "sac"

[[arms]]
name = "td3-layer"
method = "td3"
set = { "agent.critic_norm" = "layer", "agent.hidden" = [16, 16], batch_size = 16 }

[[arms]]
name = "sb3"
method = "peer"
set = { hidden = [16, 16] }

[[tasks]]
env = "Reacher-v5"
steps = 200
[tasks.set]
learning_starts = 100
"run.eval_every" = 100
"run.eval_episodes" = 2
"run.checkpoint_every" = 50
"run.tensorboard" = false
"""


TWO = SUITE[: SUITE.index("[[arms]]")] + SUITE[SUITE.index('[[arms]]\nname = "td3') :]
ALONE = SUITE[: SUITE.index('[[arms]]\nname = "td3')] + SUITE[SUITE.index("[[tasks]]") :]


def write(tmp_path, text=SUITE):
    path = tmp_path / "suite.toml"
    path.write_text(text)
    return path


def test_a_suite_runs_and_is_written_down(tmp_path, capsys, forks):
    suite = write(tmp_path, TWO)
    args = ["compare", str(suite), "--jobs", "2", "--out", str(tmp_path / "runs")]
    args += ["--results", str(tmp_path / "results")]
    assert cli.main(args) == 0
    text = capsys.readouterr().out
    assert "0 of 4 runs are finished" in text
    for arm in ("td3-layer", "sb3"):
        assert f"| Reacher-v5 | {arm} | -" in text
        assert f"| Reacher-v5 | {arm} | 50.0 | 50.0 to 50.0 | 50.0 | 2 |" in text
        assert f"| Reacher-v5 | {arm} | - | - | - | 0 |" in text  # no column of that name
        for seed in (0, 1):
            target = tmp_path / "results" / "tiny" / arm / f"Reacher-v5-s{seed}.csv"
            rows = list(csv.reader(target.open()))
            assert rows[0] == ["step", "return", "seed", "std", "length"]
            assert [r[0] for r in rows[1:]] == ["100", "200"]
            stamp = json.loads(target.with_suffix(".json").read_text())
            assert stamp["status"] == "finished" and stamp["seed"] == seed
    asked = tmp_path / "runs" / "tiny" / "td3-layer" / "Reacher-v5-s0.config.json"
    assert json.loads(asked.read_text())["config"]["steps"] == 200  # what an edit is held against
    layer = load_run(tmp_path / "runs" / "tiny" / "td3-layer" / "Reacher-v5-s0")
    assert layer.config["agent"]["critic_norm"] == "layer"
    assert (tmp_path / "results" / "tiny" / "curves.png").stat().st_size > 5000
    folder = tmp_path / "results" / "tiny"
    (folder / "sb3" / "Reacher-v5-s0.tasks.csv").write_text("step,return\n1,2\n")  # no result
    ends = last_rows(folder, "step", "length")
    assert {arm: rows.tolist() for arm, rows in ends.items()} == {
        arm: [[200.0, 50.0]] * 2 for arm in ("td3-layer", "sb3")
    }
    draw = ["plot", str(folder), "--against", "step", "--out", str(tmp_path / "cost.png")]
    assert cli.main(draw) == 0 and (tmp_path / "cost.png").stat().st_size > 5000
    assert cli.main([*draw, "--metric", "nothing"]) != 0
    assert cli.main(args) == 0  # nothing is left to do
    assert "4 of 4 runs are finished" in capsys.readouterr().out


def alive(folder):
    """Whether a process has the folder among its arguments."""
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in line.read_bytes():
                return True
        except OSError:  # it ended meanwhile
            continue
    return False


@pytest.mark.slow  # parents that are killed: tests/faults/test_stops.py
def test_a_killed_suite_goes_on(tmp_path):
    suite = write(tmp_path, ALONE.replace("steps = 200", "steps = 600"))
    args = [
        str(suite),
        "--jobs",
        "2",
        "--out",
        str(tmp_path / "runs"),
        "--results",
        str(tmp_path / "r"),
    ]
    command = [sys.executable, "-m", "reverie", "compare", *args]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    points = tmp_path / "runs" / "tiny" / "sac" / "Reacher-v5-s0" / "checkpoints"
    deadline = time.time() + 60
    while not points.exists() and time.time() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _, jobs = read_suite(suite, tmp_path / "runs")
    while alive(tmp_path / "runs") and time.time() < deadline:
        time.sleep(0.1)  # a child whose parent is gone saves and stops
    assert {j.status() for j in jobs} <= {"interrupted", "missing", "finished"}
    assert cli.main(["compare", *args]) == 0
    assert {j.status() for j in jobs} == {"finished"}
    whole = write(tmp_path, ALONE.replace("steps = 200", "steps = 600").replace("tiny", "whole"))
    assert cli.main(["compare", str(whole), *args[1:]]) == 0
    for seed in (0, 1):
        pair = [tmp_path / "runs" / n / "sac" / f"Reacher-v5-s{seed}" for n in ("tiny", "whole")]
        a, b = ((p / "metrics.jsonl").read_bytes() for p in pair)
        assert a == b


@pytest.mark.slow
def test_the_seeds_of_an_arm_are_one_population(tmp_path, capsys, forks):
    """Also after a kill: the same command goes on with the group, and its runs count as any do."""
    suite, out = write(tmp_path, ALONE.replace("steps = 200", "steps = 100")), tmp_path / "runs"
    args = ["compare", str(suite), "--out", str(out), "--results", str(tmp_path / "results")]
    assert cli.main([*args, "--population"]) == 0
    group = out / "tiny" / "sac" / "Reacher-v5-p0-1"
    assert load_run(group).stamp["step"] == 100 and (group / "checkpoints").is_dir()
    suite = write(tmp_path, ALONE)  # twice as long, of three seeds: the group goes on
    suite.write_text(suite.read_text().replace('"0:2"', '"0:3"'))
    assert cli.main(args) == 0
    assert "3 of 3" not in capsys.readouterr().out
    assert load_run(group).stamp["step"] == 200
    for seed in range(3):
        run = load_run(out / "tiny" / "sac" / f"Reacher-v5-s{seed}")
        assert run.stamp["status"] == "finished" and run.stamp["step"] == 200
        assert ("population" in run.stamp) == (seed < 2)
        with (tmp_path / "results" / "tiny" / "sac" / f"Reacher-v5-s{seed}.csv").open() as file:
            last = list(csv.DictReader(file))[-1]
        assert float(last["return"]) == pytest.approx(run.frame()["return"][-1], rel=1e-6)


@pytest.mark.slow
def test_the_seeds_of_an_offline_arm_are_one_population(tmp_path, capsys, forks):
    """What the data fills in of a member's configuration is no departure from the suite."""
    text = f"""
        name = "data"
        seeds = "0:2"
        [[arms]]
        name = "iql"
        method = "iql"
        set = {{ data = ["dataset:{offline_data()}"], batch_size = 8, "agent.hidden" = [8] }}
        [[tasks]]
        env = "reverie/Reacher-v5"
        steps = 20
        set = {{ "run.eval_episodes" = 1 }}
    """
    suite, out = write(tmp_path, text), tmp_path / "runs"
    args = ["compare", str(suite), "--out", str(out), "--results", str(tmp_path / "results")]
    assert cli.main([*args, "--population"]) == 0
    runs = [load_run(out / "data" / "iql" / f"Reacher-v5-s{seed}") for seed in range(2)]
    assert [r.stamp["status"] for r in runs] == ["finished"] * 2
    assert all(r.config["env_options"] and "population" in r.stamp for r in runs)
    assert len({r.frame("train")["critic_loss"][-1] for r in runs}) == 2
    capsys.readouterr()
    assert cli.main(args) == 0 and "2 of 2 runs are finished" in capsys.readouterr().out


def test_groups_of_a_suite(tmp_path):
    """Two arms of two seeds: one job each; what was begun alone, or diverged together, is not."""
    _, entries = read_suite(write(tmp_path), tmp_path / "runs")
    states = {e.path: "missing" for e in entries}
    assert len(jobs_of(entries, states, False)) == 6
    work = jobs_of(entries, states, True)
    assert [len(own) for _, own in work] == [1, 1, 2, 2]  # sb3's two, then sac and td3
    assert {job.method for job, _ in work} == {"peer", "population"}
    job = work[2][0]
    assert job.path.name == "Reacher-v5-p0-1" and job.config.seeds == (0, 1)
    states[entries[0].path] = "interrupted"
    assert [len(own) for _, own in jobs_of(entries[:2], states, True)] == [1, 1]
    for e in entries[:2]:
        e.path.mkdir(parents=True)
        (e.path / "stamp.json").write_text(json.dumps({"population": str(job.path)}))
    job.path.mkdir()
    save_config(job.path / "config.json", "population", job.config)
    again = jobs_of(entries[:2], states, False)
    assert [(j.path, len(own)) for j, own in again] == [(job.path, 2)]
    states.update({e.path: "diverged" for e in entries[:2]})
    assert jobs_of(entries[:2], states, True) == []
