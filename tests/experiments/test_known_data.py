"""Offline runs, sources, collecting and searches, against numbers worked out by hand."""

from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from known import Counter, Known, rows

from reverie.agents.playing import EVAL_SEED, SEED_STRIDE, Evaluation, Stopped
from reverie.agents.search import SearchConfig
from reverie.agents.seeding import stream_seed
from reverie.buffers import Card, Dataset, Layout, ReplayBuffer, Transitions
from reverie.experiments import bc, ncap, sac
from reverie.experiments.loops import (
    build,
    collecting,
    offline,
    offline_session,
    searching,
    sources,
)
from reverie.experiments.loops.collecting import CollectOptions, play
from reverie.experiments.loops.searching import Searching
from reverie.experiments.loops.sources import compose, parse_data
from reverie.experiments.runs.config import RunOptions
from reverie.experiments.runs.run import Run
from reverie.experiments.runs.stopping import Interrupted

# -- offline


def a_dataset(path, n, first=0.0, **card):
    """Rows whose reward is their number: obs x, 10 x, -x; the successor is x + 1."""
    x = first + torch.arange(n).float()
    obs = torch.stack([x, 10 * x, -x], 1)
    ends = torch.zeros(n)
    ends[-1] = 1
    action = (x % 2)[:, None] - 0.5
    batch = Transitions(obs, action, x, obs + torch.tensor([1.0, 10.0, -1.0]), torch.zeros(n), ends)
    data = Dataset.of(batch, Card(env="known/E-v0", **card))
    data.save(path)
    return data


class Learner(Counter):
    """What `run_offline` builds; the last one built is `Learner.last`."""

    def __init__(self, obs_dim, act_dim, config, *, device="cpu", seed=0):
        super().__init__()
        self.seen, Learner.last = [], self

    def act(self, obs, state, *, explore):
        self.seen.append(obs)
        return super().act(obs, state, explore=explore)


class WithNext(Learner):
    columns = ("next_action",)


@pytest.fixture
def judged_in(monkeypatch):
    """The arguments with which offline runs make their judge, which is of known worlds."""
    made = []

    def make(env_id, num_envs, **kwargs):
        made.append((env_id, num_envs, kwargs))
        return Known([[2]] * num_envs)

    monkeypatch.setattr(offline_session, "make", make)
    return made


def offline_run(tmp_path, *data, learner=Learner, resume=False, **more):
    run = RunOptions(
        out=str(tmp_path), threads=1, log_every=2, eval_every=4, eval_episodes=2,
        tensorboard=False, progress=False, name="run",
    )  # fmt: skip
    parts = tuple(f"dataset:{path}" for path in data)
    config = bc.Config(data=parts, steps=4, batch_size=30, run=run, **more)
    return offline.run_offline("known", learner, config, resume), Learner.last


def test_an_offline_learner_sees_both_observations_as_z_scores_of_the_first_data(
    tmp_path, judged_in
):
    """Moments of x = 0 to 4: mean 2, deviation sqrt 2.5, to which 1e-3 is added."""
    a_dataset(tmp_path / "a", 5)
    a_dataset(tmp_path / "b", 5, first=100.0)
    _, agent = offline_run(tmp_path, tmp_path / "a", tmp_path / "b")
    mean = torch.tensor([2.0, 20.0, -2.0])
    std = torch.tensor([2.5**0.5, 250**0.5, 2.5**0.5]) + 1e-3
    assert len(agent.batches) == 4
    for batch in agent.batches:
        x = batch.reward
        obs = torch.stack([x, 10 * x, -x], 1)
        assert set((x >= 100).tolist()) == {True, False}
        assert torch.allclose(batch.obs, (obs - mean) / std, atol=1e-5)
        following = obs + torch.tensor([1.0, 10.0, -1.0])
        assert torch.allclose(batch.next_obs, (following - mean) / std, atol=1e-5)
        assert torch.equal(batch.action[:, 0], x % 2 - 0.5)
    first = (torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]) - mean) / std  # world, episode, t
    assert torch.allclose(agent.seen[0], first)


