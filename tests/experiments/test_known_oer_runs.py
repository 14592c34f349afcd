"""`reverie oer`: every number of a run's rows, and which data, judge and policy belong together."""

import dataclasses

import pytest
import torch
from known import rows
from sequenced import FAMILY, card, data_of

from reverie.agents import TD3Config
from reverie.agents.actors import ActorPolicy
from reverie.agents.dynamics import DynamicsConfig, DynamicsEnsemble
from reverie.agents.oer import keeping
from reverie.agents.oer.distilled import Distilled
from reverie.agents.oer.exssnet import ExSSNeT
from reverie.agents.oer.learner import OER, OERConfig
from reverie.agents.oer.memory import Kept
from reverie.agents.oer.packnet import PackNet
from reverie.agents.playing import Stopped
from reverie.agents.seeding import stream_seed
from reverie.buffers import Card, load_dataset
from reverie.envs.families import members
from reverie.experiments import load_policy, oer
from reverie.experiments.loops import continual, ending
from reverie.experiments.loops.continual import Learning, report
from reverie.experiments.runs.stopping import Interrupted


def same_policy(one, other):
    a, b = (load_policy(path).policy.policy.state_dict() for path in (one, other))
    return all(torch.equal(x, b[name]) for name, x in a.items())


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
        "learned": (0.6 + 0.75) / 2, "nbt": 0.15, "old_tasks": 0.3, "score0": 0.3, "score1": 0.75,
    }  # fmt: skip
    distances = {"distance_random": 5, "distance_online": 1, "distance_mbes": 2.5}
    fidelity = {"fidelity_random": 0, "fidelity_online": 1, "fidelity_mbes": 2.5 / 4}
    assert row == pytest.approx({
        "task0": -7, "task1": 30, "task2": 2, "return": 11.5, "tasks_met": 2,
        # five rows of 3 + 1, a head of 8 + 1, moments of 3 and 3, for each of two tasks
        "bytes": 4 * 2 * (5 * 4 + 9 + 6),
        # and a trunk of 3 x 8 + 8 + 8 x 8 + 8
        "bytes_total": 4 * 2 * (5 * 4 + 9 + 6) + 4 * 104, **distances, **fidelity, **scores,
    })  # fmt: skip
    first = report(c, Learning(learner, None, data, [], distances=far[:1], matrix=matrix[:1]))
    assert first["per"] == first["learned"] == pytest.approx(0.6) and first["forgetting"] == 0
    assert first["return"] == -4 and first["tasks_met"] == 1 and first["distance_mbes"] == 2
    nameless = [*data[:1], data_of(1, Card(env=FAMILY))]
    s.datasets = nameless
    assert "per" not in report(c, s)


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


def test_at_a_tasks_end_pi_clones_the_mu_that_stands_still(sequence, monkeypatch):
    """Two steps after tasks 1 and 2, on batches of the task; the first is mu's own."""
    seen, real = [], OER.clone

    def clone(self, obs, target):
        before = self.updates, float(self.policy.head_bias[self.task].detach())
        standing = torch.equal(target, self.inner.actor(obs))
        loss = real(self, obs, target)
        moved = float(self.policy.head_bias[self.task].detach()) != before[1]
        seen.append((self.task, self.updates, standing, moved, float(loss)))
        return loss

    monkeypatch.setattr(OER, "clone", clone)
    path = sequence(clone_finish=2).path
    want = [(t, k, True, True) for t in (1, 2) for k in (2, 4, 4, 4)]  # policy_delay 2, then both
    assert [s[:4] for s in seen] == want
    told = rows(path, "clone finish")
    assert [(r["run_step"], r["step"]) for r in told] == [(8, 2), (12, 2)]
    assert [r["loss"] for r in told] == [seen[3][4], seen[7][4]]


def test_the_conflict_of_the_tasks_stands_in_the_rows(sequence):
    """Of the tasks met so far: each policy agrees with itself, and what is logged is the mean."""
    path = sequence(conflict=True).path
    first, second, third = rows(path, "task")
    assert first["conflict_0_0"] == pytest.approx(1) and "conflict" not in first
    assert "conflict_2_2" in third and "conflict_2_2" not in second
    pairs = [third[f"conflict_{i}_{j}"] for i in range(3) for j in range(3) if i != j]
    assert third["conflict"] == pytest.approx(sum(pairs) / 6, abs=1e-6)
    assert third["conflict_least"] == pytest.approx(min(pairs), abs=1e-6)
    for name in ("conflict_0_1", "conflict_1_0"):  # a task that is over says the same for ever
        assert third[name] == second[name] and -1 <= third[name] <= 1
    sequence(name="cut", conflict=True, steps=6)
    cut = sequence(name="cut", conflict=True, resume=True).path
    assert rows(cut, "task") == rows(path, "task")


