"""Schedules of many runs on nodes that fail, by hand."""

import json

import pytest

from reverie.experiments.studies.schedule import (
    Cluster,
    lengths_of,
    main,
    poisson,
    progress,
    simulate,
    wall,
)

ONE = Cluster(nodes=1, seats=1, repair=50.0, notice=30.0, begin=5.0, save=1.0)


def at(*times):
    """Node 0 fails at these seconds; others never."""
    return lambda node: iter(times if node == 0 else ())


def test_time_goes_into_work_and_checkpoints():
    assert wall(100, 30, 1) == 103 and wall(90, 30, 1) == 92 and wall(30, 30, 1) == 30
    assert progress(31, 30, 1) == (30, 30)  # saved at the 31st second, not before
    assert progress(30.5, 30, 1) == (30, 0)
    assert progress(72, 30, 1) == (70, 60)


def test_without_failures_jobs_follow_each_other():
    made = simulate([100, 20], ONE, 30, at())
    assert made.makespan == (5 + 103) + (5 + 20)
    assert (made.work, made.lost, made.saving, made.failures) == (120, 0, 3, 0)


def test_a_lost_node_costs_the_work_since_the_newest_checkpoint():
    """Down at 77: 72 s of running, 70 done, 60 saved; back at 127 with 40 to do and one save."""
    made = simulate([100], ONE, 30, at(77.0, 100.0))
    assert made.makespan == 127 + 5 + 41
    assert (made.lost, made.saving, made.failures) == (10, 2 + 1, 1)  # at 100 it was away


def test_a_job_goes_on_on_another_node_before_those_that_wait():
    """Of two seats: 0 is lost at 25, its job is handed out at 55, and has seat 1 at 65."""
    two = Cluster(nodes=2, seats=1, repair=1000.0, notice=30.0, begin=5.0, save=1.0)
    made = simulate([90, 60, 10], two, 60, at(25.0))
    assert made.lost == 20 and made.saving == 1
    assert made.makespan == 65 + (5 + 91) + (5 + 10)
    made = simulate([90, 10], two, 60, at(25.0))  # a seat is free from 15 on, the job from 55
    assert made.makespan == 55 + (5 + 91)


def test_failures_come_as_often_as_is_said():
    times = poisson(100.0, 3)(0)
    last = [next(times) for _ in range(4000)][-1]
    assert last / 4000 == pytest.approx(100, rel=0.05)
    assert next(poisson(100.0, 3)(1)) != next(poisson(100.0, 3)(0)) == next(poisson(100.0, 3)(0))


def test_lengths_are_of_finished_runs_and_the_figure_is_drawn(tmp_path, capsys):
    stamps = tmp_path / "stamps"
    stamps.mkdir()
    clock = "2026-11-28T12:00:{:02d}+00:00".format
    for i, status in enumerate(("finished", "failed", "finished")):
        stamp = {"started": clock(0), "updated": clock(10 + i), "status": status, "notes": {}}
        (stamps / f"{i}.json").write_text(json.dumps(stamp))
    (stamps / "3.json").write_text(json.dumps({**stamp, "notes": {"resumed with": "x"}}))
    (stamps / "card.json").write_text('{"task": "x"}')
    assert lengths_of([stamps]) == [10, 12]
    small = ["--runs", "4", "--nodes", "2", "--seats", "1", "--longer", "1", "--schedules", "1"]
    assert main([str(stamps), *small, "--out", str(tmp_path / "s")]) == 0
    assert "2 stamps; 4 runs on 2 x 1 seats" in capsys.readouterr().out
    assert (tmp_path / "s.png").stat().st_size > 5000
    stamp = json.loads((tmp_path / "s.json").read_text())
    assert (stamp["lengths"], stamp["runs"], stamp["nodes"]) == (2, 4, 2) and stamp["revision"]
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 11
    with pytest.raises(ValueError, match="give a folder of results"):
        main([str(tmp_path / "none")])
