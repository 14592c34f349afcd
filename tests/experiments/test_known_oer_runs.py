"""`reverie oer`: every number of a run's rows, and which data, judge and policy belong together."""

import dataclasses

import numpy as np
import pytest
import torch
from known import Known, rows

from reverie.agents import TD3Config
from reverie.agents.dynamics import DynamicsConfig, DynamicsEnsemble
from reverie.agents.oer import keeping
from reverie.agents.oer.distilled import Actor, Distilled
from reverie.agents.oer.learner import OER, OERConfig
from reverie.agents.oer.memory import Kept
from reverie.agents.playing import EVAL_SEED, Evaluation, Stopped
from reverie.agents.seeding import stream_seed
from reverie.buffers import Card, Dataset, Transitions, load_dataset
from reverie.envs.families import members
from reverie.experiments import oer
from reverie.experiments.loops import continual
from reverie.experiments.loops.continual import Learning, report
from reverie.experiments.runs.config import RunOptions
from reverie.experiments.runs.stopping import Interrupted

FAMILY = "reverie/CheetahVel-v0"


LOW, HIGH = (-10.0, 0.0, 10.0), (0.0, 40.0, 20.0)  # returns of uniform actions and of experts


def card(task):
    return Card(env=FAMILY, random_return=LOW[task % 3], reference_return=HIGH[task % 3])


def data_of(task, about=None, n=20):
    """Rows of a task: its number t in every reward, states around 100 t."""
    g = torch.Generator().manual_seed(task)
    obs = 100.0 * task + torch.randn(n, 3, generator=g)
    ends = torch.zeros(n)
    ends[-1] = 1
    action = torch.full((n, 1), 0.1 * (task + 1))
    reward = torch.full((n,), float(task))
    return Dataset.of(
        Transitions(obs, action, reward, obs, torch.zeros(n), ends), about or card(task)
    )


def test_the_rows_of_a_matrix_are_normalised_by_each_tasks_own_references():
    """After two of three tasks: returns -4, 10 and then -7, 30, of -10 to 0 and of 0 to 40.

    Scores 0.6 and 0.25, then 0.3 and 0.75: the first task lost 0.3.
    """
    c = oer.Config(tasks=3, memory="replay", fidelity=("random", "online", "mbes"))
    data = [data_of(task) for task in range(3)]
    learner = OER(3, 1, 3, OERConfig(td3=TD3Config(hidden=(8, 8))), seed=0)
    for task in range(2):
        learner.begin(task, *data[task].moments())
        learner.remember(Kept(data[task].all.obs[:5], data[task].all.action[:5], 0))
    matrix = [[-4.0, 10.0, 1.0], [-7.0, 30.0, 2.0]]
    far = [{"random": 4.0, "online": 1.0, "mbes": 2.0}, {"random": 6.0, "online": 1.0, "mbes": 3.0}]
    s = Learning(learner, None, data, [], distances=far, matrix=matrix)
    row = report(c, s)
    scores = {
        "per": (0.3 + 0.75) / 2, "forgetting": 0.3, "forgetting_n": 0.15, "bwt": -0.3,
        "learned": (0.6 + 0.75) / 2, "nbt": 0.15,
    }  # fmt: skip
    distances = {"distance_random": 5, "distance_online": 1, "distance_mbes": 2.5}
    fidelity = {"fidelity_random": 0, "fidelity_online": 1, "fidelity_mbes": 2.5 / 4}
    assert row == pytest.approx({
        "task0": -7, "task1": 30, "task2": 2, "return": 11.5, "tasks_met": 2,
        # five rows of 3 + 1, a head of 8 + 1, moments of 3 and 3, for each of two tasks
        "bytes": 4 * 2 * (5 * 4 + 9 + 6), **distances, **fidelity, **scores,
    })  # fmt: skip
    first = report(c, Learning(learner, None, data, [], distances=far[:1], matrix=matrix[:1]))
    assert first["per"] == first["learned"] == pytest.approx(0.6) and first["forgetting"] == 0
    assert first["return"] == -4 and first["tasks_met"] == 1 and first["distance_mbes"] == 2
    nameless = [*data[:1], data_of(1, Card(env=FAMILY))]
    s.datasets = nameless
    assert "per" not in report(c, s)


