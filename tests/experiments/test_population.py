"""A population's run: ten ordinary run directories, one checkpoint, the same bytes after a stop."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made import same_end
from tiny import config, module_of, offline_data

from reverie.agents.offline.iql import IQL
from reverie.agents.population import policy_of
from reverie.buffers import load_dataset
from reverie.buffers.groups import Groups, Members
from reverie.envs import make
from reverie.experiments import cli, load_policy, load_run, population
from reverie.experiments.loops import crew as crews
from reverie.experiments.loops.offline_session import session
from reverie.experiments.loops.population import build_offline
from reverie.experiments.loops.sources import compose
from reverie.experiments.runs import checkpoint, stopping
from reverie.experiments.runs.checkpoint import list_checkpoints
from reverie.experiments.runs.config import read_config, save_config
from reverie.experiments.runs.run import Run

SEEDS = (4, 0, 9)


def group(out, method="sac", steps=330, **more):
    single = config(method, out, None, steps=steps)
    return population.of_seeds(method, single, SEEDS, **more)


def train(out, resume=False, **more):
    return population.main(group(out, **more), resume=resume).path


def member(out, seed, method="sac"):
    return out / f"{method}-Reacher-v5-s{seed}"


@pytest.mark.parametrize("method", [
    "sac", "iql", *(pytest.param(m, marks=pytest.mark.slow) for m in ("td3", "td3bc", "rebrac"))
])  # fmt: skip
def test_each_member_is_the_run_of_its_seed(method, tmp_path):
    """Worlds, warm-up, draws and noise are its own: rows differ by rounding, grown over a run."""
    steps = 330 if method in ("sac", "td3") else 130
    train(tmp_path / "group", method=method, steps=steps)
    for seed in SEEDS:
        path = member(tmp_path / "group", seed, method)
        options = config(method, tmp_path / "alone", None, steps=steps, seed=seed)
        alone = module_of(method).main(options).path
        one, other = load_run(alone), load_run(path)
        assert [list(r) for r in one.rows] == [list(r) for r in other.rows]
        for a, b in zip(one.rows, other.rows, strict=True):
            assert a["kind"] == b["kind"]
            values = ([v for k, v in r.items() if k != "kind"] for r in (a, b))
            np.testing.assert_allclose(*values, rtol=1e-3, atol=1e-4)
        asked = (json.loads(json.dumps(r.config)) for r in (one, other))
        asked = [{**c, "run": {**c["run"], "out": "", "name": ""}} for c in asked]
        assert asked[0] == asked[1]
        assert other.stamp["status"] == "finished" and other.stamp["step"] == steps
        assert other.stamp["notes"] == one.stamp["notes"]
        assert other.stamp["seed"] == seed and other.stamp["method"] == method
        obs = make("reverie/Reacher-v5", 2, seed=1).reset()
        actions = [load_policy(p).act(obs) for p in (alone, path)]
        np.testing.assert_allclose(*actions, atol=1e-3)
    assert len(set(other.frame("train")["critic_loss"])) > 1


def test_the_groups_rows_are_means_of_its_members(tmp_path):
    rows = load_run(train(tmp_path)).rows
    own = [load_run(member(tmp_path, seed)).rows for seed in SEEDS]
    judged = [[r for r in some if r["kind"] == "eval"] for some in (rows, *own)]
    assert [r["return"] for r in judged[0]] == pytest.approx(
        [np.mean([r["return"] for r in some]) for some in zip(*judged[1:], strict=True)]
    )
    learned = next(r for r in rows if r["kind"] == "train" and "return" in r)
    then = [next(r for r in some if r["step"] == learned["step"]) for some in own]
    assert learned["members"] == 3
    assert learned["return"] == pytest.approx(np.mean([r["return"] for r in then]))


def kill_at(monkeypatch, ticks):
    """Let the process end, as far as files go, in this tick of a run."""
    count, tick = [], Run.tick

    def last(self, transitions):
        count.append(1)
        if len(count) == ticks:
            raise MemoryError("killed here")
        tick(self, transitions)

    monkeypatch.setattr(Run, "tick", last)
    return lambda: monkeypatch.setattr(Run, "tick", tick)


@pytest.mark.parametrize(("method", "ticks"), [
    ("sac", 55), ("iql", 100),
    *(pytest.param("sac", t, marks=pytest.mark.slow) for t in (7, 25, 100)),
])  # fmt: skip
def test_a_killed_population_goes_on_to_the_same_bytes(method, ticks, tmp_path, monkeypatch):
    """Before the first checkpoint (step 60 is tick 20), in the warm-up, between two, at the end."""
    more = {"method": method, "steps": 330 if method == "sac" else 130}
    whole = train(tmp_path / "whole", **more)
    back = kill_at(monkeypatch, ticks)
    with pytest.raises(MemoryError):
        train(tmp_path / "cut", **more)
    back()
    cut = train(tmp_path / "cut", resume=True, **more)
    assert same_end(whole, cut)
    for seed in SEEDS:
        pair = [member(tmp_path / p, seed, method) for p in ("whole", "cut")]
        assert same_end(*pair) and load_run(pair[1]).stamp["status"] == "finished"


@pytest.mark.parametrize("draws", [30, 59])  # in the middle, and at the end: the last but one
def test_a_stop_between_two_updates_goes_on_to_the_same_bytes(draws, tmp_path, monkeypatch):
    whole = train(tmp_path / "whole", method="td3")
    sample, drawn = Groups.sample, []

    def stop(self, n):
        drawn.append(n)
        if len(drawn) == draws:
            monkeypatch.setattr(stopping, "stop_asked", True)
        return sample(self, n)

    monkeypatch.setattr(Groups, "sample", stop)
    with pytest.raises(stopping.Interrupted):
        train(tmp_path / "cut", method="td3")
    monkeypatch.setattr(stopping, "stop_asked", False)
    monkeypatch.setattr(Groups, "sample", sample)
    for seed in SEEDS:
        path = member(tmp_path / "cut", seed, "td3")
        stamp = load_run(path).stamp
        assert stamp["status"] == "interrupted" and stamp["saved"] == stamp["step"] > 90
        assert list_checkpoints(path / "checkpoints")[-1].name.endswith(f"{stamp['step']}")
    cut = train(tmp_path / "cut", method="td3", resume=True)
    assert same_end(whole, cut)
    assert same_end(*(member(tmp_path / p, 9, "td3") for p in ("whole", "cut")))


def poison(monkeypatch, k, at, source=Groups):
    """Let member k draw a reward that is not finite in this draw of the population."""
    sample, drawn = source.sample, []

    def draw(self, n):
        batch = sample(self, n)
        drawn.append(n)
        if len(drawn) == at:
            batch.reward[k, 0] = float("inf")
        return batch

    monkeypatch.setattr(source, "sample", draw)


def test_a_member_that_diverges_stops_and_the_others_go_on(tmp_path, monkeypatch, caplog):
    train(tmp_path / "well")
    poison(monkeypatch, 1, at=35)  # after 90 + 140 transitions
    ill = train(tmp_path / "ill")
    stopped = load_run(member(tmp_path / "ill", 0))
    assert stopped.stamp["status"] == "diverged" and "critic_loss" in stopped.stamp["error"]
    assert 180 < stopped.stamp["step"] < 300 and stopped.rows[-1]["step"] < 300
    assert (stopped.path / "dump").is_dir() and str(stopped.path) in caplog.text
    for seed in (4, 9):
        a, b = (member(tmp_path / p, seed) for p in ("well", "ill"))
        assert same_end(a, b) and load_run(b).stamp["status"] == "finished"
    assert load_run(ill).rows[-2]["members"] == 2.0
    shutil.rmtree(list_checkpoints(ill / "checkpoints")[-1])  # goes on from 300, stopped as it was
    before = (stopped.path / "metrics.jsonl").read_bytes()
    train(tmp_path / "ill", resume=True)
    again = load_run(stopped.path)
    assert again.stamp["status"] == "diverged" and again.stamp["error"] == stopped.stamp["error"]
    assert (stopped.path / "metrics.jsonl").read_bytes() == before
    assert same_end(*(member(tmp_path / p, 9) for p in ("well", "ill")))


def test_a_member_on_data_that_diverges_stops_and_the_others_go_on(tmp_path, monkeypatch):
    train(tmp_path / "well", method="iql", steps=70)
    poison(monkeypatch, 1, at=30, source=Members)
    ill = train(tmp_path / "ill", method="iql", steps=70)
    stopped = load_run(member(tmp_path / "ill", 0, "iql"))
    assert stopped.stamp["status"] == "diverged" and "step 30" in stopped.stamp["error"]
    dump = checkpoint.load(stopped.path / "dump", tmp_path).state
    assert dump["batch"]["reward"].shape == (16,) and dump["batch"]["reward"][0] == torch.inf
    assert dump["inner"]["actor"]["net.0.weight"].shape == (24, 10)
    assert same_end(*(member(tmp_path / p, 9, "iql") for p in ("well", "ill")))
    assert [r["members"] for r in load_run(ill).rows if r["kind"] == "train"] == [2.0, 2.0]


def test_members_learn_from_data_as_each_alone_does(tmp_path):
    """Their draws, and their shares of the data with its moments, are those of their seeds."""
    data = config("iql", tmp_path, None).data[0]
    single = config("iql", tmp_path, None, data=(f"{data}:0.7", f"{data}:0.3"), fraction=0.5)
    every = [dataclasses.replace(single, seed=s) for s in SEEDS]
    together = build_offline("iql", IQL, every)
    source = Members([compose(together.parts, own, None) for own in together.members])
    batch = source.sample(10)
    for k, one in enumerate(every):
        alone = session("iql", IQL, one, one.agent)
        expected = compose(alone.parts, alone.datasets, None).sample(10)
        assert all(map(torch.equal, expected[:-1], batch.map(lambda x, k=k: x[k])[:-1]))
        assert torch.equal(together.learner.mean[k, 0], alone.learner.mean)
        assert torch.equal(together.learner.std[k, 0], alone.learner.std)
        acts = policy_of(together.learner.state_dict(), k)
        assert all(torch.equal(acts[x], alone.learner.state_dict()[x]) for x in ("mean", "std"))
    assert together.judge.num_envs == 6 and together.members[0][0].rows.shape[0] == 300
    whole = build_offline("iql", IQL, [dataclasses.replace(c, fraction=1.0) for c in every])
    assert len({own[0].rows.data_ptr() for own in whole.members}) == 1  # one set of rows for all


def test_a_population_on_data_is_named_and_judged_as_the_data_says(tmp_path, capsys):
    """What is left open is filled in from the card, for the members as for a run alone; scores."""
    data = load_dataset(offline_data())
    data.card = dataclasses.replace(data.card, random_return=-40.0, reference_return=10.0)
    data.save(tmp_path / "data")
    paths = (f"dataset:{tmp_path / 'data'}",)
    single = config("td3bc", tmp_path, None, data=paths, env=None, env_options={}, steps=20)
    save_config(tmp_path / "asked.json", "td3bc", single)
    argv = ["td3bc", "--config", str(tmp_path / "asked.json"), "--population", "1,3"]
    assert cli.main(argv) == 0
    group = tmp_path / "td3bc-Reacher-v5-p1-3"
    assert f"run directory: {group}" in capsys.readouterr().out
    run = dataclasses.replace(single.run, name="alone")
    expected = read_config(module_of("td3bc").main(dataclasses.replace(single, run=run)).path)[1]
    for seed in (1, 3):
        own = read_config(tmp_path / f"td3bc-Reacher-v5-s{seed}")[1]
        assert {**own, "seed": 0, "run": 0} == {**expected, "seed": 0, "run": 0}
        assert own["env"] == "reverie/Reacher-v5" and own["seed"] == seed
        judged = load_run(tmp_path / f"td3bc-Reacher-v5-s{seed}").frame()
        assert judged["score"] == pytest.approx(2 * (judged["return"] + 40))
    judged = load_run(group).frame()
    assert judged["score"] == pytest.approx(2 * (judged["return"] + 40))
    assert cli.main(["population", "--resume", str(group), "--steps", "30"]) == 0
    assert load_run(tmp_path / "td3bc-Reacher-v5-s3").stamp["step"] == 30


def test_a_population_whose_members_all_diverge_stops(tmp_path, monkeypatch):
    poison(monkeypatch, slice(None), at=20)
    with pytest.raises(stopping.Diverged, match="every member of"):
        train(tmp_path)
    stamps = [load_run(member(tmp_path, seed)).stamp["status"] for seed in SEEDS]
    assert stamps == ["diverged"] * 3


class Acts:
    """An agent whose second member's action is not finite."""

    act_dim = 1

    def act(self, obs, explore):
        action = torch.ones(len(obs), 1)
        action[2:4] = torch.nan
        return action, ()

    def state_dict(self):
        return {"actor": {"w": torch.zeros(3, 1)}}