@pytest.mark.parametrize("penalty", ["packnet", "exssnet"])
def test_a_rival_meets_the_tasks_rows_and_its_figures_stand_in_the_rows(
    penalty, sequence, monkeypatch
):
    """Known actions of each task, z-scored states; a run that is stopped ends as the whole."""
    met = []
    kind = {"packnet": PackNet, "exssnet": ExSSNeT}[penalty]
    real = kind.meet

    def meet(self, obs, action):
        met.append((self.task, action.unique().tolist(), float(obs.abs().max()) < 5))
        real(self, obs, action)

    monkeypatch.setattr(kind, "meet", meet)
    td3 = TD3Config(hidden=(8, 8), bc_alpha=2.5)
    agent = OERConfig(td3=td3, mu_init="previous", penalty=penalty)
    settings = {"memory": "none", "agent": agent, "clone_finish": 2}
    path = sequence(**settings).path
    assert met == [(t, [pytest.approx(0.1 * (t + 1))], True) for t in range(3)]
    told = [r["free"] for r in rows(path, "task")]
    assert told == sorted(told, reverse=True) and told[0] < 1
    assert ("mask_overlap" in rows(path, "task")[0]) == (penalty == "exssnet")
    assert [r["run_step"] for r in rows(path, "retraining")] == [4, 8, 12]
    sequence(name="cut", steps=6, **settings)
    cut = sequence(name="cut", resume=True, **settings).path
    assert same_policy(path, cut) and rows(cut, "task") == rows(path, "task")


def test_liberos_metrics_are_of_scores_along_each_task():
    """Two tasks of -10 to 0 and 0 to 40: scores inside .2, .9 and .5, at the ends .6 and .25.

    FWT: (.2 + .9 + .9) / 3, the best stays; (.5 + .5) / 2. The first task ends at .3: it lost .3.
    """
    data = [data_of(task) for task in range(2)]
    learner = OER(3, 1, 2, OERConfig(td3=TD3Config(hidden=(8, 8))), seed=0)
    learner.begin(1, *data[1].moments())
    inside = [(0, -8.0), (0, -1.0), (1, 20.0)]
    s = Learning(learner, None, data, [], matrix=[[-4.0, 0.0], [-7.0, 10.0]], curve=inside)
    row = report(oer.Config(tasks=2, memory="none"), s)
    first, second = (0.2 + 0.9 + 0.9) / 3, 0.5
    assert row["fwt"] == pytest.approx((first + second) / 2)
    assert row["nbt"] == pytest.approx(0.3 / 2)
    assert row["auc"] == pytest.approx(((first + 0.3) / 2 + second) / 2)
    s.curve = []
    assert "fwt" not in report(oer.Config(tasks=2, memory="none"), s)


def test_returns_inside_a_task_are_kept_along_it(sequence):
    """Judged every second step, ends too: of each task one inside it, its own."""
    path = sequence(eval_every=2).path
    # scores of 0, 101, 202 by their references: each task's own does not change
    assert rows(path, "task")[-1]["fwt"] == pytest.approx((1 + 101 / 40 + 19.2) / 3)
    sequence(name="cut", eval_every=2, steps=6)
    cut = sequence(name="cut", eval_every=2, resume=True).path
    assert rows(cut, "task") == rows(path, "task")


def test_all_tasks_are_learned_at_once(sequence, monkeypatch):
    """Every batch has rows of all three tasks, critics go on, moments are those of all data."""
    made, real = [], OER.begin
    monkeypatch.setattr(OER, "begin", lambda self, t, *m: (made.append(t), real(self, t, *m))[1])
    td3 = TD3Config(hidden=(8, 8), bc_alpha=2.5)
    agent = OERConfig(td3=td3, dbc=False, heads="one")
    settings = {"memory": "joint", "agent": agent, "batch_size": 6}
    path = sequence(**settings).path
    assert made == [0]
    assert sequence.seen["batches"] == [(t, [0.0, 1.0, 2.0]) for t in (0, 1, 2) for _ in range(4)]
    data = torch.cat([data_of(t).all.obs for t in range(3)])
    for _, mean in sequence.seen["moments"]:
        torch.testing.assert_close(mean, data.mean(0))
    last = rows(path, "task")[-1]
    # a head of 8 + 1, moments of 3 and 3, and 60 rows of 3 + 1 + 1 + 3 + 2 numbers
    assert last["bytes"] == 4 * (9 + 6 + 60 * 10) and "per" in last
    sequence(name="cut", steps=6, **settings)
    cut = sequence(name="cut", resume=True, **settings).path
    assert same_policy(path, cut) and rows(cut, "train")[-1] == rows(path, "train")[-1]
    with pytest.raises(ValueError, match="memory='joint' is one policy"):
        sequence(name="wrong", memory="joint")


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
    assert [r["bytes_total"] for r in rows(path, "task")] == [4 * 27, 8 * 27, 12 * 27]
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

    anchored, fix = [], ending.anchor
    monkeypatch.setattr(ending, "anchor", lambda x, *rest: (anchored.append(x.task), fix(x, *rest)))
    with monkeypatch.context() as m, pytest.raises(Interrupted):
        m.setattr(oer, "judge_all", stopped)
        m.setattr(ending, "judge_all", stopped)
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
    assert isinstance(first, ActorPolicy) and first.actor is distilled.nets[0]
    assert first.mean.tolist() == [
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
