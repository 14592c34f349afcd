"""`reverie dreamland`: what it logs, deploys and hands on, against numbers by hand."""

import dataclasses
import json
import types

import numpy as np
import pytest
import torch
from known import Known
from tiny import config

from reverie.agents import SAC, evaluate
from reverie.agents.dreams.api import Prediction
from reverie.agents.dreams.controllers import TanhNetwork
from reverie.agents.dreams.fan import errors, open_loop, some_masks
from reverie.agents.dreams.starts import remembered
from reverie.agents.playing import EVAL_SEED
from reverie.buffers import Layout, ReplayBuffer, Transitions
from reverie.envs import make
from reverie.envs.check import FINE, check_env
from reverie.envs.native.render import WorldRenderer
from reverie.experiments import cli, dreamland, load_policy, sac
from reverie.experiments.looking import episodes
from reverie.experiments.looking.dream_figures import Episode, ghosts, imagined, played
from reverie.experiments.loops import searching
from reverie.experiments.loops.deploying import Chosen, Collector, Controllers, deployed
from reverie.experiments.loops.dreaming import World, judged_store, rule_of
from reverie.experiments.loops.dreamt import dreamt_rows, open_dream, reopen
from reverie.experiments.runs import checkpoint
from reverie.experiments.runs.config import read_config

LIMIT = {"max_episode_steps": 5}
SHORT = {"env": "reverie/CartPoleSwingUp-v0", "env_options": LIMIT, "round_every": 0}


def rows_of(path, kind):
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == kind]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """130 real steps of ten worlds in episodes of 5, looks at 90, 180, ..., one evaluation."""
    out = tmp_path_factory.mktemp("dreams")
    options = config("dreamland", out, "run", steps=180, **SHORT)
    options = dataclasses.replace(options, run=dataclasses.replace(options.run, eval_every=0))
    return dreamland.main(options).path


def policy(run, rule):
    settings = {**read_config(run)[1], "select": rule}
    state = checkpoint.load(run / "checkpoints", run / "buffer").state
    return dreamland.load(settings, {**state["agent"], **state["more"]["chosen"]})[0]


def test_a_collection_is_logged_as_the_rows_say(run):
    store = reopen(run, rows=True).store
    grid = store.layout.unpack(store.export_rows(0, 13)["rows"])
    assert store.total == 13 and (grid.action.abs() <= 1).all()
    totals = grid.reward[:10].view(2, 5, 10).sum(1).double()  # the third episode is not whole
    (row,) = rows_of(run, "collect")
    assert row["episodes"] == 20 and row["real_steps"] == 130
    assert row["return"] == pytest.approx(float(totals.mean()), rel=1e-5)
    assert row["std"] == pytest.approx(float(totals.std(correction=0)), rel=1e-4)


def test_an_evaluation_is_of_both_rules_and_of_fresh_dreams(run):
    (row,) = rows_of(run, "eval")
    worlds, rules = make(SHORT["env"], 2, **LIMIT), {}
    for rule in ("dream", "last"):
        rules[rule] = evaluate(policy(run, rule), worlds, seed=EVAL_SEED).mean
    assert row["selected_return"] == pytest.approx(rules["dream"], abs=1e-12)
    assert row["last_return"] == pytest.approx(rules["last"], abs=1e-12)
    assert row["return"] == row["selected_return"]
    dream = evaluate(policy(run, "dream"), open_dream(run, 2), seed=dreamland.FRESH).mean
    assert row["dream_return"] == pytest.approx(dream, abs=1e-9)
    assert row["gap"] == pytest.approx(dream - rules["dream"], abs=1e-9)
    assert row["real_steps"] == 130 + 2 * 2 * 5  # two rules, two worlds, five steps


