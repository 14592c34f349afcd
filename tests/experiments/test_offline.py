"""Offline learners: losses by hand, what each gets from data that tells them apart."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny import config, offline_data

from reverie.agents import TD3, TD3Config, cloning
from reverie.agents.offline.bc import BC, BCConfig
from reverie.agents.offline.iql import IQL, IQLConfig, advantage_weights, expectile_loss
from reverie.agents.offline.standardised import Standardised
from reverie.buffers import Card, Dataset, Transitions, load_dataset
from reverie.buffers.source import load_state, state_of
from reverie.experiments import bc, iql, load_run, rebrac, sac, td3bc
from reverie.experiments.looking.film import film_dump
from reverie.experiments.loops.sources import compose, open_dataset, parse_data


def test_losses_by_hand():
    q, action = torch.tensor([2.0, -4.0]), torch.tensor([[0.5, 0.0], [0.0, 1.0]])
    data = torch.tensor([[0.5, 1.0], [0.0, 0.0]])
    assert cloning.cloning_loss(action, data) == 0.5
    # lambda = 2.5 / mean(2, 4); -lambda * mean(2, -4) + 0.5
    assert torch.isclose(cloning.td3_bc_loss(q, action, data, 2.5), torch.tensor(2.5 / 3 + 0.5))
    assert torch.isclose(expectile_loss(torch.tensor([1.0, -2.0]), 0.7), torch.tensor(0.95))
    weights = advantage_weights(torch.tensor([0.0, 1.0, 9.0]), 3.0)
    assert torch.allclose(weights, torch.tensor([1.0, np.exp(3.0), 100.0]).float())


def test_the_next_action_counts_unless_the_recording_was_cut():
    flags = torch.tensor([0.0, 0.0])
    batch = Transitions(
        torch.zeros(2, 1), torch.zeros(2, 2), flags, torch.zeros(2, 1), flags,
        torch.tensor([0.0, 1.0]), {"next_action": torch.tensor([[1.0, 0.0], [1.0, 1.0]])},
    )  # fmt: skip
    gap = cloning.next_action_gap(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), batch)
    assert gap.tolist() == [1.0, 0.0]


def bandit(n=2000, seed=0):
    """One-step episodes: two kinds of actions in the data, +0.5 paid 1 and -0.5 paid 0."""
    g = torch.Generator().manual_seed(seed)
    good = (torch.rand(n, generator=g) < 0.3).float()
    noise = 0.05 * torch.randn(n, generator=g)
    action = ((good - 0.5) + noise).clamp(-1, 1)[:, None]
    obs = torch.randn(n, 2, generator=g) * torch.tensor([1.0, 50.0]) + 10
    return Dataset.of(
        Transitions(obs, action, good, obs, torch.ones(n), torch.zeros(n)), Card(env="bandit")
    )


def trained(agent, data, steps=600):
    learner = Standardised(agent, *data.moments())
    for _ in range(steps):
        learner.update(data.sample(128))
    action, _ = learner.act(data.sample(500).obs, (), explore=False)
    return float(action.mean())


@pytest.mark.slow
def test_cloning_averages_and_the_others_choose():
    data = bandit().with_next_action()
    small = (32, 32)
    cloned = trained(BC(2, 1, BCConfig(hidden=small, lr=1e-3)), data)
    assert abs(cloned - (0.3 * 0.5 - 0.7 * 0.5)) < 0.1
    chosen = {
        "td3bc": TD3(2, 1, TD3Config(hidden=small, lr=1e-3, bc_alpha=2.5)),
        "iql": IQL(2, 1, IQLConfig(hidden=small, lr=1e-3, temperature=10.0, expectile=0.9)),
        "rebrac": TD3(2, 1, TD3Config(hidden=small, lr=1e-3, bc_alpha=10.0, critic_bc=0.1,
                                      critic_norm="layer")),
    }  # fmt: skip
    for name, agent in chosen.items():
        assert trained(agent, data) > 0.2, name


def test_iql_values_reach_the_expectile():
    """V of the bandit: between the mean reward 0.3 and the best 1, the more the higher tau."""
    data, values = bandit(), []
    for expectile in (0.5, 0.95):
        agent = IQL(2, 1, IQLConfig(hidden=(32, 32), lr=1e-3, expectile=expectile, tau=0.05))
        learner = Standardised(agent, *data.moments())
        for _ in range(600):
            learner.update(data.sample(128))
        values.append(float(agent.value(learner._scale(data.all.obs)).mean()))
    assert abs(values[0] - 0.3) < 0.12 and values[1] > 0.7


def test_plain_td3_is_unchanged_by_its_new_settings():
    torch.manual_seed(0)
    batch = bandit().sample(64)
    a, b = (
        TD3(2, 1, TD3Config(hidden=(16, 16))),
        TD3(2, 1, TD3Config(hidden=(16, 16), bc_alpha=2.5)),
    )
    for _ in range(4):
        a.update(batch), b.update(batch)
    assert not torch.equal(a._actor_flat, b._actor_flat)
    assert a.columns == () and TD3(2, 1, TD3Config(critic_bc=0.1)).columns == ("next_action",)


def test_what_data_says():
    parts = parse_data(["replay:0.25", "dataset:a/b:0.75", "dataset:c", "dataset:minari:x/y-v0:2"])
    assert [(p.path, p.share) for p in parts] == [
        (None, 0.25), ("a/b", 0.75), ("c", 1.0), ("minari:x/y-v0", 2.0),
    ]  # fmt: skip
    for bad in ("replays", "dataset:", "dataset", "replay:x:1", "a/b"):
        with pytest.raises(ValueError, match="give replay"):
            parse_data([bad])
    with pytest.raises(ValueError, match="there is no replay buffer"):
        compose(parse_data(["replay"]), [], None)


def test_shares_are_kept_in_every_batch(tmp_path):
    """RLPD's halves: rewards of the data are all below those of the replay here."""
    data = load_dataset(offline_data())
    source = compose(
        parse_data(["dataset:a:0.25", "dataset:b:0.75"]), [bandit(), bandit(seed=1)], None
    )
    assert len(source.sample(100).reward) == 100 and source.counts(100) == [25, 75]
    state = state_of(source)
    ahead = source.sample(40).obs
    load_state(source, state)
    assert torch.equal(source.sample(40).obs, ahead)
    assert data.layout.obs_dim == 10