@pytest.fixture
def sequence(tmp_path, monkeypatch):
    """A function that runs three tasks of four steps; what was seen, in `sequence.seen`."""
    seen = {"batches": [], "moments": [], "judges": [], "frozen": [], "kept": []}

    def make_judge(about, options, **kwargs):
        judge = Known([[2], [2]])
        judge.max_episode_steps = 2
        judge.number = len(seen["judges"]) % 3
        seen["judges"].append((about, options, kwargs))
        return judge

    def evaluate(policy, judge, *, seed, stop):
        assert seed == EVAL_SEED and not stop()
        frozen = isinstance(policy, Actor)  # known by the states that it is scaled to
        task = round(float(policy.mean.mean()) / 100) if frozen else policy.task
        seen["moments"].append((task, policy.mean if frozen else policy.policy.mean[task].clone()))
        seen["frozen"].append(frozen)
        value = 100.0 * task + judge.number  # of a policy of a task in a judge
        return Evaluation(np.full((2, 1), value), np.ones((2, 1), np.int64))

    real = OER.update

    def update(self, batch):
        seen["batches"].append((self.task, batch.reward.unique().tolist()))
        return real(self, batch)

    monkeypatch.setattr(oer, "task_data", lambda c, task, threads, stop: data_of(task))
    monkeypatch.setattr(oer, "make_judge", make_judge)
    monkeypatch.setattr(continual, "evaluate", evaluate)
    monkeypatch.setattr(OER, "update", update)
    remember = OER.remember

    def kept(self, memory):
        seen["kept"].append((self.task, memory))
        remember(self, memory)

    monkeypatch.setattr(OER, "remember", kept)
    monkeypatch.setattr(OER, "label", lambda self, obs, action: action)

    def go(name="run", resume=False, **changes):
        run = RunOptions(
            out=str(tmp_path), name=name, threads=1, log_every=2, eval_every=6, eval_episodes=2,
            checkpoint_every=6, tensorboard=False, progress=False,
        )  # fmt: skip
        settings = dict(
            env=FAMILY, tasks=3, steps=12, task_steps=4, batch_size=5, budget=6,
            selector="random", run=run, agent=OERConfig(td3=TD3Config(hidden=(8, 8), bc_alpha=2.5)),
        )  # fmt: skip
        return oer.main(oer.Config(**{**settings, **changes}), resume=resume)

    go.seen = seen
    return go


def test_each_task_is_learned_from_its_data_and_judged_in_its_worlds(sequence):
    result, seen = sequence(), sequence.seen
    assert seen["batches"] == [(t, [float(t)]) for t in (0, 1, 2) for _ in range(4)]
    assert [about for about, _, _ in seen["judges"]] == [card(t) for t in range(3)]
    assert {kwargs["num_envs"] for _, _, kwargs in seen["judges"]} == {2}
    # judged after steps 4, 6, 8 and 12: policy j in judge j; tasks that are not met yet see states
    # as the current one does
    now = [0, 1, 1, 2]
    want = [(j, float(min(j, t))) for t in now for j in range(3)]
    got = [(j, round(float(mean.mean()) / 100)) for j, mean in seen["moments"]]
    assert got == want
    assert continual.matrix_of(result.path).tolist() == [[0, 101, 202]] * 3
    assert result.evaluation.returns[:, 0].tolist() == [0, 0, 101, 101, 202, 202]
    for task, (at, memory) in enumerate(seen["kept"]):
        data = data_of(task).all
        kept = (data.obs[:, None] == memory.obs).all(-1).any(0)
        assert at == task and len(memory) == 6 and bool(kept.all())
        assert memory.label.unique().tolist() == pytest.approx([0.1 * (task + 1)])


