"""What a run counts, saves and owes, and what a resume may change, worked out by hand."""

import dataclasses
import json

import numpy as np
import pytest
from known import a_begun_run, a_run, options, rows

from reverie.agents.playing import Evaluation, Stopped
from reverie.experiments import sac
from reverie.experiments.runs import checkpoint, stopping
from reverie.experiments.runs.sameness import changes, flat, lasting
from reverie.experiments.runs.stopping import Interrupted


def judge():
    return Evaluation(np.array([[7.0]]), np.array([[3]]))


def saved(path):
    """Return step and steps of phases of each checkpoint, as its name says them."""
    names = [p.name.split("-")[1:] for p in checkpoint.list_checkpoints(path / "checkpoints")]
    return [tuple(int(x) for x in name) for name in names]


def newest(path):
    return checkpoint.load(path / "checkpoints", path / "buffer").state


def written(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["kind"]) for line in lines]


# -- a step


def test_a_step_is_judged_then_written_then_saved_each_when_due(tmp_path):
    """Steps of two: rows each 3, judged each 4, saved each 5; all of it at the end."""
    told, judged = [], []

    def tell(what, value):
        return lambda: (told.append((run.step, what)), value)[1]

    with a_begun_run(options(tmp_path, steps=10, log=3, judge=4, save=5)) as run:
        for _ in range(5):
            run.tick(2)
            steps = tell("judge", judge()), tell("row", {"a": 1}), tell("state", {})
            judged.append(run.after_step(*steps))
    assert told == [
        (4, "judge"), (4, "row"), (6, "row"), (6, "state"), (8, "judge"),
        (10, "judge"), (10, "row"), (10, "state"),
    ]  # fmt: skip
    assert [j is not None for j in judged] == [False, True, False, True, True]
    assert written(run.path) == [
        (4, "train"), (4, "eval"), (6, "train"), (8, "eval"), (10, "train"), (10, "eval"),
    ]  # fmt: skip
    assert saved(run.path) == [(6,), (10,)] and rows(run.path, "eval")[0]["return"] == 7


def test_a_stop_inside_an_evaluation_leaves_all_that_follows_the_step_to_a_resume(tmp_path):
    config = options(tmp_path, steps=12, log=4, judge=4, save=100)

    def stopped():
        raise Stopped("in the middle")

    with pytest.raises(Interrupted), a_begun_run(config) as run:
        run.tick(3)
        run.tick(3)
        run.after_step(stopped, lambda: {"a": 1}, lambda: {"x": 5})
    assert written(run.path) == [] and saved(run.path) == [(6,)]
    assert newest(run.path)["run"]["owed"] is True
    with a_run(config, resume=True) as run:
        with run.restored() as state:
            assert state["x"] == 5
        assert (run.step, run.previous, run.owed) == (6, 3, True)
        assert run.after_step(judge, lambda: {"a": 1}, lambda: {"x": 0}).mean == 7
        assert written(run.path) == [(6, "train"), (6, "eval")] and not run.owed
        # of the same step, but nothing is owed any more: written anew, and then not again
        assert run.save({"x": 6}) and newest(run.path)["x"] == 6
        assert run.save({"x": 7}) and newest(run.path)["x"] == 6
    assert newest(run.path)["run"]["owed"] is False and saved(run.path) == [(6,)]


# -- phases


def test_a_phase_counts_while_the_runs_step_stands_still(tmp_path):
    """Nine steps in threes: a multiple of 5 is crossed at 6, and the phase is over at 9."""
    with a_begun_run(options(tmp_path, steps=20, save=5)) as run:
        run.tick(4)
        seen = []
        with run.phase("fit", 9) as fit:
            while fit.step < fit.steps:
                fit.tick(3)
                seen.append((fit.step, fit.due(5), fit.due(0)))
                if fit.due(5):
                    fit.log({"loss": 0.5})
                run.keep(lambda: {})
        assert seen == [(3, False, False), (6, True, False), (9, True, True)]
        assert (run.step, run.inner, run.inside) == (4, 9, {"fit": 9}) and run.owed
        assert saved(run.path) == [(4, 6), (4, 9)]
        run.tick(1)
        run.keep(lambda: {})  # the run's own step counts again: 5 is crossed, nothing owed
        assert saved(run.path) == [(4, 9), (5, 9)] and not run.owed and run.inside == {}
    assert [(r["step"], r["run_step"], r["loss"]) for r in rows(run.path, "fit")] == [
        (6, 4, 0.5), (9, 4, 0.5),
    ]  # fmt: skip