def test_a_look_scores_the_controllers_of_now_in_other_dreams(run):
    looks = rows_of(run, "held-out dreams")
    assert [r["run_step"] for r in looks] == [90, 180]
    last = evaluate(policy(run, "last"), open_dream(run, 2), seed=dreamland.HELD).mean
    assert looks[1]["return"] == pytest.approx(last, abs=1e-9)
    assert looks[1]["best_return"] == pytest.approx(max(r["return"] for r in looks), abs=1e-9)
    chosen = evaluate(policy(run, "dream"), open_dream(run, 2), seed=dreamland.HELD).mean
    assert chosen == pytest.approx(looks[1]["best_return"], abs=1e-9)


def test_each_controller_is_kept_where_it_did_best():
    now = [[{"x": 1.0}, {"x": 2.0}]]
    chosen = Chosen(lambda: list(now[0]), lambda: {"obs_dim": 3})
    assert chosen.by("dream") == now[0]  # before any look
    chosen.look([5.0, 1.0])
    now[0] = [{"x": 3.0}, {"x": 4.0}]
    chosen.look([4.0, 2.0])
    assert chosen.by("dream") == [{"x": 1.0}, {"x": 4.0}] and chosen.by("last") == now[0]
    assert chosen.scores == [5.0, 2.0] and chosen.last_scores == [4.0, 2.0]
    state = chosen.state_dict()
    assert deployed(state, "dream") == {"x": 1.0} and deployed(state, "last") == {"x": 3.0}
    assert deployed({**state, "last_scores": [1.0, 2.0]}, "last") == {"x": 4.0}
    assert state["obs_dim"] == 3
    chosen.clear()
    assert chosen.by("dream") == now[0] and deployed(chosen.state_dict(), "dream") == {"x": 3.0}


def test_controllers_learn_in_one_batch_and_share_no_dreams():
    assert searching.streams_of(2, 3, 2) == [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3]
    network = TanhNetwork(1, 1)
    group = Controllers(network, torch.tensor([[1.0, 0.0], [0.0, 0.5]]))  # w, b
    action, _ = group.act(torch.tensor([[1.0], [2.0], [1.0], [2.0]]))
    assert action[:, 0].tolist() == pytest.approx(np.tanh([1.0, 2.0, 0.5, 0.5]).tolist())
    s = searching.Searching(network, [], types.SimpleNamespace(health=dict), 0)
    s.returns = torch.tensor([[[1.0, 3.0], [5.0, 5.0]], [[0.0, 0.0], [2.0, 4.0]]])  # K, P, E
    row = s.row()
    assert float(row["return"]) == 2.5 and float(row["best_return"]) == 4.0  # (5 + 3) / 2


def test_several_controllers_are_logged_as_their_mean(tmp_path):
    options = config("dreamland", tmp_path, "run", steps=60, controllers=3, **SHORT)
    result = dreamland.main(options)
    (row,) = rows_of(result.path, "eval")
    each = result.evaluation.returns.reshape(3, 2)  # worlds of a controller side by side
    assert row["return"] == pytest.approx(each.mean()) and row["step"] == 60
    assert row["controller_std"] == pytest.approx(each.mean(1).std())
    starts = make(SHORT["env"], 6, streams=[0, 1] * 3).reset(EVAL_SEED)
    assert torch.equal(starts[:2], starts[2:4])
    state = reopen(result.path)
    assert state.store.num_envs == 9 and state.policy.parameters.dim() == 1


class Biased:
    """s' = s + a + 0.1: a tenth too far with every step."""

    obs_dim, act_dim, mask_widths, members, fixed_masks = 1, 1, (1,), 1, None

    def initial_state(self, n):
        return ()

    def predict(self, obs, action, state, masks, generator):
        there = obs + action + (masks[0] if masks else 0.1)
        return Prediction(there, there[:, 0], torch.zeros(len(obs)), state)


