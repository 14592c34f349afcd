"""Sources trained side by side, the rows they earn, and the matrix that is made of them."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made import same_end

from reverie.agents import RandomPolicy, SACConfig, TD3Config
from reverie.agents.mbtl import Matrix, load_matrix, replay, scores, selector_of
from reverie.agents.mbtl.library import play_row
from reverie.agents.playing import EVAL_SEED, Stopped, evaluate
from reverie.agents.sb3 import PPOConfig
from reverie.agents.search import SearchConfig
from reverie.envs import make
from reverie.envs.contexts import parse_contexts
from reverie.experiments import cli, curriculum, load_policy, load_run, matrix, ppo, sac, td3
from reverie.experiments.loops import transfer
from reverie.experiments.loops.grid import coordinates, trainer_of
from reverie.experiments.loops.transfer import Job, Population
from reverie.experiments.runs import stopping
from reverie.experiments.runs.checkpoint import list_checkpoints
from reverie.experiments.runs.config import RunOptions, save_config
from reverie.experiments.runs.policy import world
from reverie.experiments.studies import pool
from reverie.experiments.studies.suite import read_suite

CART = "reverie/CartPoleSwingUp-v0"
GEARS = ("gear=log:0.5:2:3",)
PLANNED = [(n, p) for n, p in matrix.PRESETS.items() if n not in ("default", "quick")]


def run_options(out, name, **changes):
    return RunOptions(
        out=str(out), name=name, threads=1, log_every=60, eval_every=0, checkpoint_every=120,
        eval_episodes=2, tensorboard=False, progress=False, **changes,
    )  # fmt: skip


def config(out, name="m", **changes):
    """Three contexts, two seeds of each and a third of the middle one: 7 sources of 60 steps."""
    return matrix.Config(**{
        "env": CART, "context": GEARS, "steps": 60, "trials": 2, "middle_trials": 3, "seed": 5,
        "env_options": {"max_episode_steps": 20}, "num_envs": 2, "learning_starts": 30,
        "batch_size": 8, "select_every": 30, "choose_episodes": 2, "score_episodes": 2,
        "sac": SACConfig(hidden=(8,)), "td3": TD3Config(hidden=(8,)), "members": 7,
        "run": run_options(out, name), **changes,
    })  # fmt: skip


class NoRun:
    """What a trainer asks of a run."""

    stopping = False

    def require_finite(self, metrics, state):
        assert all(np.isfinite(float(v)) for v in metrics.values())


def trained(c, jobs, steps=60, short=0):
    grid = parse_contexts(c.context)
    t = Population(c, grid, len(jobs), steps, 1, short)
    t.begin(jobs)
    while not t.results():
        assert t.advance(NoRun()) == len(jobs) * c.num_envs
        t.settle(NoRun())
    return t


@pytest.mark.parametrize("learner", ["sac", "td3"])
def test_a_source_is_the_run_of_its_seed_in_its_context(learner, tmp_path):
    """Wide starts, warm-up, draws and noise are its own; what is last is as good as a snapshot."""
    c = config(tmp_path, learner=learner)
    jobs = [Job(0, 5), Job(2, 6), Job(2, 5)]
    t = trained(c, jobs)
    actors = t.actors()
    assert not torch.equal(actors[0]["net.0.weight"], actors[2]["net.0.weight"])
    module = {"sac": sac, "td3": td3}[learner]
    for k in (0, 1):
        gear = float(parse_contexts(GEARS).table[jobs[k].context, 0])
        alone = module.main(module.Config(
            env=CART, context=(f"gear={gear!r}",), seed=jobs[k].seed, steps=60, num_envs=2,
            env_options={"max_episode_steps": 20, "wide": True}, learning_starts=30, batch_size=8,
            agent=getattr(c, learner), run=run_options(tmp_path, f"alone{k}"),
        ))  # fmt: skip
        obs = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
        expected = load_policy(alone.path).act(obs)
        now, _ = transfer.policy_of(c, actors[k]).act(obs)
        np.testing.assert_allclose(now, expected, atol=1e-4)


def test_a_second_list_of_jobs_is_trained_as_the_first_would_be(tmp_path):
    c = config(tmp_path)
    t = trained(c, [Job(1, 5)])
    first = t.results()[0]
    t.begin([Job(2, 6)])
    while not t.results():
        t.advance(NoRun())
        t.settle(NoRun())
    other = trained(c, [Job(2, 6)])
    alone, now = other.results()[0], other.actors()[0]
    assert all(torch.equal(w, t.actors()[0][name]) for name, w in now.items())  # not the best only
    again = t.results()[0]
    assert torch.equal(alone[0].returns, again[0].returns) and alone[0].steps == again[0].steps
    assert all(torch.equal(alone[1][k], again[1][k]) for k in again[1])
    assert not torch.equal(first[0].returns, again[0].returns)


def test_the_better_snapshot_on_the_own_context_stays_and_its_row_is_of_other_episodes(tmp_path):
    """Looks at 30 and 60 of 60 steps; the actors of the better one, member by member, are kept.

    After 30 steps the only snapshot is the best: the short row is its own.
    """
    c = config(tmp_path)
    t, looks = Population(c, parse_contexts(GEARS), 2, 60, 1, short=30), []
    t.begin([Job(0, 5), Job(2, 6)])
    while not t.results():
        t.advance(NoRun())
        t.settle(NoRun())
        if t.looked == t.step:
            own = []
            for k, actor in enumerate(t.actors()):
                worlds = make(CART, 2, max_episode_steps=20, context={"gear": [[0.5, 2.0][k]]})
                policy = transfer.policy_of(c, actor)
                own.append(evaluate(policy, worlds, seed=transfer.CHOOSE_SEED).mean)
            looks.append((t.actors(), own))
    assert [len(looks), t.looked] == [2, 60]
    assert t.best.tolist() == pytest.approx(np.max([own for _, own in looks], 0).tolist())
    rows = t.results()
    for k in range(2):
        best = looks[int(looks[1][1][k] > looks[0][1][k])][0][k]
        assert all(torch.equal(best[name], rows[k][1][name]) for name in best)
        worlds = make(CART, 6, max_episode_steps=20, context=parse_contexts(GEARS))
        again = evaluate(transfer.policy_of(c, best), worlds, seed=EVAL_SEED).returns[:, 0]
        expected = [again[[j, j + 3]].mean() for j in range(3)]
        assert rows[k][0].returns.tolist() == pytest.approx(expected, abs=1e-12)
        first = evaluate(transfer.policy_of(c, looks[0][0][k]), worlds, seed=EVAL_SEED)
        expected = first.returns[:, 0].reshape(2, 3).mean(0)
        assert rows[k][0].short.mean(0).tolist() == pytest.approx(expected.tolist(), abs=1e-12)
    # Two looks of two members at two episodes, four rows of three contexts, all of 20 steps.
    assert t.judged == 2 * 2 * 2 * 20 + 4 * 3 * 2 * 20
    assert rows[0][0].steps == 120


def test_no_episode_that_chooses_or_is_looked_at_is_scored():
    """World i of seed s starts as world 0 of s + i: seeds that are next to each other share."""
    seeds = [transfer.CHOOSE_SEED, *(curriculum.LOOK_SEED + 1000 * k for k in range(3)), EVAL_SEED]
    starts = [make(CART, 20).reset(seed) for seed in seeds]
    assert torch.equal(make(CART, 20).reset(EVAL_SEED + 1)[:19], starts[-1][1:])
    assert len(torch.cat(starts).unique(dim=0)) == 20 * len(seeds)


def test_a_row_costs_the_steps_of_its_episodes_alone():
    """Fallen worlds are not simulated further: the engine's steps are the episodes' lengths."""
    env, seen = make("reverie/Hopper-v5", 12, threads=1, context={"gear": [0.5, 1, 2]}), []
    step = env.physics.step

    def count(ctrl, substeps, ids=None):
        seen.append(env.num_envs if ids is None else len(ids))
        step(ctrl, substeps, ids)

    env.physics.step = count
    row = play_row(RandomPolicy(env.act_dim, seed=0), env, 3, seed=1)
    lengths = evaluate(RandomPolicy(env.act_dim, seed=0), env, seed=1).lengths
    assert row.steps == lengths.sum() and sum(seen) == 2 * row.steps
    assert len(set(lengths[:, 0].tolist())) > 3
    env.reset()
    env.step(torch.zeros(12, env.act_dim))
    assert seen[-1] == 12  # from a reset on all worlds play again


def test_a_matrix_by_hand(tmp_path):
    c = config(tmp_path, learning_starts=10, sac=SACConfig(hidden=(8,), lr=0.05))
    result = matrix.main(c)
    path = result.path
    assert result.steps == 7 * 60
    m = load_matrix(path / "matrix")
    assert m.values.shape == (3, 3, 2) and m.middle.shape == (3, 3)
    assert m.card.features == ("log gear",) and m.card.seeds == (5, 6) and m.card.budget == 60
    assert (m.card.low, m.card.high) == (0.0, 20.0) and "mujoco" in m.card.versions
    assert m.contexts[:, 0].tolist() == pytest.approx([-np.log(2), 0, np.log(2)])
    assert torch.equal(m.middle[:2], m.values[1].T)
    jobs = [Job(i, s) for i in range(3) for s in (5, 6)] + [Job(1, 7)]
    earned = [row for row, _ in trained(c, jobs, short=30).results()]
    rows = [row.returns for row in earned]
    for (context, seed), row in zip(jobs[:6], earned, strict=False):
        assert torch.equal(m.values[context, :, seed - 5], row.returns)
        assert torch.equal(m.short[context, :, seed - 5], row.short.mean(0))
        assert torch.equal(m.short_halves[:, context, :, seed - 5], row.short)
        assert torch.equal(m.halves[:, context, :, seed - 5], row.each)  # two episodes are two
    assert torch.equal(m.middle[2], rows[6]) and torch.equal(m.middle_halves[:, 2], earned[6].each)
    assert torch.equal(m.middle_halves[:, :2], m.halves[:, 1].permute(0, 2, 1))
    assert m.card.short == 30 and not torch.equal(m.short, m.values)
    assert "wide starts" in m.card.notes
    own = [float(rows[k][job.context]) for k, job in enumerate(jobs)]
    assert result.evaluation.returns[:, 0].tolist() == own
    told = json.loads((path / "matrix.report.json").read_text())
    assert told["oracle"] == pytest.approx(np.mean([scores.oracle(m.unit(s)) for s in (0, 1)]))
    assert {f["test"] for f in told["reality"]} >= {
        "changes the task",
        "survives without an action",
    }
    assert told["seed_noise"]["seed_sd"] > 0 and told["row_structure"]["one_of_all"] > 0
    kept = told["performance"]["3"]["best-of-k seeds"]
    assert kept == pytest.approx(float(m.unit_middle().amax(0).mean()))
    for k in (1, 2, 3):
        for name, orders in told["picks"][str(k)].items():
            for seed, own in enumerate(orders):
                assert own == replay(selector_of(name, m.contexts, k=k, seed=seed), m.unit(seed), k)
            each = [scores.performance(m.unit(i)[own]) for i, own in enumerate(orders)]
            assert told["performance"][str(k)][name] == pytest.approx(np.mean(each))
    assert told["picks"]["2"]["equidistant"] != told["picks"]["2"]["spread"]
    assert told["config"]["steps"] == 60 and (path / "matrix.png").exists()
    last = load_run(path).rows[-2]
    assert last["sources"] == 7 and last["evaluation_steps"] > 0
    with pytest.raises(ValueError, match="no policy"):
        load_policy(path)


@pytest.mark.parametrize("members", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_a_matrix_that_was_killed_or_stopped_anywhere_has_the_same_bytes(
    members, tmp_path, monkeypatch
):
    """Killed after a checkpoint inside a training, then stopped in a look and in a row."""
    few = {"trials": 2, "middle_trials": 3, "members": members}
    whole = matrix.main(config(tmp_path, "whole", **few)).path
    tick, ticks = matrix.Run.tick, []

    def die(self, transitions):
        ticks.append(1)
        if len(ticks) == (75 if members == 1 else 20):
            raise MemoryError("killed")
        tick(self, transitions)

    with monkeypatch.context() as patch:
        patch.setattr(matrix.Run, "tick", die)
        with pytest.raises(MemoryError):
            matrix.main(config(tmp_path, "cut", **few))
    assert list_checkpoints(tmp_path / "cut" / "checkpoints")
    for place in ("evaluate", "play_row"):
        with monkeypatch.context() as patch:
            real = getattr(transfer, place)

            def stop(*args, real=real, **kwargs):
                stopping.stop_asked = True
                return real(*args, **kwargs)

            patch.setattr(transfer, place, stop)
            with pytest.raises(stopping.Interrupted):
                matrix.main(config(tmp_path, "cut", **few), resume=True)
        stopping.stop_asked = False
    cut = matrix.main(config(tmp_path, "cut", **few), resume=True).path
    assert same_end(whole, cut)
    for name in ("matrix.safetensors", "matrix.json"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()


def test_a_run_that_could_not_write_its_matrix_is_not_finished(tmp_path, monkeypatch):
    few = {"trials": 1, "middle_trials": 0, "members": 3}
    with monkeypatch.context() as patch:
        patch.setattr(Matrix, "save", lambda self, path: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            matrix.main(config(tmp_path, **few))
    assert load_run(tmp_path / "m").stamp["status"] == "failed"
    matrix.main(config(tmp_path, **few), resume=True)
    assert load_run(tmp_path / "m").stamp["status"] == "finished"
    assert load_matrix(tmp_path / "m" / "matrix").values.shape == (3, 3, 1)


def test_what_a_matrix_refuses(tmp_path):
    with pytest.raises(ValueError, match=r"survives without an action does not hold.*0\.5"):
        matrix.main(config(tmp_path, env="reverie/Hopper-v5", context=("length=0.5,1",)))
    with pytest.raises(ValueError, match="no contexts of"):
        matrix.main(config(tmp_path, context=()))
    with pytest.raises(ValueError, match=r"members=3: 7 sources make groups of \[1, 7\]"):
        matrix.main(config(tmp_path, members=3))
    with pytest.raises(ValueError, match=r"high=0\.0: give --high"):
        matrix.main(config(tmp_path, high=0.0))
    with pytest.raises(ValueError, match=r"score_episodes must be from 2 to 100,000, got 1"):
        matrix.main(config(tmp_path, score_episodes=1))
    with pytest.raises(ValueError, match=r"short=1\.0 is a share of the budget"):
        matrix.main(config(tmp_path, short=1.0))
    assert not list(tmp_path.iterdir())
    matrix.main(config(tmp_path, trials=1, middle_trials=0, members=3, context=("gear=1,2,3",)))
    with pytest.raises(ValueError, match="begun with sources of 60 steps, not 90"):
        more = {"trials": 1, "middle_trials": 0, "members": 3, "context": ("gear=1,2,3",)}
        matrix.main(config(tmp_path, steps=90, **more), resume=True)


def test_all_sources_are_planned_and_shared_out(tmp_path):
    c = config(tmp_path, trials=6, middle_trials=12, members=None)
    line = torch.arange(20.0, dtype=torch.float64)[:, None]
    jobs = matrix.jobs_of(c, line)
    assert len(jobs) == 126 and matrix.members_of(c, 126) == 42
    assert jobs[:7] == [Job(0, s) for s in range(5, 11)] + [Job(1, 5)]
    others = matrix.jobs_of(dataclasses.replace(c, seed_offset=100), line)
    assert [j.seed - 100 for j in others] == [j.seed for j in jobs]
    seeds = [{j.seed for j in matrix.jobs_of(p, line)} for _, p in PLANNED]
    assert sum(map(len, seeds)) == 10 * 12 == len(set.union(*seeds))  # none is in two matrices
    assert jobs[120:] == [Job(9, s) for s in range(11, 17)]  # of twenty the tenth is in the middle
    assert matrix.members_of(c, 78) == 39 and matrix.members_of(c, 156) == 39
    assert matrix.members_of(dataclasses.replace(c, learner="ppo"), 126) == 1
    grid = parse_contexts(("length=log:1:4:3", "gear=1,3"))
    names, at = coordinates(("length=log:1:4:3", "gear=1,3"), grid)
    assert names == ("log length", "gear")
    # A fifth, at the nearest look: of 18,000 after 4,000 not 3,600, of 60,000 by 10,000 the first.
    looks = {
        (10_000, 1000): 2000,
        (18_000, 1000): 4000,
        (8000, 1000): 2000,
        (60_000, 10_000): 10_000,
    }
    for (steps, every), expected in looks.items():
        changed = dataclasses.replace(c, steps=steps, select_every=every)
        assert matrix.short_of(changed) == expected
    assert matrix.short_of(dataclasses.replace(c, short=0.0)) == 0
    assert matrix.short_of(dataclasses.replace(c, steps=40, select_every=100)) == 40
    assert at[[0, 2, 5]].tolist() == [[0, 1], pytest.approx([np.log(2), 1]), [np.log(4), 3]]


def test_observations_tell_the_context_over_the_whole_grid(tmp_path):
    """Of gears 0.5, 1 and 2, at equal ratios, a source of 2 sees 1, and in its row -1, 0, 1."""
    c = config(tmp_path, context_in_obs="normalised")
    t = trained(c, [Job(2, 5)])
    assert t.env.current_obs()[:, -1].tolist() == pytest.approx([1, 1], abs=1e-6)
    assert t.judge.current_obs()[:, -1].tolist() == pytest.approx([1, 1], abs=1e-6)
    assert t.scored.reset()[:3, -1].tolist() == pytest.approx([-1, 0, 1], abs=1e-6)
    again = world({"env": CART, "context": GEARS, "context_in_obs": "normalised"}, 3)
    assert again.reset()[:, -1].tolist() == pytest.approx([-1, 0, 1], abs=1e-6)  # of `reverie eval`
    raw = trained(config(tmp_path, context_in_obs="raw"), [Job(2, 5)])
    assert raw.env.current_obs()[:, -1].tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    "changes",
    [
        {"learner": "ppo", "num_envs": 2,
         "ppo": PPOConfig(n_steps=15, batch_size=10, n_epochs=1, hidden=(8,))},
        pytest.param(
            {"learner": "circuit", "env": "reverie/Swim-v0", "context": ("density=1000,3000",),
             "search": "es", "es": SearchConfig(population=4), "steps": 4000, "select_every": 4000,
             "trials": 1, "middle_trials": 0, "high": 20.0, "short": 0.0}, marks=pytest.mark.slow,
        ),
    ],
    ids=["ppo", "circuit"],
)  # fmt: skip
def test_sources_of_other_scripts_are_trained_one_after_the_other(changes, tmp_path, monkeypatch):
    """Each a run in the matrix's folder; stopped in the second, it goes on to the same bytes."""
    few = {"trials": 1, "middle_trials": 0, "members": None, "context": ("gear=1,2",), **changes}
    whole = matrix.main(config(tmp_path, "whole", **few)).path
    seeds = sorted(p.name for p in (whole / "sources").iterdir())
    assert seeds == ["c0-s5", "c1-s5"]
    kept = load_matrix(whole / "matrix")
    assert (kept.card.short > 0) == (kept.short is not None) == (changes["learner"] == "ppo")
    own = load_run(whole / "sources" / "c1-s5")
    assert own.stamp["status"] == "finished" and own.config["context"][0].split("=")[1] in (
        "2.0", "3000.0")  # fmt: skip
    m, c = load_matrix(whole / "matrix"), config(tmp_path, "whole", **few)
    c = matrix.worlds_as(c)
    worlds = make(c.env, 4, context=parse_contexts(c.context), **c.env_options)
    policy = load_policy(whole / "sources" / "c1-s5")
    last = evaluate(policy, worlds, seed=EVAL_SEED).returns[:, 0].reshape(2, 2).mean(0)
    points = list_checkpoints(whole / "sources" / "c1-s5" / "checkpoints")
    if len(points) == 1:
        assert m.values[1, :, 0].tolist() == pytest.approx(last.tolist(), abs=1e-9)
    real, calls = matrix.transfer.Job, []
    played = trainer_of.__globals__["Scripted"].settle

    def stop(self, run):
        calls.append(1)
        if len(calls) == 2:
            raise Stopped("here")
        played(self, run)

    monkeypatch.setattr(trainer_of.__globals__["Scripted"], "settle", stop)
    with pytest.raises(stopping.Interrupted):
        matrix.main(config(tmp_path, "cut", **few))
    cut = matrix.main(config(tmp_path, "cut", **few), resume=True).path
    assert same_end(whole, cut) and real is Job
    assert (whole / "matrix.safetensors").read_bytes() == (cut / "matrix.safetensors").read_bytes()
    shutil.rmtree(cut)