def test_standardising_can_be_left_out(tmp_path, judged_in):
    a_dataset(tmp_path / "a", 5)
    _, agent = offline_run(tmp_path, tmp_path / "a", standardise=False)
    assert all(torch.equal(b.obs[:, 0], b.reward) for b in agent.batches)
    assert all(torch.equal(b.next_obs[:, 0], b.reward + 1) for b in agent.batches)


def test_next_actions_reach_the_learner_that_wants_them(tmp_path, judged_in):
    a_dataset(tmp_path / "a", 5)
    _, agent = offline_run(tmp_path, tmp_path / "a", learner=WithNext)
    for batch in agent.batches:
        following = torch.where(batch.reward == 4, 0.0, (batch.reward + 1) % 2 - 0.5)
        assert torch.equal(batch.extra["next_action"], following)


def test_an_offline_run_is_judged_in_the_datas_own_worlds_for_a_score(tmp_path, judged_in):
    """Returns 3 and 5 of worlds of two steps: 4 lies halfway from 2 to 6."""
    a_dataset(
        tmp_path / "a", 5, context={"velocity": 1.5}, env_options={"cost": 0.5},
        max_episode_steps=7, random_return=2.0, reference_return=6.0,
    )  # fmt: skip
    result, agent = offline_run(tmp_path, tmp_path / "a")
    (env_id, num_envs, kwargs), probe = judged_in
    assert (env_id, num_envs, kwargs["threads"]) == ("known/E-v0", 2, 1)
    assert probe == (env_id, 1, kwargs)  # without a limit, one is asked whether its episodes end
    assert kwargs["cost"] == 0.5 and kwargs["max_episode_steps"] == 7
    context = kwargs["context"]
    assert context.names == ("velocity",) and context.table.tolist() == [[1.5]]
    final = rows(result.path, "eval")[-1]
    assert (final["return"], final["score"]) == (4, 50) and result.eval_return == 4
    assert [row["updates"] for row in rows(result.path, "train")] == [2, 4]
    assert set(agent.explored) == {False}
    own = dict(context=("velocity=3",), env_options={"cost": 0.1}, env="known/F-v0")
    for name, value in own.items():
        place = tmp_path / name
        result, _ = offline_run(place, tmp_path / "a", **{name: value})
        assert "score" not in rows(result.path, "eval")[-1], name
    contexts, options, envs = judged_in[2::2]
    assert options[2]["cost"] == 0.1 and envs[0] == "known/F-v0"
    assert contexts[2]["context"].table.tolist() == [[3]]
    assert contexts[1] == options[1] == envs[1] == 2


def test_an_offline_run_goes_on_with_the_evaluation_in_which_it_was_stopped(
    tmp_path, judged_in, monkeypatch
):
    """Stopped while it is judged at 4 of 4: judged again, without another update."""
    a_dataset(tmp_path / "a", 5)

    def stopped(*args, **kwargs):
        raise Stopped("in the middle")

    with monkeypatch.context() as m, pytest.raises(Interrupted):
        m.setattr(offline, "evaluate", stopped)
        offline_run(tmp_path, tmp_path / "a")
    path = tmp_path / "run"
    assert len(Learner.last.batches) == 4 and rows(path, "eval") == []
    assert [r["step"] for r in rows(path, "train")] == [2]  # 4's comes after its evaluation
    _, agent = offline_run(tmp_path, tmp_path / "a", resume=True)
    assert agent.batches == [] and agent.updates == 4
    assert [r["updates"] for r in rows(path, "train")] == [2, 4]
    assert [(r["step"], r["return"]) for r in rows(path, "eval")] == [(4, 4)]