def test_errors_of_one_and_of_ten_steps_are_root_mean_squares_in_deviations():
    store = ReplayBuffer(Layout(1, 1), 24)
    obs = torch.arange(24.0)[:, None]
    zero = torch.zeros(24)
    last = zero.clone()
    last[11] = last[23] = 1.0
    store.add(Transitions(obs, torch.ones(24, 1), zero, obs + 1, zero, last))
    told = errors(Biased(), store, torch.tensor([0.5]), 0.5)
    assert told["one_step_error"] == pytest.approx(0.2, rel=1e-5)  # 0.1 / 0.5
    assert told["ten_step_error"] == pytest.approx(2.0, rel=1e-4)
    # a mask is 0 or 2 of it all along: 0 or 4 deviations wrong after a step, 0 or 40 after ten
    share = (some_masks(Biased(), 512, 0.5, 0)[0] > 0).float().mean().item()
    assert told["masked_one_step_error"] == pytest.approx(4 * share**0.5, rel=1e-4)
    assert 25 < told["masked_ten_step_error"] < 32
    fan = open_loop(Biased(), torch.zeros(1, 1), torch.ones(1, 3, 1))
    assert fan[0, :, 0].tolist() == pytest.approx([1.1, 2.2, 3.3])


def test_a_collector_adds_noise_to_a_policy_and_counts():
    env = make(SHORT["env"], 2, **LIMIT)
    store = ReplayBuffer(Layout(env.obs_dim, 1), 4000, 2)
    still = types.SimpleNamespace(
        initial_state=lambda n: (), act=lambda obs, state, explore: (torch.full((2, 1), 0.3), state)
    )
    c = Collector(env, store, 0.1, 3)
    c.begin(still)
    assert sum(c.step(still) for _ in range(1000)) == c.steps == 2000
    action = store.layout.unpack(store.rows()).action
    assert action.mean().item() == pytest.approx(0.3, abs=0.01)
    assert action.std().item() == pytest.approx(0.1, abs=0.01)


def test_worlds_without_a_state_begin_new_episodes_in_all_that_is_counted():
    """Restarted at a reset: what the cut ones had is not the new ones', nor is their memory."""
    env = Known([[3], [3]], restores=False)
    c = Collector(env, ReplayBuffer(Layout(3, 1), 40, 2), 0.0, 3)
    seen = []

    def act(obs, state, explore):
        seen.append(state[0].tolist())
        return torch.zeros(2, 1), (state[0] + 1,)

    counts = types.SimpleNamespace(initial_state=lambda n: (torch.zeros(n),), act=act)
    c.begin(counts)
    for _ in range(2):
        c.step(counts)
    again = Collector(env, c.store, 0.0, 3)
    again.load_state_dict(c.state_dict())
    for _ in range(3):
        again.step(counts)
    assert seen == [[0, 0], [1, 1], [0, 0], [1, 1], [2, 2]]
    assert again.played == [3.0, 6.0]  # three steps of 1 and of 2


def test_uniform_actions_are_held_for_as_long_as_is_drawn():
    env = make(SHORT["env"], 2, **LIMIT)
    store = ReplayBuffer(Layout(env.obs_dim, 1), 8000, 2)
    c = Collector(env, store, 0.1, 3, hold=3)
    c.begin(None)
    for _ in range(4000):
        c.step(None)
    action = store.layout.unpack(store.export_rows(0, 4000)["rows"]).action[:, :, 0]
    for world in action.T:
        ends = [0, *(np.flatnonzero(np.diff(world.numpy())) + 1), 4000]
        lengths = np.bincount(np.diff(ends)[:-1])
        assert lengths[0] == 0 and len(lengths) == 4  # 1, 2 or 3 steps
        assert lengths[1:] / lengths.sum() == pytest.approx([1 / 3] * 3, abs=0.04)
    assert action[:, 0].ne(action[:, 1]).all()
    assert action.abs().amax() > 0.99 and abs(action.mean().item()) < 0.05


