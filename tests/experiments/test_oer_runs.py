"""`reverie oer`: what a run writes, what its controls keep, what it refuses."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import GENERATOR, config

from reverie.agents.oer.learner import OER, OERConfig
from reverie.agents.synther.diffusion import Diffusion
from reverie.buffers import Transitions, load_dataset
from reverie.experiments import load_policy, oer
from reverie.experiments.loops import continual
from reverie.experiments.loops.memories import MEMORIES, Memory


def after(matrix, distances, data, learner):
    """Return what `report` reads of a sequence after some tasks."""
    return SimpleNamespace(
        matrix=matrix,
        distances=distances,
        datasets=data,
        learner=learner,
        distilled=None,
    )


def rows(path, kind):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_the_matrix_has_a_row_for_each_task_and_the_memory_its_size(tmp_path):
    options = config("oer", tmp_path, "run", fidelity=("random", "online"))
    result = oer.main(options)
    matrix = continual.matrix_of(result.path)
    assert matrix.shape == (2, 2) and np.isfinite(matrix).all()
    assert np.allclose(matrix[-1].mean(), result.eval_return)
    tasks = rows(result.path, "task")
    one = 40 * (17 + 6) + 6 * 24 + 6 + 2 * 17  # rows with labels, a head, its scale
    assert [row["bytes"] for row in tasks] == [4 * one, 8 * one]
    assert [row["tasks_met"] for row in tasks] == [1, 2]
    chosen = rows(result.path, "selection")
    assert len(chosen) == 2
    assert all({"select_gate_fired", "select_snap", "select_starts"} <= row.keys()
               for row in chosen)  # fmt: skip
    final = rows(result.path, "eval")[-1]
    assert 0 < final["distance_online"] < final["distance_random"]
    notes = json.loads((result.path / "stamp.json").read_text())["notes"]
    assert len(notes["data 0"]) == 64 and notes["data 0"] != notes["data 1"]


def test_fidelity_is_0_for_random_rows_and_1_for_the_oracle(tmp_path):
    options = config("oer", tmp_path, "run", fidelity=("random", "online", "mbes"))
    data = [continual.task_data(options, task, 1) for task in range(2)]
    learner = OER(17, 6, 2, OERConfig(), seed=0)
    far = [{"random": 3.0, "online": 1.0, "mbes": 2.0}, {"random": 5.0, "online": 1.0, "mbes": 4.0}]
    row = continual.report(options, after([[0.0, 0.0]] * 2, far, data, learner))
    assert row["distance_mbes"] == 3
    assert [row[f"fidelity_{s}"] for s in options.fidelity] == [0, 1, pytest.approx(1 / 3)]
    same = [{"random": 1.0, "online": 1.0, "mbes": 1.0}] * 2
    assert "fidelity_mbes" not in continual.report(
        options, after([[0.0, 0.0]] * 2, same, data, learner)
    )


def test_a_distilled_policy_forgets_nothing(tmp_path):
    result = oer.main(config("oer", tmp_path, "run", memory="distilled", distilled_steps=50))
    matrix = continual.matrix_of(result.path)
    assert matrix[0, 0] == matrix[1, 0]
    final = rows(result.path, "task")[-1]
    assert final["bytes"] == 2 * 4 * (17 * 64 + 64 + 64 * 64 + 64 + 64 * 6 + 6 + 2 * 17)


@pytest.mark.slow
def test_scores_come_from_the_cards(tmp_path, monkeypatch):
    """With a reference policy, the metrics are normalised; here it is a run of SAC."""
    from reverie.experiments import sac

    seen = config(
        "sac", tmp_path, "expert", env="reverie/CheetahVel-v0", num_envs=2, steps=300,
        env_options={"show_goal": True}, context=("velocity=0.075,0.825",),
    )  # fmt: skip
    run = sac.main(seen).path
    options = config("oer", tmp_path, "run", policy=(str(run), "random"))
    options = dataclasses.replace(options, data_folder=str(tmp_path / "data"))
    final = rows(oer.main(options).path, "task")[-1]
    assert {"per", "forgetting", "forgetting_n", "bwt", "learned", "nbt"} <= final.keys()
    assert final["bwt"] == -final["forgetting"]
    kept = sorted((tmp_path / "data").glob("*.json"))
    assert len(kept) == 2
    before = [p.stat().st_mtime_ns for p in kept]
    oer.main(dataclasses.replace(options, run=dataclasses.replace(options.run, name="again")))
    assert [p.stat().st_mtime_ns for p in kept] == before  # made once


def test_a_memory_can_be_a_small_generator(tmp_path):
    """16 wide, one block, 8 of noise; a row has 17 + 6 + 1 + 17 columns: weights by hand."""
    options = config("oer", tmp_path, "run", memory="synther", generator=GENERATOR)
    result = oer.main(options)
    d, w, t = 17 + 6 + 1 + 17, 16, 8
    noise = 17 * t + t + t * t + t
    net = 8 + noise + (d * t + t) + (t * w + w) + (w * w + w) + (w * d + d)  # 8 frequencies
    head = 6 * 24 + 6 + 2 * 17
    assert rows(result.path, "task")[-1]["bytes"] == 2 * 4 * (net + 2 * d + head)
    fits = rows(result.path, "memory fit")
    assert [r["step"] for r in fits if r["run_step"] == 330] == [60, 70]
    last = rows(result.path, "train")[-1]
    assert "clone_loss" in last


def test_a_generator_is_of_labelled_rows(tmp_path, monkeypatch):
    """The rows that a task's model is fitted to: the data's, but for mu's own actions."""
    fitted, labels = [], []
    begin, label = Diffusion.begin, OER.label

    def began(self, given, updates=None):
        fitted.append(given.clone())
        begin(self, given, updates)

    def told(self, obs, action):
        labels.append(label(self, obs, action))
        return labels[-1]

    monkeypatch.setattr(Diffusion, "begin", began)
    monkeypatch.setattr(OER, "label", told)
    options = config("oer", tmp_path, "run", memory="synther", generator=GENERATOR)
    oer.main(options)
    for task, given in enumerate(fitted):
        data = continual.task_data(options, task, 1).all
        assert torch.equal(given[:, :17], data.obs) and len(fitted) == len(labels) == 2
        assert torch.equal(given[:, 17:23], labels[task])
        assert not torch.equal(labels[task], data.action)