def test_each_part_of_the_data_has_its_own_share():
    """Sources in the order of the parts, wherever the replay stands among them."""
    buffer = ReplayBuffer(Layout(3, 1), 4)
    x = torch.zeros(1, 3)
    flags = torch.zeros(1)
    buffer.add(Transitions(x, flags[:, None], torch.tensor([-1.0]), x, flags, flags))
    data = [Dataset.of(some_rows(r), Card(env="e")) for r in (10.0, 20.0)]
    parts = parse_data(["dataset:a:0.125", "replay:0.5", "dataset:b:0.375"])
    drawn = compose(parts, data, buffer).sample(8).reward
    assert drawn.tolist() == [10] + [-1] * 4 + [20] * 3


def some_rows(reward, n=3):
    ends = torch.zeros(n)
    ends[-1] = 1
    x = torch.zeros(n, 3)
    return Transitions(x, x[:, :1], torch.full((n,), reward), x, torch.zeros(n), ends)


def test_parts_of_the_data_have_streams_of_their_own(monkeypatch):
    opened = []
    monkeypatch.setattr(sources, "open_dataset", lambda *args: opened.append(args))
    sources.open_datasets(parse_data(["dataset:a", "replay", "dataset:a"]), 5, "e")
    seeds = [stream_seed(5, "data 0"), stream_seed(5, "data 1")]
    assert opened == [("a", seeds[0], "e"), ("a", seeds[1], "e")] and seeds[0] != seeds[1]


# -- what is built, collected, searched


def test_worlds_are_made_as_configured(monkeypatch):
    made = []

    def make(env_id, num_envs, **kwargs):
        made.append((env_id, num_envs, kwargs))
        return Known([[2]] * num_envs)

    monkeypatch.setattr(build, "make", make)
    config = sac.Config(
        env="E", num_envs=3, seed=2, buffer_size=10, context=("gravity=1,2",),
        env_options={"cost": 1}, run=RunOptions(eval_episodes=7, threads=4),
    )  # fmt: skip
    monkeypatch.setattr(build, "use_threads", lambda threads: threads)
    env, judge = build.worlds_for(config)
    buffer = build.replay_for(config, env)
    (first, n, kwargs), (probe, one, asked), (other, m, more) = made
    assert first == probe == other == "E" and (n, one, m) == (3, 1, 7)  # one: do episodes end?
    assert (env.num_envs, judge.num_envs) == (3, 7)
    assert kwargs.pop("seed") == 2 * SEED_STRIDE and "seed" not in {**more, **asked}
    for given in (kwargs, asked, more):
        assert given["threads"] == 4 and given["cost"] == 1
        assert given["context"].table.tolist() == [[1], [2]]
    assert buffer.capacity == 9 and buffer.num_envs == 3
    assert buffer.generator.initial_seed() == stream_seed(2, "replay")
    assert build.worlds_for(config, env, judge) == (env, judge) and len(made) == 3


def test_a_collected_episode_begins_with_a_fresh_memory():
    data = play(Known([[1, 3], [4, 2]]), Counter(), 11, Card(env="known"))
    batch = data.all
    assert batch.obs[:, 0].tolist() == [0] * 6 + [1] * 5  # world after world
    assert torch.equal(batch.action[:, 0] * 64, batch.obs[:, 2])
    assert data.episodes() == [(0, 1), (1, 4), (4, 5), (5, 6), (6, 10), (10, 11)]
    assert batch.terminated.tolist() == [1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    assert batch.truncated.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1]