def test_actions_that_are_not_finite_stop_their_member_alone(tmp_path):
    configs = [config("sac", tmp_path, f"m{s}", seed=s) for s in range(3)]
    crew = crews.Crew("sac", configs, tmp_path / "group", Acts())
    crew.open()
    crew.begin(SimpleNamespace(step=0, home=SimpleNamespace(stamp={"notes": {}})))
    action, _ = crew.act(torch.zeros(6, 4))
    assert action.flatten().tolist() == [1, 1, 0, 0, 1, 1]
    assert crew.alive.tolist() == [True, False, True]
    crew.count([(5, -3.0, 50)], torch.tensor([True, True, True, False, True, True]))
    assert crew.members[2].recent == [(-3.0, 50)] and [m.bad for m in crew.members] == [0, 1, 0]
    crew.close(None)
    status = [load_run(tmp_path / f"m{k}").stamp["status"] for k in range(3)]
    assert status == ["finished", "diverged", "finished"]


def test_members_have_numbers_of_their_own(tmp_path):
    path = train(tmp_path, each={"lr": [1e-3, 3e-4, 1e-4], "gamma": [0.9, 0.99, 0.95]})
    rates = [read_config(member(tmp_path, s))[1]["agent"]["lr"] for s in SEEDS]
    assert rates == [1e-3, 3e-4, 1e-4]
    assert read_config(path)[1]["each"]["gamma"] == [0.9, 0.99, 0.95]
    train(tmp_path, method="iql", steps=20, each={"expectile": [0.5, 0.7, 0.9]})
    own = [read_config(member(tmp_path, s, "iql"))[1]["agent"] for s in SEEDS]
    assert [c["expectile"] for c in own] == [0.5, 0.7, 0.9]
    with pytest.raises(ValueError, match="each lr: 2 values for 3 members"):
        train(tmp_path / "other", each={"lr": [1e-3, 3e-4]})
    with pytest.raises(ValueError, match="may differ in gamma, tau, lr, alpha"):
        train(tmp_path / "other", each={"critics": [2, 2, 3]})
    assert not (tmp_path / "other").exists()