def test_the_rows_of_a_sequence(sequence):
    path = sequence().path
    train = rows(path, "train")
    assert [(r["step"], r["task"]) for r in train] == [
        (2, 0), (4, 0), (6, 1), (8, 1), (10, 2), (12, 2),
    ]  # fmt: skip
    assert ["clone_loss" in r for r in train] == [False, False, True, True, True, True]
    tasks = rows(path, "task")
    assert [(r["step"], r["tasks_met"], r["return"]) for r in tasks] == [
        (4, 1, 0), (8, 2, 50.5), (12, 3, 101),
    ]  # fmt: skip
    # scores (0 + 10) / 10, 101 / 40, (202 - 10) / 10
    assert tasks[-1]["per"] == pytest.approx((1 + 101 / 40 + 19.2) / 3)
    assert tasks[-1]["forgetting"] == 0
    evals = rows(path, "eval")
    assert [(r["step"], r["tasks_met"], r["return"]) for r in evals] == [(6, 2, 50.5), (12, 3, 101)]
    assert evals[-1]["per"] == tasks[-1]["per"] and "per" not in evals[0]
    chosen = rows(path, "selection")
    assert chosen == []  # uniform rows have nothing to report


def test_a_run_goes_on_with_the_matrix_and_the_data_of_its_task(sequence):
    whole = sequence(name="whole").path
    sequence(name="cut", steps=6)
    before = len(sequence.seen["batches"])
    resumed = sequence(name="cut", resume=True)
    assert [t for t, _ in sequence.seen["batches"][before:]] == [1, 1, 2, 2, 2, 2]
    assert rows(resumed.path, "task") == rows(whole, "task")
    assert rows(resumed.path, "train")[-1] == rows(whole, "train")[-1]


def test_the_models_are_fitted_to_the_tasks_own_data_before_a_selector_uses_them(
    sequence, monkeypatch
):
    """Two steps of a fit for each of the three tasks, of draws of its own, on its own rows."""
    picks, fitted = [], []
    monkeypatch.setitem(keeping.SELECTORS, "mbes", lambda p: (picks.append(p), torch.arange(2))[1])
    real = DynamicsEnsemble.fit_step

    def fit_step(model, source, moments):
        draws = source.generator.initial_seed()
        loss = real(model, source, moments)
        fitted.append((draws, len(source), moments.reward.unique().tolist(), float(loss)))
        return loss

    monkeypatch.setattr(DynamicsEnsemble, "fit_step", fit_step)
    small = DynamicsConfig(members=2, hidden=(4,), steps=2, batch_size=8)
    path = sequence(selector="mbes", dynamics=small).path
    assert [f[:3] for f in fitted] == [
        (stream_seed(0, f"fit {t}"), 20, [float(t)]) for t in range(3) for _ in range(2)
    ]
    assert [p.data.all.reward[0].item() for p in picks] == [0, 1, 2]
    for t, p in enumerate(picks):
        rows_of = torch.cat([data_of(t).all.obs, data_of(t).all.action], 1)
        assert torch.allclose(p.model.mean_in, rows_of.mean(0), atol=1e-3)
        seed = stream_seed(stream_seed(0, f"models {t}"), "dynamics")
        assert p.model.generator.initial_seed() == seed and p.visited is None
    # written at every second step of the fit, which the run's own steps do not count
    fits = rows(path, "dynamics fit")
    assert [(r["step"], r["run_step"]) for r in fits] == [(2, 4), (2, 8), (2, 12)]
    assert [r["loss"] for r in fits] == [f[3] for f in fitted[1::2]]


def test_a_finished_task_is_played_by_its_distilled_policy(sequence):
    """Judged after steps 4, 6, 8 and 12, when 1, 1, 2 and 3 tasks are over."""
    path = sequence(memory="distilled", distilled_hidden=(4,), distilled_steps=2).path
    assert sequence.seen["frozen"] == [task < over for over in (1, 1, 2, 3) for task in range(3)]
    assert [(r["step"], r["run_step"]) for r in rows(path, "distillation")] == [
        (2, 4), (2, 8), (2, 12),
    ]  # fmt: skip
    # 3 x 4 + 4 + 4 + 1 weights and two moments of 3
    assert [r["bytes"] for r in rows(path, "task")] == [4 * 27, 8 * 27, 12 * 27]
    assert sequence.seen["kept"] == []


