"""mu that is trained once for several runs of `reverie oer`, and sequences by their goals."""

import dataclasses

import pytest
import torch
from known import rows
from sequenced import FAMILY, data_of

from reverie.agents.oer.learner import OER, OERConfig
from reverie.agents.offline.iql import IQL, IQLConfig
from reverie.agents.td3 import TD3, TD3Config
from reverie.buffers import load_dataset
from reverie.experiments import load_policy, oer
from reverie.experiments.loops import continual, shared
from reverie.experiments.loops import sequence as sequences
from reverie.experiments.loops.continual import Learning
from reverie.experiments.runs import stopping
from reverie.experiments.runs.stopping import Interrupted

AGENT = OERConfig(td3=TD3Config(hidden=(8, 8), bc_alpha=2.5), mu_init="previous")
WAYS = {
    "td3bc": {"eval_every": 0, "agent": AGENT},
    "iql": {"eval_every": 0, "agent": AGENT, "learner": "iql", "iql": IQLConfig(hidden=(8, 8))},
}


def trained(monkeypatch):
    """Return the list that each update of a TD3 or IQL is counted in."""
    steps = []
    for kind in (TD3, IQL):
        real = kind.update

        def update(self, batch, real=real, **more):
            steps.append(1)
            return real(self, batch)

        monkeypatch.setattr(kind, "update", update)
    return steps


def same(one, other):
    """Whether two runs wrote the same rows and have the same policy."""
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()
    weights = [load_policy(path).policy.policy.state_dict() for path in (one, other)]
    return all(torch.equal(x, weights[1][name]) for name, x in weights[0].items())


@pytest.mark.parametrize("way", WAYS)
def test_a_mu_from_the_folder_is_the_one_that_each_would_have_trained(
    way, sequence, tmp_path, monkeypatch
):
    """No memory writes mu, random rows go by it: both as the runs that train their own."""
    alone = [sequence(name=f"{m}-alone", memory=m, **WAYS[way]).path for m in ("none", "replay")]
    folder, steps = str(tmp_path / "mu"), trained(monkeypatch)
    first = sequence(name="none", memory="none", mu_folder=folder, **WAYS[way]).path
    assert len(steps) == 12 and len(list((tmp_path / "mu").iterdir())) == 3
    second = sequence(name="replay", memory="replay", mu_folder=folder, **WAYS[way]).path
    assert len(steps) == 12
    assert same(alone[0], first) and same(alone[1], second) and not same_policy(first, second)


def same_policy(one, other):
    a, b = (load_policy(path).policy.policy.head_weight for path in (one, other))
    return torch.equal(a, b)


@pytest.mark.parametrize("known", [True, False])
def test_a_run_stopped_inside_a_task_goes_on(known, sequence, tmp_path, monkeypatch):
    """After step 6, in the second task, which it follows, or trains and then does not write."""
    folder = str(tmp_path / "mu")
    whole = sequence(name="whole", **WAYS["td3bc"]).path
    if known:
        sequence(name="writer", memory="none", mu_folder=folder, **WAYS["td3bc"])
    sequence(name="cut", steps=6, mu_folder=folder, **WAYS["td3bc"])
    steps = trained(monkeypatch)
    files = len(list((tmp_path / "mu").iterdir()))
    assert files == (3 if known else 1)
    cut = sequence(name="cut", resume=True, mu_folder=folder, **WAYS["td3bc"]).path
    assert len(steps) == (0 if known else 6)
    assert len(list((tmp_path / "mu").iterdir())) == (3 if known else 2)
    ends = [[r for r in rows(p, "task") if r["step"] > 4] for p in (whole, cut)]
    assert ends[0] == ends[1] and same_policy(whole, cut)


def test_a_mu_that_is_gone_or_damaged_is_named(sequence, tmp_path):
    settings = {"mu_folder": str(tmp_path / "mu"), **WAYS["td3bc"]}
    sequence(name="writer", **settings)
    sequence(name="cut", steps=6, **settings)
    (file,) = (tmp_path / "mu").glob("mu-s0-1-*")
    whole = file.read_bytes()
    file.unlink()
    with pytest.raises(ValueError, match="this file of mu and it is gone"):
        sequence(name="cut", resume=True, **settings)
    file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(ValueError, match="damaged, remove it"):
        sequence(name="other", **settings)
    file.write_bytes(whole[:100])
    with pytest.raises(ValueError, match="is no readable mu"):
        sequence(name="third", **settings)


def test_a_run_that_ended_is_played_without_the_file(sequence, tmp_path):
    settings = {"mu_folder": str(tmp_path / "mu"), **WAYS["td3bc"]}
    sequence(name="writer", **settings)
    sequence(name="run", **settings)
    for file in (tmp_path / "mu").iterdir():
        file.unlink()
    assert sequence(name="run", resume=True, **settings).evaluation is not None