class Around:
    """A memory of one's own: normal rows around a task's mean, labelled by one row of mu's."""

    def __init__(self, mean=None, label=None):
        self.mean, self.label = mean, label
        self.generator = torch.Generator().manual_seed(0)

    def sample(self, n):
        obs = self.mean + torch.randn(n, len(self.mean), generator=self.generator)
        zero = torch.zeros(n)
        return Transitions(obs, self.label.expand(n, -1), zero, obs, zero, zero)

    def state_dict(self):
        return {"rows": (self.mean, self.label), "generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.mean, self.label = state["rows"]
        self.generator.set_state(state["generator"])


@pytest.mark.slow
def test_a_source_of_ones_own_is_a_memory_and_resumes(tmp_path, monkeypatch):
    def of(run, c, s):
        data = s.datasets[s.learner.task]
        return Around(data.moments()[0], s.learner.mu(data.all.obs[:1])[0])

    with pytest.raises(ValueError, match="mine"):
        oer.main(config("oer", tmp_path, "unknown", memory="mine"))
    monkeypatch.setitem(MEMORIES, "mine", Memory(lambda c, layout: Around(), of))
    whole = oer.main(config("oer", tmp_path, "whole", memory="mine"))
    options = config("oer", tmp_path, "cut", memory="mine")
    inside = options.task_steps + options.task_steps // 2  # of the second task
    oer.main(dataclasses.replace(options, steps=inside))
    cut = oer.main(options, resume=True)
    one, two = ([r for r in rows(x.path, "train")] for x in (whole, cut))
    assert one[-1] == two[-1] and "clone_loss" in one[-1]
    last = rows(whole.path, "task")[-1]
    assert last == rows(cut.path, "task")[-1]
    # of each task: a mean and a label, a head of 24 units, its scale
    assert last["bytes"] == 2 * 4 * ((17 + 6) + (6 * 24 + 6) + 2 * 17)


@pytest.mark.parametrize("penalty", [pytest.param("ewc", marks=pytest.mark.slow),
    pytest.param("si", marks=pytest.mark.slow), "agem"])  # fmt: skip
def test_regularised_controls_run(penalty, tmp_path):
    agent = dataclasses.replace(
        config("oer", tmp_path, "x").agent, dbc=False, penalty=penalty, penalty_weight=10.0
    )
    memory = "replay" if penalty == "agem" else "none"
    options = config("oer", tmp_path, "run", agent=agent, memory=memory, selector="random")
    assert np.isfinite(continual.matrix_of(oer.main(options).path)).all()


def test_what_is_wrong_is_told_before_anything_is_written(tmp_path):
    cases = [
        ({"selector": "mbess"}, "did you mean 'mbes'"),
        ({"tasks": 6}, "of the 5 members"),
        ({"steps": 661}, "more than 2 tasks of 330"),
        ({"env": "reverie/Hopper-v5"}, "unknown family"),
        ({"agent": OERConfig(penalty="ewc")}, "set dbc=False"),
        ({"agent": OERConfig(merge_when="running")}, "set agent.merge too"),
        ({"agent": OERConfig(penalty="exssnet"), "memory": "none"}, "no mask yet"),
        ({"agent": OERConfig(dbc=False, penalty="agem"), "memory": "none"}, "needs memory"),
    ]
    for change, text in cases:
        with pytest.raises(ValueError, match=text):
            oer.main(config("oer", tmp_path, "run", **change))
    assert not (tmp_path / "run").exists()


def test_in_the_first_task_what_is_judged_is_mu(tmp_path):
    """pi is written when the task ends; before, it must not be shown as it was drawn."""
    cut = config("oer", tmp_path, "run", steps=300)
    path = oer.main(cut).path
    returns = [row["return"] for row in rows(path, "eval")]
    assert len(set(returns)) == len(returns) == 2
    assert load_policy(path).config["context"] == ["velocity=0.075"]
    whole = load_policy(oer.main(config("oer", tmp_path, "whole")).path)
    assert whole.config["context"] == ["velocity=0.825"]  # the last task's


def test_the_data_of_two_tasks_is_not_the_same_play(tmp_path):
    options = config("oer", tmp_path, "run")
    one, two = (continual.task_data(options, task, 1).all for task in range(2))
    assert not torch.equal(one.action, two.action) and not torch.equal(one.obs, two.obs)


def test_a_run_does_not_go_on_with_other_data(tmp_path):
    options = config("oer", tmp_path, "run", data_folder=str(tmp_path / "data"))
    oer.main(dataclasses.replace(options, steps=300))
    for path in (tmp_path / "data").glob("*-0-*.safetensors"):
        data = load_dataset(path)
        data.head(200).save(path.with_suffix(""))
    with pytest.raises(ValueError, match="was begun with other data"):
        oer.main(options, resume=True)


def test_a_comparison_keeps_the_whole_matrix(tmp_path):
    from reverie.experiments.studies.results import write_results
    from reverie.experiments.studies.suite import Arm, Entry

    options = config("oer", tmp_path, "run")
    path = oer.main(options).path
    job = Entry(Arm("mbes", "oer", {}), options.env, 0, options, path)
    write_results([job], tmp_path / "results")
    lines = (tmp_path / "results" / "mbes" / "CheetahVel-v0-s0.tasks.csv").read_text().split()
    named = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    got = [[float(row["task0"]), float(row["task1"])] for row in named]
    assert np.array_equal(got, continual.matrix_of(path))