def test_a_member_alone_is_refused_with_what_to_do(tmp_path, capsys):
    path, own = train(tmp_path), member(tmp_path, 4)
    assert cli.main(["sac", "--resume", str(own), "--steps", "400"]) == 2
    told = capsys.readouterr().err
    assert f"{own} is a member of the population {path}" in told
    assert f"reverie population --resume {path}" in told
    assert cli.main(["eval", str(path)]) == 2
    assert "a population is 3 policies" in capsys.readouterr().err
    assert cli.main(["population", "--resume", str(path), "--steps", "400"]) == 0
    assert load_run(own).stamp["step"] == 402
    with pytest.raises(FileExistsError, match="sac-Reacher-v5-s4 exists"):
        train(tmp_path)


def test_a_member_whose_rows_are_not_as_they_were_stops_the_group(tmp_path):
    path = train(tmp_path, steps=180)
    shutil.rmtree(list_checkpoints(path / "checkpoints")[-1])
    file = member(tmp_path, 0) / "metrics.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"step": 60', b'"step": 61'))
    with pytest.raises(ValueError, match=r"a row of .*s0/metrics.jsonl is not as it was written"):
        train(tmp_path, steps=180, resume=True)
    assert load_run(member(tmp_path, 4)).stamp["status"] == "finished"  # untouched