def test_the_name_of_a_mu_is_of_all_that_it_depends_on_and_of_nothing_else():
    base = oer.Config(env=FAMILY, mu_folder="mu", agent=AGENT)
    learner = OER(3, 1, 3, AGENT, seed=0)

    def name(c, task=1, data=(0, 1)):
        learner.task = task
        return shared.path_of(c, Learning(learner, None, [data_of(t) for t in data], [])).name

    def changed(**fields):
        return dataclasses.replace(base, **fields)

    other = dataclasses.replace
    assert name(base) == name(changed(memory="none", budget=3, selector="match", steps=7))
    assert name(base) == name(changed(agent=other(AGENT, alpha=9.0, label="dataset")))
    assert name(base, 0, (0, 1)) == name(base, 0, (0, 2)) and name(base).startswith("mu-s0-1-")
    others = [
        name(base, 0), name(base, 1, (0, 2)), name(base, 1, (2, 1)),
        name(changed(learner="iql")), name(changed(learner="iql", iql=IQLConfig(expectile=0.8))),
        name(changed(agent=other(AGENT, mu_init="fresh"))), name(changed(seed=1)),
        name(changed(agent=other(AGENT, td3=other(AGENT.td3, bc_alpha=0.2)))),
        name(changed(batch_size=9)), name(changed(task_steps=9)),
    ]  # fmt: skip
    assert len({name(base), *others}) == 1 + len(others)


def test_what_cannot_be_shared_is_told(tmp_path):
    wrong = [
        ({"agent": OERConfig()}, "mu_init='pi'"),
        ({"agent": OERConfig(dbc=False, mu_init="previous")}, "agent.dbc=False"),
        ({"agent": AGENT, "run": dataclasses.replace(oer.Config().run, eval_every=99)}, "inside"),
    ]
    for change, text in wrong:
        with pytest.raises(ValueError, match=text):
            sequences.refuse(dataclasses.replace(oer.Config(), mu_folder="mu", **change))
    sequences.refuse(oer.Config(mu_folder="mu", agent=AGENT))
    with pytest.raises(ValueError, match="set both alike"):
        sequences.refuse(oer.Config(learner="iql", iql=IQLConfig(hidden=(8,))))


def test_goals_are_the_tasks_and_their_data_is_the_same_at_every_place(tmp_path, monkeypatch):
    made = []

    def collect_dataset(options, stop):
        made.append(options)
        return data_of(len(made))

    monkeypatch.setattr(continual, "collect_dataset", collect_dataset)
    c = oer.Config(
        env=FAMILY, policy=("random",), transitions=20, data_folder=str(tmp_path),
        goals=(1.575, 0.075), tasks=2,
    )  # fmt: skip
    first, second = (continual.task_data(c, t, 1) for t in range(2))
    assert [o.context for o in made] == [("velocity=1.575",), ("velocity=0.075",)]
    assert made[0].seed != made[1].seed
    turned = dataclasses.replace(c, goals=(0.075, 3.0, 1.575), tasks=3)
    assert torch.equal(continual.task_data(turned, 2, 1).rows, first.rows) and len(made) == 2
    assert torch.equal(continual.task_data(turned, 0, 1).rows, second.rows)
    continual.task_data(dataclasses.replace(c, goals=()), 0, 1)
    assert len(made) == 3 and made[2].context == ("velocity=0.075",) and made[2].seed == 0
    continual.task_data(dataclasses.replace(turned, data_folder=str(tmp_path / "other")), 2, 1)
    assert made[3].seed == made[0].seed and made[3].out.name == made[0].out.name
    assert load_dataset(made[0].out).card.sha256 == first.card.sha256
    with pytest.raises(ValueError, match="of the 2 goals"):
        sequences.refuse(dataclasses.replace(c, tasks=3, steps=10))
    with pytest.raises(ValueError, match="twice"):
        sequences.refuse(dataclasses.replace(c, goals=(1.0, 1.0), steps=10))


def test_a_sequence_of_goals_is_played_in_them(sequence):
    path = sequence(goals=(2.0, 0.5, 1.0)).path
    assert load_policy(path).config["context"] == ["velocity=1.0"]


def test_a_run_told_to_stop_while_mu_is_recorded_ends_as_the_whole(sequence, tmp_path, monkeypatch):
    settings = {"mu_folder": str(tmp_path / "mu"), **WAYS["iql"]}
    whole = sequence(name="whole", **WAYS["iql"]).path
    real, calls = shared.Tape.update, []

    def update(self, batch):
        calls.append(1)
        if len(calls) == 7:
            monkeypatch.setattr(stopping, "stop_asked", True)
        return real(self, batch)

    with monkeypatch.context() as m, pytest.raises(Interrupted):
        m.setattr(shared.Tape, "update", update)
        sequence(name="cut", **settings)
    monkeypatch.setattr(stopping, "stop_asked", False)
    cut = sequence(name="cut", resume=True, **settings).path
    assert same(whole, cut)