def test_a_stop_inside_a_phase_is_gone_on_from_where_it_was(tmp_path, monkeypatch):
    """Told to stop at 2 of 4 steps of the second phase; at its last step nothing is left of it."""
    config = options(tmp_path, steps=10)
    with pytest.raises(Interrupted), a_begun_run(config) as run:
        run.tick(5)
        with run.phase("fit", 3) as fit:
            fit.tick(3)
            run.keep(lambda: {})
        with run.phase("other", 4) as other:
            assert other.step == 0
            other.tick(2)
            monkeypatch.setattr(stopping, "stop_asked", True)
            run.keep(lambda: {})
    assert saved(run.path) == [(5, 3), (5, 5)]
    monkeypatch.setattr(stopping, "stop_asked", False)
    with a_run(config, resume=True) as run:
        monkeypatch.setattr(stopping, "stop_asked", True)
        with run.restored():
            pass
        assert run.owed and (run.step, run.inner) == (5, 5)
        with run.phase("fit", 3) as fit:
            assert fit.step == fit.previous == 3
        with run.phase("other", 4) as other:
            assert other.step == other.previous == 2
            other.tick(2)
            run.keep(lambda: {})
        assert run.inner == 7 and run.inside == {"fit": 3, "other": 4}
        run.tick(5)
        with run.phase("fit", 3) as fit:  # of another step
            assert fit.step == 0
        run.keep(lambda: {})  # told to stop, but the run is over
    assert saved(run.path) == [(5, 7), (10, 7)]
    assert json.loads((run.path / "stamp.json").read_text())["status"] == "finished"


# -- what a resume may change


def with_run(config, **changes):
    return dataclasses.replace(config, run=dataclasses.replace(config.run, **changes))


def with_agent(config, **changes):
    return dataclasses.replace(config, agent=dataclasses.replace(config.agent, **changes))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: dataclasses.replace(c, steps=9), None),
        (lambda c: with_run(c, out="elsewhere", log_every=3, keep=5, threads=2), None),
        (lambda c: with_run(c, device="cuda"), "run.device: 'cpu' -> 'cuda'"),
        (lambda c: dataclasses.replace(c, seed=4), "seed: 0 -> 4"),
        (
            lambda c: dataclasses.replace(c, context=("gravity=1",)),
            "context: [] -> ['gravity=1']",
        ),
        (
            lambda c: dataclasses.replace(c, data=("dataset:a:0.5",)),
            "data: ['replay:1.0'] -> ['dataset:0.5']",
        ),
        (lambda c: with_agent(c, tau=0.5), "agent.tau: 0.005 -> 0.5"),
        (lambda c: with_run(with_agent(c, tau=0.5), log_every=3), "agent.tau: 0.005 -> 0.5"),
    ],
)
def test_a_resume_may_change_steps_and_the_runs_own_options(change, told):
    config = sac.Config()
    found = changes(lasting(config), change(config))
    assert found == ([] if told is None else [told])


def test_a_setting_that_comes_or_goes_is_a_change():
    """One that is gone, one that is new, and one that is new with its default."""

    @dataclasses.dataclass(frozen=True)
    class Settings:
        steps_ahead: int = 1
        new: int = 3

    assert changes({"steps_ahead": 1, "gone": 2, "new": 3}, Settings()) == ["gone: 2 -> not there"]
    assert changes({"steps_ahead": 2}, Settings()) == ["steps_ahead: 2 -> 1"]
    assert changes({"steps_ahead": 1}, Settings()) == []
    assert changes({"steps_ahead": 1}, Settings(new=4)) == ["new: not there -> 4"]


def test_data_may_lie_elsewhere_but_not_be_another():
    """Paths are not compared, digests are; kinds and shares are."""
    one = dataclasses.replace(sac.Config(), data=("replay:0.5", "dataset:a:0.5"))
    moved = dataclasses.replace(one, data=("replay:0.5", "dataset:/b/c:0.5"))
    other = dataclasses.replace(one, data=("replay:0.5", "dataset:a:0.25"))
    assert changes(lasting(one), moved) == []
    assert changes(lasting(one), other) == [
        "data: ['replay:0.5', 'dataset:0.5'] -> ['replay:0.5', 'dataset:0.25']"
    ]


def test_settings_by_their_dotted_names():
    tree = {"a": {"b": 1, "c": {}, "d": {"e": [2, 3]}}, "f": None}
    assert flat(tree) == {"a.b": 1, "a.c": {}, "a.d.e": [2, 3], "f": None}


def test_a_resume_must_have_the_data_that_the_run_was_begun_with(tmp_path):
    """Kept from checkpoint to checkpoint, so that a third process is told too."""
    ours, other = "a" * 64, "b" * 64
    for steps in (4, 8):
        with a_run(options(tmp_path, steps=steps), resume=steps > 4) as run:
            run.home.same(data=ours)
            with run.restored():
                pass
            run.tick(4)
            run.save({})
        assert json.loads((run.path / "stamp.json").read_text())["notes"]["data"] == ours
        again = a_run(options(tmp_path, steps=steps), resume=True)
        with pytest.raises(ValueError, match="data was aaaaaaaaaaaa and is bbbbbbbbbbbb"), again:
            again.home.same(data=other)