def test_hdf5_is_read_as_it_is_named(tmp_path):
    from reverie.buffers.formats import save_hdf5

    data = load_dataset(offline_data())
    save_hdf5(data, tmp_path / "x.hdf5")
    assert torch.equal(open_dataset(str(tmp_path / "x.hdf5"), 0).rows, data.rows)


@pytest.mark.parametrize("module", [bc, td3bc, iql, rebrac])
def test_what_stands_in_the_way_is_told(module, tmp_path):
    name = module.__name__.rsplit(".", 1)[-1]
    options = config(name, tmp_path, "run")
    cases = [
        ({"data": ()}, ValueError, "learns from data"),
        ({"data": ("dataset:nothing",)}, FileNotFoundError, "is missing"),
        ({"env": "reverie/Hopper-v5"}, ValueError, "the data has obs 10"),
        ({"data": ("replay",)}, Exception, "replay"),
    ]
    for change, kind, text in cases:
        with pytest.raises(kind, match=text):
            module.main(dataclasses.replace(options, **change))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run_with_a_dump(tmp_path, monkeypatch):
    from reverie.experiments.runs import checkpoint
    from reverie.experiments.runs.stopping import Diverged

    real, calls = TD3.update, []

    def update(self, batch, **more):
        calls.append(1)
        metrics = real(self, batch, **more)
        return {**metrics, "q": metrics["q"] * float("nan")} if len(calls) == 40 else metrics

    monkeypatch.setattr(TD3, "update", update)
    with pytest.raises(Diverged, match="q not finite at step 40"):
        td3bc.main(config("td3bc", tmp_path, "run"))
    found = checkpoint.load(tmp_path / "run" / "dump", tmp_path)
    assert found.state["batch"]["obs"].shape == (16, 10)
    with pytest.raises(ValueError, match="has no physics states"):
        film_dump(tmp_path / "run", tmp_path / "x.png")


def test_rlpd_learns_from_both(tmp_path):
    """The dataset's share reaches the learner: its rows are in the batches."""
    seen = []
    real = sac.SAC.update

    def update(self, batch, **more):
        seen.append(batch)
        return real(self, batch, **more)

    sac.SAC.update = update
    try:
        sac.main(config("sac-rlpd", tmp_path, "run"))
    finally:
        sac.SAC.update = real
    rows = {tuple(r) for r in load_dataset(offline_data()).all.obs.tolist()}
    shares = [np.mean([tuple(r) in rows for r in b.obs.tolist()]) for b in seen]
    assert set(shares) == {0.5}


def test_rebracs_configuration_is_its_own():
    c = rebrac.Config()
    assert c == rebrac.PRESETS["default"] and not c.standardise
    assert c.agent.critic_bc > 0 and c.agent.critic_norm == "layer" and len(c.agent.hidden) == 3
    assert td3bc.Config().agent.critic_bc == 0


def test_a_score_is_of_the_datas_own_worlds_only(tmp_path):
    data = load_dataset(offline_data())
    card = dataclasses.replace(data.card, random_return=-10.0, reference_return=-5.0)
    Dataset(data.layout, data.rows, card).save(tmp_path / "d")
    own = dataclasses.replace(config("bc", tmp_path, "own"), data=(f"dataset:{tmp_path}/d",))
    assert "score" in load_run(bc.main(own).path).frame()
    other = dataclasses.replace(
        own, env_options={"max_episode_steps": 20},
        run=dataclasses.replace(own.run, name="other"),
    )  # fmt: skip
    assert "score" not in load_run(bc.main(other).path).frame()
    data.head(300).save(tmp_path / "d")
    with pytest.raises(ValueError, match="was begun with other data"):
        bc.main(own, resume=True)


def test_a_run_on_halves_wants_data_that_fits_and_stays(tmp_path):
    options = config("sac-rlpd", tmp_path, "run", steps=300)
    with pytest.raises(ValueError, match="different"):
        sac.main(dataclasses.replace(options, env="reverie/Hopper-v5"))
    load_dataset(offline_data()).save(tmp_path / "d")
    own = dataclasses.replace(options, data=("replay:0.5", f"dataset:{tmp_path}/d:0.5"))
    sac.main(own)
    load_dataset(offline_data()).head(300).save(tmp_path / "d")
    with pytest.raises(ValueError, match="was begun with other data"):
        sac.main(dataclasses.replace(own, steps=660), resume=True)