def test_the_command_line_begins_a_group(tmp_path, capsys):
    save_config(tmp_path / "asked.json", "sac", config("sac", tmp_path, "x", steps=120))
    argv = ["sac", "--config", str(tmp_path / "asked.json"), "--population", "1,3"]
    assert cli.main(argv) == 0
    assert f"run directory: {tmp_path / 'x-p1-3'}" in capsys.readouterr().out
    assert [load_run(tmp_path / f"x-s{s}").stamp["status"] for s in (1, 3)] == ["finished"] * 2
    for more in (["--seeds", "0:2"], ["--resume", str(tmp_path)], ["--seed", "1"], ["--jobs", "2"]):
        assert cli.main([*argv, *more]) == 2
    assert cli.main(["ppo", "--population", "0:2"]) == 2
    assert "'ppo' has no populations" in capsys.readouterr().err
    assert cli.main(["population", "--seeds", "0:2"]) == 2
    assert "reverie sac --population 0:2" in capsys.readouterr().err


def test_what_a_population_cannot_take_is_refused(tmp_path):
    single = config("sac", tmp_path, None, steps=60)
    for change, told in (
        ({"data": ("replay:0.5", "synther:x:0.5")}, "from its own replay alone"),
        ({"context": ("gravity=4.9,9.8",)}, "num_envs=3 worlds for each member, and 2 contexts"),
        ({"env": "CartPole-v1"}, "contexts and streams need a task of ours"),
    ):
        options = dataclasses.replace(single, **change)
        with pytest.raises(ValueError, match=told):
            population.main(population.of_seeds("sac", options, SEEDS))