def test_a_cards_references_are_of_twenty_episodes(monkeypatch):
    """Worlds 0 to 19 pay 1 to 20 and end: 10.5, whoever acts; a policy's name is its place."""
    made = []

    def make(env_id, num_envs, **kwargs):
        made.append((num_envs, kwargs, Known([[1]] * num_envs, paid=0.0)))
        return made[-1][2]

    monkeypatch.setattr(collecting, "make", make)
    options = CollectOptions(
        env="known", policy=("random", "random", "random"), transitions=11, num_envs=2, seed=4,
        context=("velocity=2",), env_options={"max_episode_steps": 9, "cost": 1}, threads=1,
    )  # fmt: skip
    data = collecting.collect_dataset(options)
    assert len(data) == 11 and data.card.random_return == 10.5
    assert data.card.reference_return is None and data.card.policy == "random + random + random"
    assert data.card.context == {"velocity": 2} and data.card.env_options == {"cost": 1}
    assert data.card.seed == 4
    assert [n for n, _, _ in made] == [2, 20, 2, 2, 2]
    seeds = [kwargs.get("seed") for _, kwargs, _ in made]
    assert seeds[1] is None and len(set(seeds)) == 5
    assert made[1][2].seeds == [collecting.REFERENCE_SEED]
    assert all(kwargs["cost"] == 1 and kwargs["threads"] == 1 for _, kwargs, _ in made)
    assert len(data.all.action.unique()) == 11  # three policies of their own noise
    # 5 of the first, 3 of each other: an even number of steps, the last one cut off
    assert [b - a for a, b in data.episodes()] == [1] * 11
    assert data.all.obs[:, 0].tolist() == [0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 1]


def test_uniform_actions_are_0_of_a_score_and_the_reference_is_100(monkeypatch):
    values = {"random": 1.0, "zoo:good": 5.0}
    monkeypatch.setattr(collecting, "make", lambda *args, **kwargs: Known([[1]]))
    monkeypatch.setattr(collecting, "reference", lambda name, *rest: values[name])
    options = CollectOptions(env="known", transitions=2, num_envs=1, reference="zoo:good")
    card = collecting.collect_dataset(options).card
    assert (card.random_return, card.reference_return) == (1, 5)
    assert card.normalised(2.0) == 25


class Fixed:
    """A search that asks for the same three candidates and keeps what it is told."""

    def __init__(self):
        self.told = []

    def ask(self):
        return torch.tensor([[0.0], [1.0], [2.0]])

    def tell(self, returns):
        self.told.append(returns.tolist())

    @property
    def best(self):
        return torch.tensor([float(len(self.told))])

    def state_dict(self):
        return {"told": list(self.told)}

    def load_state_dict(self, state):
        self.told = list(state["told"])


UNBOUND = SimpleNamespace(bind=lambda parameters: parameters)


class Worlds(SimpleNamespace):
    """Worlds that are not played."""

    notes: ClassVar = {}

    def health(self):
        return {"bad": 1}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        assert state == {}


def test_a_search_is_told_each_candidates_mean_and_every_generation_has_its_starts(
    tmp_path, monkeypatch
):
    """Three candidates in two episodes of 5 steps: 30 a generation; (1, 3), (5, 9), (0, 2)."""
    seeds, scored, search = [], [], Fixed()

    def population_returns(env, controller, candidates, seed, stop):
        seeds.append(seed)
        assert not stop()
        return torch.tensor([[1.0, 3.0], [5.0, 9.0], [0.0, 2.0]])

    def judge(policy, env, *, seed, stop=None):
        assert (env, seed) == ("judge", EVAL_SEED)
        return Evaluation(np.array([[float(policy.parameters)], [4.0]]), np.ones((2, 1)))

    def off_nominal(make_controller, best, links, swim, stop):
        scored.append((make_controller(4).joints, best.tolist(), links, swim))
        return {"off_nominal": 0.5}

    monkeypatch.setattr(searching, "population_returns", population_returns)
    monkeypatch.setattr(ncap, "evaluate", judge)
    monkeypatch.setattr(ncap, "off_nominal", off_nominal)
    run = RunOptions(out=str(tmp_path), name="r", threads=1, log_every=30, eval_every=60,
                     tensorboard=False, progress=False)  # fmt: skip
    c = ncap.Config(steps=90, seed=2, episodes=2, episode_steps=5, transfer=True, run=run)
    s = Searching(UNBOUND, [search], Worlds(num_envs=6, max_episode_steps=5), seed=2)
    with Run("ncap", c, label="x", steps=90, seed=2) as run:
        judged = ncap.train(run, c, s, "judge")
    assert seeds == [2 * SEED_STRIDE, 2 * SEED_STRIDE + 2, 2 * SEED_STRIDE + 4]
    assert search.told == [[2, 7, 1]] * 3
    logged = [(r["step"], r["return"], r["best_return"], r["bad"]) for r in rows(run.path, "train")]
    assert logged == [(step, pytest.approx(20 / 6), 7, 1) for step in (30, 60, 90)]
    evals = [(r["step"], r["return"], r.get("off_nominal")) for r in rows(run.path, "eval")]
    assert evals == [(0, 2, None), (60, 3, None), (90, 3.5, 0.5)] and judged.mean == 3.5
    joints, best, links, swim = scored[0]
    assert len(scored) == 1 and (joints, best, links) == (3, [3], 6)
    assert swim.args == ("reverie/Swim-v0",)
    assert swim.keywords == {"time_feature": True, "threads": 1}