@pytest.mark.parametrize("at", [4, 6])
def test_a_sequence_goes_on_with_the_evaluation_in_which_it_was_stopped(at, sequence, monkeypatch):
    """Stopped in the evaluation at the end of the first task, or in the next task's middle."""
    whole = sequence(name="whole").path
    before, real, calls = len(sequence.seen["batches"]), continual.judge_all, []

    def stopped(c, s, stop):
        calls.append(s.learner.task)
        if len(calls) == (1 if at == 4 else 2):
            raise Stopped("in the middle")
        return real(c, s, stop)

    anchored, fix = [], oer.anchor
    monkeypatch.setattr(oer, "anchor", lambda x, *rest: (anchored.append(x.task), fix(x, *rest)))
    with monkeypatch.context() as m, pytest.raises(Interrupted):
        m.setattr(oer, "judge_all", stopped)
        sequence(name="cut")
    cut = sequence(name="cut", resume=True).path
    assert len(sequence.seen["batches"]) - before == 12 and anchored == [0, 1, 2]  # each once
    assert (cut / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert [task for task, _ in sequence.seen["kept"]] == [0, 1, 2] * 2


def test_who_plays_a_task():
    c = oer.Config(tasks=2, memory="distilled", distilled_hidden=(4,))
    learner = OER(3, 1, 2, OERConfig(), seed=0)
    distilled = Distilled(3, 1, (4,), 2)
    distilled.mean[0], distilled.done = torch.ones(3), 1
    s = Learning(learner, distilled, [], [])
    first, second = (continual.policy_of(c, s, task) for task in range(2))
    assert isinstance(first, Actor) and first.net is distilled.nets[0] and first.mean.tolist() == [
        1, 1, 1,
    ]  # fmt: skip
    assert second.policy is learner.policy and second.task == 1
    replay = dataclasses.replace(c, memory="replay")
    assert continual.policy_of(replay, s, 0).policy is learner.policy


def test_a_tasks_data_is_of_its_member_and_made_once(tmp_path, monkeypatch):
    made = []

    def collect_dataset(options, stop):
        made.append(options)
        return data_of(len(made))

    monkeypatch.setattr(continual, "collect_dataset", collect_dataset)
    c = oer.Config(
        env=FAMILY, policy=("random", "zoo:cheetah-vel-medium"), transitions=20, seed=3,
        data_folder=str(tmp_path), env_options={"max_episode_steps": 9},
    )  # fmt: skip
    first, again = continual.task_data(c, 2, 4), continual.task_data(c, 2, 4)
    assert len(made) == 1 and torch.equal(first.rows, data_of(1).rows)
    assert torch.equal(first.sample(9).obs, again.sample(9).obs)
    assert first.generator.initial_seed() == stream_seed(3, "data 2")
    o = made[0]
    velocity = float(members(FAMILY).table[2, 0])
    assert o.context == (f"velocity={velocity!r}",) and velocity == 1.575
    assert (o.env, o.policy, o.transitions, o.num_envs) == (FAMILY, c.policy, 20, 50)
    assert (o.seed, o.reference, o.threads) == (2, "zoo:cheetah-vel-medium", 4)
    assert o.env_options == {"max_episode_steps": 9}
    others = [
        dataclasses.replace(c, env_options={"max_episode_steps": 8}),
        dataclasses.replace(c, policy=("random",)),
        dataclasses.replace(c, transitions=21),
        dataclasses.replace(c, members="macaw0-4"),
    ]
    for other in others:
        continual.task_data(other, 2, 4)
    continual.task_data(c, 1, 4)
    assert len(made) == 6 == len(list(tmp_path.glob("*.json")))
    assert load_dataset(o.out).card.sha256 == first.card.sha256


def test_a_judge_is_like_the_worlds_that_were_recorded(monkeypatch):
    made = []
    monkeypatch.setattr(continual, "make", lambda env_id, **kwargs: made.append((env_id, kwargs)))
    about = Card(
        env=FAMILY, context={"velocity": 2.0}, max_episode_steps=7,
        env_options={"show_goal": False, "legacy_obs": True},
    )  # fmt: skip
    continual.make_judge(about, {"legacy_obs": False}, num_envs=3, threads=1)
    env_id, kwargs = made[0]
    assert env_id == FAMILY and kwargs.pop("context").table.tolist() == [[2]]
    assert kwargs == {
        "max_episode_steps": 7, "show_goal": False, "legacy_obs": False, "num_envs": 3,
        "threads": 1,
    }  # fmt: skip