def test_a_disk_that_takes_no_policy_stops_nobody(tmp_path, monkeypatch, caplog):
    """The group's checkpoint is there; a member's own is told, and comes with a resume."""
    save = checkpoint.save

    def refuse(folder, *args, **more):
        if folder.parent.name.endswith("s9"):
            raise OSError(28, "No space left on device")
        return save(folder, *args, **more)

    monkeypatch.setattr(checkpoint, "save", refuse)
    train(tmp_path)
    own = member(tmp_path, 9)
    assert load_run(own).stamp["status"] == "finished" and not list_checkpoints(own / "checkpoints")
    assert "checkpoint at step 60 not written" in caplog.text
    monkeypatch.setattr(checkpoint, "save", save)
    train(tmp_path, resume=True)
    assert [p.name for p in list_checkpoints(own / "checkpoints")] == ["step-000000000330"]


def test_a_policy_that_the_group_had_not_saved_goes(tmp_path):
    path = train(tmp_path, steps=180)
    shutil.rmtree(list_checkpoints(path / "checkpoints")[-1])  # goes on from 120
    own = member(tmp_path, 9) / "checkpoints"
    assert [p.name[-3:] for p in list_checkpoints(own)] == ["180"]
    seen, begin = [], crews.Crew.begin

    def look(self, run):
        begin(self, run)
        seen.extend(p.name[-3:] for p in list_checkpoints(own))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crews.Crew, "begin", look)
        train(tmp_path, steps=180, resume=True)
    assert seen == ["120"]