def test_the_second_round_plays_the_controllers_and_fits_anew(tmp_path, monkeypatch):
    asked, step = [], Collector.step

    def heard(self, policy):
        asked.append(policy is None)
        return step(self, policy)

    monkeypatch.setattr(Collector, "step", heard)
    result = dreamland.main(config("dreamland", tmp_path, "run", steps=450, round_every=390))
    assert asked == [True] * 13 + [False] * 13  # of ten worlds
    fits = [r["run_step"] for r in rows_of(result.path, "world model fit") if r["step"] == 70]
    assert fits == [0, 420]  # in the step after the one that completes the round
    rounds = [r["step"] for r in rows_of(result.path, "world model")]
    assert rounds == [0, 420] and reopen(result.path).world.rounds == 2


def test_a_share_of_a_batch_is_real(tmp_path, monkeypatch):
    batches, update = [], SAC.update

    def learned(self, batch, **more):
        batches.append(batch.obs.clone())
        return update(self, batch, **more)

    monkeypatch.setattr(SAC, "update", learned)
    path = dreamland.main(config("dreamland-sac", tmp_path, "run", steps=150, round_every=0)).path
    real = reopen(path, rows=True).store
    known = {tuple(x) for x in real.layout.unpack(real.rows()).obs.tolist()}
    shares = [sum(tuple(x) in known for x in obs.tolist()) for obs in batches]
    assert len(shares) == 15 and all(n >= 4 for n in shares)  # and starts of dreams are real too
    assert min(shares) < 10


def test_features_mean_the_same_in_a_dream_and_in_reality(tmp_path):
    """D.3: h_t has heard of what came before t, whoever stepped the world."""
    path = dreamland.main(config("dreamland-gru", tmp_path, "run", steps=30, **SHORT)).path
    r, acts = reopen(path), load_policy(path).policy
    r.world.config = dataclasses.replace(r.world.config, scope="none", sample=False)
    n, o, steps = 3, r.world.obs_dim, 4
    real = make(SHORT["env"], n, **LIMIT)
    obs, memory = real.reset(7), acts.initial_state(n)
    told = {"real": ([], [], []), "dream": ([], [], [])}
    for _ in range(steps):
        action, after = acts.act(obs, memory)
        for kept, x in zip(told["real"], (obs, action, memory[0]), strict=True):
            kept.append(x)
        obs, memory = real.step(action).obs, after
    dreams = r.world.dream(n, 4)
    seen = dreams.reset()
    for _ in range(steps):
        action, _ = r.policy.act(seen, ())
        for kept, x in zip(told["dream"], (seen[:, :o], action, seen[:, o:]), strict=True):
            kept.append(x)
        seen = dreams.step(action).obs
    for obs, action, h in ([torch.stack(x, 1) for x in rows] for rows in told.values()):
        for t in range(steps):
            heard = remembered(r.world.model, obs[:, :t], action[:, :t], torch.ones(n, t) > 0)
            assert torch.allclose(h[:, t], heard[0], atol=1e-6), t
        assert h[:, -1].abs().amax() > 0


def test_dreamt_rows_branch_from_real_steps_and_follow_the_controller(run):
    data = dreamt_rows(run, seed=2)
    r = reopen(run, rows=True)
    known = {tuple(x) for x in r.store.layout.unpack(r.store.rows()).obs.tolist()}
    spans = data.episodes()
    assert len(data) == 100_000 and {b - a for a, b in spans} == {5}
    first = data.all.obs[[a for a, _ in spans[:500]]]
    assert all(tuple(x) in known for x in first.tolist())
    assert len({tuple(x) for x in first.tolist()}) > 60  # of 130
    action, _ = r.policy.act(data.all.obs, ())
    apart = (data.all.action - action)[data.all.action.abs() < 1]  # the others are clipped
    assert apart.square().mean().sqrt().item() == pytest.approx(0.1, abs=0.02)
    assert len(apart) > 10_000
    assert data.card.env == SHORT["env"] and not torch.equal(data.rows, dreamt_rows(run).rows)