def test_a_search_goes_on_with_the_evaluation_in_which_it_was_stopped(tmp_path, monkeypatch):
    """Two generations of 4; stopped while it is judged after the first."""
    stops, seeds = [True, False], []  # from the end: not in the evaluation before any search

    def population_returns(env, controller, candidates, seed, stop):
        seeds.append(seed)
        return torch.tensor([[1.0], [2.0], [6.0]])

    def judge(policy, env, *, seed, stop=None):
        if stops.pop():
            raise Stopped("in the middle")
        return Evaluation(np.array([[float(policy.parameters)]]), np.ones((1, 1)))

    monkeypatch.setattr(searching, "population_returns", population_returns)
    monkeypatch.setattr(ncap, "evaluate", judge)
    run = RunOptions(out=str(tmp_path), name="r", threads=1, log_every=12, eval_every=12,
                     tensorboard=False, progress=False)  # fmt: skip
    c = ncap.Config(steps=24, episodes=1, episode_steps=4, run=run)

    def go(search, resume):
        s = Searching(UNBOUND, [search], Worlds(num_envs=3, max_episode_steps=4), seed=0)
        with Run("ncap", c, label="x", steps=24, seed=0, resume=resume) as run:
            ncap.train(run, c, s, "judge")
        return run.path

    with pytest.raises(Interrupted):
        go(Fixed(), False)
    assert seeds == [0] and rows(tmp_path / "r", "train") == []
    stops, search = [False, False], Fixed()
    path = go(search, True)
    assert seeds == [0, 1] and len(search.told) == 2
    evals = [(r["step"], r["return"]) for r in rows(path, "eval")]
    assert evals == [(0, 0), (12, 1), (24, 2)]  # each of the search as it was then
    logged = [(r["step"], r["return"], r["best_return"]) for r in rows(path, "train")]
    assert logged == [(12, 3, 6), (24, 3, 6)]  # the first of returns that were saved


def test_candidates_share_the_starts_of_a_generation(tmp_path, monkeypatch):
    """World c E + e plays candidate c from stream e."""
    made = []
    real = ncap.make
    monkeypatch.setattr(ncap, "make", lambda *a, **k: (made.append((a, k)), real(*a, **k))[1])
    run = RunOptions(out=str(tmp_path), name="r", threads=1, eval_every=0, eval_episodes=3,
                     tensorboard=False, progress=False)  # fmt: skip
    ncap.main(ncap.Config(
        steps=8, episodes=2, episode_steps=1, es=SearchConfig(population=4), run=run,
        env_options={"max_episode_steps": 2},
    ))  # fmt: skip
    (judge, for_judge), (search, for_search) = made
    assert judge == ("reverie/Swim-v0", 3) and for_judge["max_episode_steps"] == 2
    assert search == ("reverie/Swim-v0", 8) and for_search["max_episode_steps"] == 1
    assert for_search["streams"] == [0, 1] * 4 and "streams" not in for_judge
    assert all(k["links"] == 6 and k["time_feature"] for k in (for_judge, for_search))
