"""`reverie collect`: datasets that are what their cards say."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny import config, finished

from reverie.agents import RandomPolicy, evaluate
from reverie.agents.actors import ActorPolicy
from reverie.buffers import Card, Layout, load_dataset
from reverie.envs import make
from reverie.envs.contexts import parse_contexts
from reverie.envs.families import FAMILIES, members
from reverie.experiments import cli, load_policy, sac
from reverie.experiments.loops.collecting import CollectOptions, collect_dataset, episodes, play
from reverie.experiments.runs import zoo


def test_a_dataset_replays_in_the_environment():
    """Row after row is what the worlds did: the same states, the same successors."""
    env = make("reverie/Hopper-v5", 4, seed=3)
    data = play(env, RandomPolicy(3, seed=1), 399, Card(env="reverie/Hopper-v5"))
    assert len(data) == 399
    batch, again = data.all, make("reverie/Hopper-v5", 4, seed=3)
    obs = again.reset()
    firsts = [first for first, _ in data.episodes()]
    assert torch.equal(batch.obs[0], obs[0])
    for first, last in data.episodes():
        assert torch.equal(batch.obs[first + 1 : last], batch.next_obs[first : last - 1])
    lengths = np.diff([*firsts, len(data)])
    assert lengths.max() < 60 and batch.terminated.sum() > 12
    assert int(batch.truncated.sum()) <= 5  # each world's last episode, and the cut by n


def test_the_same_seed_gives_the_same_digest(tmp_path):
    options = CollectOptions(
        env="reverie/Reacher-v5", transitions=90, num_envs=3, out=tmp_path / "a"
    )
    one = collect_dataset(options).save(tmp_path / "a")
    two = collect_dataset(options).save(tmp_path / "b")
    other = collect_dataset(dataclasses.replace(options, seed=1)).save(tmp_path / "c")
    assert one.sha256 == two.sha256 != other.sha256
    assert one.random_return < 0 and one.max_episode_steps == 50
    assert one.versions.keys() == {"mujoco", "torch", "numpy", "gymnasium"}


def test_discrete_actions_are_stored_as_they_were_played(tmp_path):
    """One-hot, and each as often as the other."""
    options = CollectOptions(env="CartPole-v1", transitions=200, num_envs=2, out=tmp_path / "a")
    action = collect_dataset(options).all.action
    assert sorted(action.unique().tolist()) == [0, 1] and (action.sum(1) == 1).all()
    assert 70 < int(action[:, 0].sum()) < 130


def test_invalid_rows_and_breaks_end_episodes():
    layout = Layout(1, 1)
    grid = torch.zeros(5, 2, layout.width)
    grid[..., 0] = torch.arange(10.0).view(5, 2)
    batch = layout.unpack(grid)
    batch.terminated[1, 0] = 1
    valid = torch.ones(5, 2, dtype=torch.bool)
    valid[2, 1] = False
    number = torch.zeros(5, 2)
    number[4:] = 1
    data = episodes(batch, valid, number, Card(env="x"))
    assert data.all.obs[:, 0].tolist() == [0, 2, 4, 6, 8, 1, 3, 7, 9]
    assert data.episodes() == [(0, 2), (2, 4), (4, 5), (5, 7), (7, 8), (8, 9)]
    assert data.all.truncated.tolist() == [0, 0, 0, 1, 1, 0, 1, 1, 1]


def test_a_runs_replay_is_what_it_stored(tmp_path):
    run = sac.main(config("sac", tmp_path, "run", buffer_size=660)).path
    out = tmp_path / "data"
    argv = ["collect", "--replay", str(run), "--out", str(out)]
    assert cli.main(argv) == 0
    data = load_dataset(out)
    assert len(data) == 660 and data.card.policy == "replay of run"
    assert {b - a for a, b in data.episodes()} == {50, 20}  # the limit, and where the run ended
    earlier = tmp_path / "earlier"
    assert cli.main([*argv[:-1], str(earlier), "--until", "600"]) == 0
    assert len(load_dataset(earlier)) == 600
    assert cli.main([*argv[:-1], str(earlier), "--until", "601"]) == 2


def test_mixtures_share_the_transitions(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "HERE", tmp_path / "zoo")
    run = finished("sac")[1].path
    zoo.add(run, "reacher-tiny", 660, note="a test")
    card = zoo.card("reacher-tiny")
    assert zoo.names() == ["reacher-tiny"] and card["steps"] == 660 and card["curve"][-1][0] == 660
    loaded, original = zoo.load("reacher-tiny"), load_policy(run)
    obs = np.random.default_rng(0).normal(size=(5, 10)).astype(np.float32)
    assert np.array_equal(loaded.act(obs), original.act(obs))
    assert np.array_equal(load_policy("zoo:reacher-tiny").act(obs), loaded.act(obs))
    assert cli.main(["eval", "zoo:reacher-tiny", "--episodes", "2"]) == 0
    options = CollectOptions(
        policy=("zoo:reacher-tiny", "random"), transitions=300, num_envs=3,
        reference="zoo:reacher-tiny", out=tmp_path / "d",
    )  # fmt: skip
    data = collect_dataset(options)
    assert len(data) == 300 and data.card.env == "reverie/Reacher-v5"
    assert data.card.policy == "zoo:reacher-tiny + random"
    assert np.isfinite(data.card.reference_return)
    wild = data.all.action.abs().mean(1)
    assert wild[150:].mean() > 0.45  # uniform
    with pytest.raises(ValueError, match="did you mean 'reacher-tiny'"):
        zoo.load("reacher-tinny")
    with pytest.raises(FileNotFoundError, match="no checkpoint at 5"):
        zoo.add(run, "x", 5)


def test_a_policy_that_saw_the_goal_collects_data_without_it(tmp_path, monkeypatch):
    """Each context's data comes from the policy under that context's goal."""
    monkeypatch.setattr(zoo, "HERE", tmp_path / "zoo")
    options = config(
        "sac", tmp_path, "run", env="reverie/CheetahVel-v0", context=("velocity=0.5,2",),
        env_options={"show_goal": True}, num_envs=2,
    )  # fmt: skip
    run = sac.main(options).path
    seen = []
    real = ActorPolicy.act

    def act(self, obs, state, *, explore):
        if len(obs) > 1:  # a policy that is loaded is tried on one row
            seen.append(obs[:, -1].unique().tolist())
        return real(self, obs, state, explore=explore)

    monkeypatch.setattr(ActorPolicy, "act", act)
    data = collect_dataset(CollectOptions(
        policy=(str(run),), context=("velocity=2",), transitions=40, num_envs=2, out=tmp_path / "d",
    ))  # fmt: skip
    assert data.layout.obs_dim == 17 and data.card.context == {"velocity": 2.0}
    assert seen and all(goal == [2.0] for goal in seen)
    assert data.card.max_episode_steps == 200


def test_a_runs_own_world_is_on_the_card(tmp_path):
    options = config(
        "sac", tmp_path, "run", env="reverie/Hopper-v5", context=("gravity=4.9",),
        env_options={"healthy_reward": 2.0}, buffer_size=660,
    )  # fmt: skip
    run = sac.main(options).path
    for more in (("--replay", str(run)), ("--policy", str(run), "--transitions", "60")):
        assert cli.main(["collect", *more, "--out", str(tmp_path / "d")]) == 0
        card = load_dataset(tmp_path / "d").card
        assert card.context == {"gravity": 4.9} and card.env_options == {"healthy_reward": 2.0}


def test_what_is_wrong_is_told(tmp_path, capsys):
    for argv, text in (
        (["--transitions", "10"], "give --env"),
        (["--env", "Hopper-v5", "--context", "mass=1,2"], "of one context"),
        (["--policy", "zoo:nothing"], "unknown policy of the zoo"),
        (["--replay", str(tmp_path)], str(tmp_path)),
        (["--env", "Hopper-v5", "--reference", "random"], "0 of a score already"),
        (
            [
                "--env",
                "reverie/WalkerPar-v0",
                "--policy",
                "zoo:cheetah-vel-medium",
                "--context",
                "variant=1",
            ],
            "takes observations of 18",
        ),
        (["--policy", "zoo:cheetah-vel-medium"], "of one context"),
    ):
        assert cli.main(["collect", *argv, "--out", str(tmp_path / "d")]) == 2
        assert text in capsys.readouterr().err
    assert not (tmp_path / "d.safetensors").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_members_of_a_family_differ_in_their_goal_only(family):
    contexts = members(family)
    assert len(contexts) == len(members(family, "macaw0-4")) == 5
    env = make(family, 10, context=contexts, seed=1)
    obs = env.reset()
    assert torch.equal(obs[0], obs[4]) and env.max_episode_steps == 200
    g = torch.Generator().manual_seed(0)
    rewards, states = [], []
    for _ in range(5):
        action = (torch.rand(1, env.act_dim, generator=g) * 2 - 1).expand(10, -1).contiguous()
        r = env.step(action)
        rewards.append(r.reward[:5])
        states.append(r.final_obs[:5])
    assert len(torch.stack(rewards).sum(0).unique()) == 5
    same = bool((states[-1] == states[-1][:1]).all())
    assert same == (family != "reverie/WalkerPar-v0")  # there the physics differs
    shown = make(family, 5, context=contexts, seed=1, show_goal=True)
    extra = shown.obs_dim - env.obs_dim
    assert extra > 0 and len(shown.reset()[:, -extra:].unique(dim=0)) == 5
    with pytest.raises(ValueError, match="unknown preset"):
        members(family, "all")


def test_legacy_observations_hold_the_torsos_place():
    assert make("reverie/CheetahVel-v0", 1, legacy_obs=True).obs_dim == 20
    assert make("reverie/AntDir-v0", 1).obs_dim == 27
    with pytest.raises(ValueError, match="variant must be"):
        make("reverie/WalkerPar-v0", 1, context={"variant": [1.5]})


def test_the_zoo_is_what_its_cards_say(capsys):
    """Every policy loads, acts in its environment, and is not far from its return."""
    assert cli.main(["list", "zoo"]) == 0
    listed = capsys.readouterr().out
    assert len(zoo.names()) >= 4
    for name in zoo.names():
        card = zoo.card(name)
        assert f"zoo:{name}" in listed and card["curve"][-1] == [
            card["steps"],
            round(card["return"], 2),
        ]
        context = parse_contexts(card["context"])
        env = make(card["env"], 10, context=context, max_episode_steps=200, **card["env_options"])
        got = evaluate(load_policy(f"zoo:{name}"), env).mean
        full = env.task.max_episode_steps == 200  # the card's return is of whole episodes
        assert got > 0.8 * card["return"] / 5 if not full else abs(got - card["return"]) < 40