def test_the_suite_of_matrices_is_what_the_presets_are():
    path = Path(matrix.__file__).parent / "suites" / "matrices.toml"
    suite, entries = read_suite(path, Path("out"))
    assert len(suite.tasks) == len(entries) == 10 and suite.seeds == (0,)
    for entry in entries:
        preset = matrix.PRESETS[entry.name]
        planned = dataclasses.replace(entry.config, run=preset.run)
        assert planned == preset, entry.name


def test_sources_that_are_runs_may_be_trained_by_an_engine(tmp_path, forks, capsys):
    """Two at a time, in processes of their own: the bytes of those one after the other."""
    few = {"trials": 1, "middle_trials": 0, "members": 2, "context": ("gear=1,2",)}
    few |= {"learner": "ppo", "num_envs": 2}
    few["ppo"] = PPOConfig(n_steps=15, batch_size=10, n_epochs=1, hidden=(8,))
    one = matrix.main(config(tmp_path, "one", **few)).path
    save_config(tmp_path / "c.json", "matrix", config(tmp_path, "two", **few))
    assert cli.main(["matrix", "--config", str(tmp_path / "c.json"), "--jobs", "2"]) == 0
    two = tmp_path / "two"
    assert (two / "sources" / "c1-s5.log").read_text().count("final evaluation") == 1  # by itself
    assert same_end(one, two)
    assert torch.equal(load_matrix(one / "matrix").values, load_matrix(two / "matrix").values)
    save_config(tmp_path / "c.json", "matrix", config(tmp_path, "three"))
    assert cli.main(["matrix", "--config", str(tmp_path / "c.json"), "--jobs", "2"]) == 2
    assert "whose sources are runs of their own" in capsys.readouterr().err


def test_a_source_that_fails_on_an_engine_is_named(tmp_path):
    class Failing:
        jobs = []

        def submit(self, job):
            self.jobs.append(job)

        def poll(self):
            return [(self.jobs.pop(), 3)] if self.jobs else []

        def begun(self):
            return []

    with pytest.raises(RuntimeError, match=r"c0-s5 ended with status 3: see .*c0-s5\.log"):
        pool.train_all([("ppo", ppo.Config(), tmp_path / "c0-s5")], Failing())