def test_what_cannot_be_dreamt_is_said(run, tmp_path):
    other = "reverie/PendulumSwingUp-v0"
    with pytest.raises(ValueError, match="fitted on reverie/CartPoleSwingUp-v0: it dreams of no"):
        reopen(run, other)
    with pytest.raises(ValueError, match="leave out context"):
        make(f"dream:{run}", context={"gravity": [5.0]})
    with pytest.raises(ValueError, match="no end of its own"):
        make(f"dream:{run}", max_episode_steps=0)
    for changes, told in (
        ({"learner": "sac", "controllers": 2}, "controllers=2 are for a search"),
        ({"real_share": 0.1}, "real_share is for sac and td3"),
        ({"controller": "circuit"}, "the circuit swims"),
        ({"collect": 400}, "collect=400 real steps do not fit real_size=300"),
    ):
        with pytest.raises(ValueError, match=told):
            dreamland.main(config("dreamland", tmp_path, "no", **changes))
    assert not (tmp_path / "no").exists()


def test_a_dream_longer_than_what_was_fitted_warns(run, caplog):
    assert open_dream(run, 2).max_episode_steps == 5 and not caplog.records
    env = make(f"dream:{run}", 2, max_episode_steps=9)
    assert env.max_episode_steps == 9
    assert "9 steps in a model that was fitted to episodes of at most 5" in caplog.text


def test_the_episodes_that_measure_are_those_held_out(run):
    r = reopen(run, rows=True)
    held = judged_store(r.store, r.config.model.held_out)
    everything = judged_store(r.store, 0.0)
    assert 0 < len(held) < 65 and len(everything) == 130


def test_a_tasks_own_rule_ends_a_dream():
    hopper = make("reverie/Hopper-v5", 1)
    rule = rule_of(hopper, dataclasses.replace(World(2, 1, *two()).config, end="rule"))
    obs = torch.zeros(2, 11)
    obs[0, 0], obs[1, 0] = 1.2, 0.5  # metres above the ground: it stands, it has fallen
    assert rule(obs).tolist() == [False, True]
    never = rule_of(make(SHORT["env"], 1), dataclasses.replace(two()[1], end="rule"))
    assert never(torch.zeros(2, 5)).tolist() == [False, False]


def two():
    c = dreamland.Config()
    return c.model, c.dream


def test_the_ghost_is_where_the_dream_is(run):
    env = make(SHORT["env"], 1, **LIMIT)
    real = played(load_policy(run), env, 4)
    assert real.obs.shape == (5, 5) and real.action.shape == (4, 1) and len(real.states) == 5
    qpos = np.concatenate(real.states)[:, 1:3]
    where = ghosts(env, real, real.obs)  # a dream that came true; angles within +-pi
    assert np.allclose(where[:, 0], qpos[:, 0], atol=1e-6)
    assert np.allclose(np.cos(where[:, 1]), np.cos(qpos[:, 1]), atol=1e-6)
    moved = real.obs.clone()
    moved[:, 0] += 0.7  # metres
    assert np.allclose(ghosts(env, real, moved)[:, 0] - qpos[:, 0], 0.7, atol=1e-6)


def test_the_ghost_of_a_body_without_a_place_is_where_the_body_is():
    env = make("reverie/HalfCheetah-v5", 1)
    still = types.SimpleNamespace(
        initial_state=lambda n: (), act=lambda obs, state, explore: (torch.ones(1, 6), state)
    )
    real = played(types.SimpleNamespace(policy=still), env, 20)
    x = np.concatenate(real.states)[:, 1]
    where = ghosts(env, real, real.obs + 0.5)
    assert np.ptp(x) > 0.05 and np.array_equal(where[:, 0], x)
    assert np.allclose(where[:, 1:] - np.concatenate(real.states)[:, 2:10], 0.5, atol=1e-6)


def test_dreams_of_an_episode_take_its_actions(run):
    r = reopen(run)
    real = Episode([], torch.tensor([[0.1, -1.0, 0.0, 0.0, 0.0]] * 3), torch.ones(2, 1), 0.0)
    r.world.config = dataclasses.replace(r.world.config, scope="none", clip=False)
    first = r.world.model.predict(real.obs[:1], torch.ones(1, 1), (), (), None).next_obs
    after = r.world.model.predict(first, torch.ones(1, 1), (), (), None).next_obs
    fan = imagined(r, real, 2)
    assert fan.shape == (2, 3, 5) and torch.equal(fan[0, 0], real.obs[0])
    assert torch.allclose(fan[0, 1:], torch.cat([first, after]), atol=1e-5)
    r.world.config = dataclasses.replace(r.world.config, scope="episode")
    masked = imagined(r, real, 2)
    assert not torch.allclose(masked[0], masked[1])


def test_a_fan_keeps_what_was_observed_and_dreamt(run, monkeypatch):
    """Of 3 rows of 5 numbers every second one, the first 3 numbers, 2 dreams."""
    for name, value in (("FAN", 2), ("SHOWN", 3), ("LONG", 2)):
        monkeypatch.setattr(episodes, name, value)
    r = reopen(run)
    real = Episode([], torch.tensor([[0.1, -1.0, 0.0, 0.0, 0.0]] * 3), torch.ones(2, 1), 0.0)
    told = episodes.fan(r, real)
    assert told["step"] == [0, 2] and told["real"] == [[0.1, 0.1], [-1, -1], [0, 0]]
    dreamt = imagined(reopen(run), real, 2)[:, ::2, :3].permute(2, 0, 1)
    assert np.allclose(told["dreams"], dreamt, atol=1e-4)


def test_episodes_and_dreams_of_a_run_are_kept(run, tmp_path, capsys):
    out = tmp_path / "deep" / "a.json"
    argv = ["watch", str(run), "--dream", "--steps", "4", "--episodes", "3", "--out", str(out)]
    assert cli.main(argv) == 0 and "of 3 episodes" in capsys.readouterr().out
    told = json.loads(out.read_text())
    assert (told["what"], told["played"], len(told["fan"]["step"])) == ("run", 3, 5)
    assert len(told["episodes"][1]["gained"]) == len(told["episodes"][1]["frames"]) > 1


def test_a_dream_is_filmed(run, tmp_path, capsys):
    out = tmp_path / "ghost.png"
    assert cli.main(["watch", str(run), "--dream", "--steps", "4", "--out", str(out)]) == 0
    assert out.stat().st_size > 1000 and (tmp_path / "ghost-fan.png").stat().st_size > 10_000
    (row,) = rows_of(run, "world model")
    assert f"one step error {row['one_step_error']:.3f}" in capsys.readouterr().out
    env = make(SHORT["env"], 1)
    renderer = WorldRenderer(env)
    plain, haunted = renderer.frame(0), renderer.frame(0, np.array([0.8, 0.0]))
    renderer.close()
    blue = haunted[..., 2].astype(int) - plain[..., 2]
    assert (blue > 40).sum() > 50
    columns = np.flatnonzero((blue > 40).any(0))
    assert columns.mean() > 160 + 20  # to the right of the middle, where x grows


def test_a_dream_passes_the_checks_of_an_environment(run):
    found = check_env(f"dream:{run}", steps=60)
    assert len(found) == 10 and {row.verdict for row in found} == {FINE}, found
    assert found[0].detail == "obs 5, action 1, dream, episode 0.1"


def test_dreams_are_worlds_and_rows_of_other_methods(run, tmp_path):
    inside = config("sac", tmp_path, "inside", env=f"dream:{run}", steps=120, env_options={})
    result = sac.main(inside)
    assert result.evaluation.lengths.tolist() == [[5], [5]]  # judged there too
    again = evaluate(load_policy(result.path), open_dream(run, 2), seed=EVAL_SEED)
    assert np.array_equal(again.returns, result.evaluation.returns)
    parts = ("replay:0.5", f"dream:{run}:0.5")
    mixed = config("sac", tmp_path, "mixed", env=SHORT["env"], steps=120, data=parts)
    assert sac.main(mixed).steps == 120
