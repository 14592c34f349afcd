"""Measures of generated rows, by hand and against the simulator."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from reverie.agents import RandomPolicy
from reverie.agents.synther.codec import rules_of
from reverie.agents.synther.config import DiffusionConfig
from reverie.agents.synther.diffusion import Diffusion
from reverie.agents.synther.noise import Noise
from reverie.buffers import Layout, Transitions
from reverie.envs import make
from reverie.experiments.looking.generated import common
from reverie.experiments.studies import quality as q
from reverie.experiments.studies import samplers
from reverie.experiments.studies.simulated import dynamics_error, simulate


def column(*values):
    return np.array(values, float)[:, None]


def test_kolmogorov_smirnov_by_hand():
    """1 2 3 4 against 3 4 5 6: below 3, half of the first and none of the second; ties at 3, 4."""
    assert q.ks(np.array([1.0, 2, 3, 4]), np.array([3.0, 4, 5, 6])) == 0.5
    assert q.ks(np.array([1.0, 2]), np.array([2.0, 1])) == 0
    a, b = (
        np.array([[1.0, 0], [2, 0], [3, 0], [4, 0]]),
        np.array([[3.0, 0], [4, 0], [5, 0], [6, 0]]),
    )
    assert q.marginal(a, b) == 0.75  # the mean of 1 - 1/2 and 1 - 0


def test_correlation_by_hand():
    """Ranks agree (1) in one and oppose (-1) in the other: 1 - 2/2; a constant is left out."""
    x = np.arange(5.0)
    up, down = np.stack([x, x**3, 0 * x], 1), np.stack([x, -np.exp(x), 0 * x], 1)
    assert q.correlation(up, up) == 1 and q.correlation(up, down) == pytest.approx(0)
    three = np.stack([x, x, x], 1), np.stack([x, x, -x], 1)  # pairs differ by 0, 2, 2
    assert q.correlation(*three) == pytest.approx(1 - (0 + 2 + 2) / 3 / 2)
    assert math.isnan(q.correlation(up[:, :1], up[:, :1]))


def test_a_classifier_tells_a_shift_and_not_a_copy():
    rng = np.random.default_rng(0)
    real, copy = rng.normal(size=(800, 3)), rng.normal(size=(600, 3))
    auc, rows = q.two_sample_auc(real, copy)
    assert auc == pytest.approx(0.5, abs=0.06) and rows == 600
    assert q.two_sample_auc(real, copy + 10)[0] == 1
    tied = copy.copy()
    tied[:, 1] = tied[:, 0]  # each column is right, their joint is not
    assert q.two_sample_auc(real, tied)[0] > 0.9


def test_nearest_by_hand():
    """(0, 0) to (3 / 1, 8 / 2) is 5, a constant column left out."""
    x, among = np.zeros((3, 3)), np.array([[3.0, 8, 7], [30, 80, 7]])
    assert q.nearest(x, among, np.array([1.0, 2, 0])).tolist() == [5, 5, 5]


LAYOUT = Layout(1, 1)


def rows_of(obs, action, then, terminated):
    n = len(obs)
    parts = [
        torch.tensor(x, dtype=torch.float32) for x in (obs, action, [0.0] * n, then, terminated)
    ]
    return torch.stack([*parts, torch.zeros(n)], 1)


def test_ends_and_the_box_by_hand():
    """Says ended: rows 0, 1, 2; the rule ends rows 0, 3: precision 1/3, recall 1/2."""
    made = rows_of([0] * 4, [0.5, -1.5, 1.0, 2.0], [9, 1, 1, 9], [1, 1, 1, 0])
    real = rows_of([0, 0], [0, 0], [0, 0], [1, 0])
    out = q.ends(real, made, LAYOUT, lambda then: then[:, 0] > 5)
    assert out == {
        "terminal_rate": 0.75, "terminal_rate_real": 0.5,
        "terminal_precision": pytest.approx(1 / 3), "terminal_recall": 0.5,
    }  # fmt: skip
    assert q.outside(made, LAYOUT) == 0.5
    never = q.ends(real, made * 0, LAYOUT, lambda then: then[:, 0] > 5)
    assert math.isnan(never["terminal_precision"]) and math.isnan(never["terminal_recall"])


def played(env, steps, seed=1):
    policy, obs, out = RandomPolicy(env.act_dim, seed=seed), env.reset(), []
    for _ in range(steps):
        action, _ = policy.act(obs, (), explore=True)
        r = env.step(action)
        cut = torch.zeros(env.num_envs)
        out.append(Transitions(obs, action, r.reward, r.final_obs, r.terminated.float(), cut))
        obs = r.obs
    batch = Transitions(*(torch.cat(x) for x in zip(*(b[:6] for b in out), strict=True)))
    layout = Layout(env.obs_dim, env.act_dim)
    return layout.pack(batch), layout


@pytest.fixture(scope="module")
def hopper():
    env = make("reverie/Hopper-v5", 16, seed=3)
    rows, layout = played(env, 60)
    return env, rows, layout, make("reverie/Hopper-v5", 64, dtype=torch.float64)


def test_real_rows_are_what_the_simulator_says(hopper):
    _, rows, layout, env = hopper
    out, notes = dynamics_error(env, rows, rows, layout)
    assert out["dynamics"] == out["dynamics_real"] < 1e-3
    assert out["reward_error"] < 1e-3 and 0 < out["dynamics_rows"] <= len(rows) == 960
    assert "Hopper-v5 does not show x, velocities beyond +-10" in notes[0] and len(notes) == 1


def test_rows_at_a_clip_do_not_tell_their_state(hopper):
    _, rows, layout, env = hopper
    calm = rows[(rows[:, 5:11].abs() < 9).all(1)]
    made = calm.clone()
    made[:5, 10] = 10.0  # it may be more
    out, _ = dynamics_error(env, made, calm, layout)
    assert out["dynamics_rows"] == len(calm) - 5 and out["dynamics_rows_real"] == len(calm)
    assert out["dynamics"] < 1e-3


def test_an_error_of_one_column_is_told_in_its_deviations(hopper):
    """2 deviations in one of 11 columns: 2 / sqrt(11); a reward 3 deviations off: 3."""
    _, rows, layout, env = hopper
    made = rows.clone()
    batch = layout.unpack(made)
    batch.next_obs[:, 4] += 2 * rows[:, layout.slices["next_obs"]][:, 4].double().numpy().std()
    batch.reward.add_(3 * batch.reward.std())
    out, _ = dynamics_error(env, made, rows, layout)
    assert out["dynamics"] == pytest.approx(2 / 11**0.5, rel=1e-3)
    assert out["dynamics_median"] == pytest.approx(2 / 11**0.5, rel=1e-3)
    assert out["reward_error"] == pytest.approx(3, rel=1e-3) and out["dynamics_real"] < 1e-3


def test_any_number_of_rows_fits_any_number_of_worlds(hopper):
    _, rows, layout, env = hopper
    whole = simulate(env, rows[:130], layout)
    parts = [simulate(env, rows[i : i + 13], layout) for i in range(0, 130, 13)]
    for i, all_of_it in enumerate(whole):
        assert len(all_of_it) == 130
        assert np.allclose(np.concatenate([p[i] for p in parts]), all_of_it)


def test_contact_forces_are_left_out():
    env = make("reverie/Ant-v5", 8, seed=3)
    rows, layout = played(env, 10)
    out, notes = dynamics_error(make("reverie/Ant-v5", 8, dtype=torch.float64), rows, rows, layout)
    assert out["dynamics"] < 1e-2 and notes[-1].startswith("78 columns of next_obs")


def test_a_task_that_hides_its_state_says_so():
    env = make("reverie/Pusher-v5", 4, seed=0)
    rows, layout = played(env, 3)
    out, notes = dynamics_error(env, rows, rows, layout)
    assert out == {} and notes == [
        "Pusher-v5: the state is not in an observation, so its dynamics are not checked"
    ]


def test_the_report_of_a_copy_and_of_noise(hopper):
    played_in, rows, layout, env = hopper
    train, fresh = rows[::2], rows[1::2]
    rule = rules_of(played_in).terminated
    copy = q.quality(train, train, fresh, layout, env=env, rule=rule)
    assert copy["nearest"] == 0 and copy["nearest_real"] > 0 and copy["nearest_ratio"] == 0
    assert copy["marginal"] > 0.9 and copy["terminal_precision"] == copy["terminal_recall"] == 1
    assert copy["two_sample_rows"] == 480 and "nearly blind at 480 rows" in copy["notes"][0]
    assert copy["rows"] == copy["rows_real"] == 480 and copy["outside_box"] == 0
    draws = torch.Generator().manual_seed(0)
    noisy = train + 0.5 * train.std(0) * torch.randn(train.shape, generator=draws)
    noise = q.quality(noisy, train, fresh, layout, env=env, rule=rule)
    assert noise["dynamics"] > 100 * noise["dynamics_real"] and noise["outside_box"] > 0.3
    assert noise["nearest_real"] == copy["nearest_real"] and noise["marginal"] < copy["marginal"]
    assert noise["two_sample_auc"] > copy["two_sample_auc"]


def test_noise_that_lies_as_far_is_beside_the_error_of_generated_rows(hopper):
    """Rows made by noise of .2 are matched by noise of .2, whose error is then theirs."""
    _, rows, layout, env = hopper
    train, fresh = rows[::2], rows[1::2]
    made = Noise(layout, 0.2, seed=5).generate(train, 400)
    out, notes = q.simulated(env, made, train, fresh, layout)
    assert out["noise_sd"] == pytest.approx(0.2, abs=0.02)
    assert out["dynamics_noise"] == pytest.approx(out["dynamics"], rel=0.15)
    assert out["dynamics_noise_ratio"] == out["dynamics_noise"] / out["dynamics"]
    assert "Hopper-v5 does not show x" in notes[0]
    real, _ = q.simulated(env, fresh, train, fresh, layout)
    assert real["dynamics_noise_ratio"] > 100


def test_what_real_rows_have_of_a_score_is_between_those_seen_and_the_others():
    train = rows_of([1, 2, 3, 4], [0] * 4, [3, 4, 5, 6], [0] * 4)
    fresh = rows_of([3, 4, 5, 6], [0] * 4, [3, 4, 5, 6], [0] * 4)
    out = q.quality(fresh, train, fresh, LAYOUT)
    assert out["marginal"] == 1 and out["marginal_real"] == 1 - 0.5 / 4  # obs of 4 columns
    assert out["correlation"] == out["correlation_real"] == 1
    assert "dynamics" not in out


def test_rows_of_several_contexts_say_that_their_dynamics_are_not_checked(hopper):
    _, rows, layout, _ = hopper
    env = make("reverie/Hopper-v5", 2, context={"gravity": [4.9, 9.8]}, dtype=torch.float64)
    told = "Hopper-v5: rows of several contexts, so their dynamics are not checked"
    assert dynamics_error(env, rows, rows, layout) == ({}, [told])


TINY = DiffusionConfig(width=16, depth=1, noise_width=8, updates=30, batch_size=32, held_out=0.2)


@pytest.fixture(scope="module")
def study():
    o = samplers.Options(transitions=400, rows=60, repeats=1, diffusion=TINY)
    return o, samplers.fitted("Hopper-v5", o)


def test_a_study_of_samplers_has_rows_that_its_fit_saw_held_out_and_never_had(study):
    _, f = study
    assert f.model.done and f.model.rows == len(f.train) + len(f.held) == 400
    assert bool(f.model.held(f.held).all()) and common(f.held, f.train) == 0 < len(f.held)
    assert len(f.fresh) == 60 and common(f.fresh, torch.cat([f.train, f.held])) == 0
    assert common(f.train[:9], f.train) == 9


def test_each_sampler_of_a_study_draws_by_its_own_settings_from_one_fit(study):
    _, f = study
    made = {}
    for name, sampler in samplers.SAMPLERS.items():
        rows, rate = samplers.drawn(f, sampler, 7, 3)
        assert torch.equal(rows, samplers.drawn(f, sampler, 7, 3)[0]) and rate > 0
        assert not torch.equal(rows, samplers.drawn(f, sampler, 7, 4)[0])
        made[name] = rows
    one = Diffusion(f.model.layout, replace(TINY, sampler="heun", levels=128, sigma_max=80.0,
        sigma_min=0.002),
                    rules=f.rules)  # fmt: skip
    one.load_state_dict(f.model.state_dict())
    one.generator.manual_seed(3)
    assert torch.equal(made[samplers.OFFICIAL], one.generate(7))
    assert len({tuple(rows.flatten().tolist()) for rows in made.values()}) == len(made)


def test_a_study_of_samplers_writes_a_line_for_each_draw(tmp_path, monkeypatch):
    monkeypatch.setattr(samplers, "SAMPLERS", {"one, of 4": {"levels": 4}, "two": {"levels": 5}})
    argv = ["--tasks", "Hopper-v5", "--transitions", "400", "--rows", "60", "--repeats", "2"]
    tiny = ["--diffusion.width", "16", "--diffusion.updates", "30", "--out", str(tmp_path)]
    assert samplers.main([*argv, *tiny]) == 0
    lines = [x.split(",") for x in (tmp_path / "Hopper-v5.csv").read_text().splitlines()]
    told = json.loads((tmp_path / "Hopper-v5.json").read_text())
    assert [x[:2] for x in lines[1:]] == [["one of 4", "0"], ["two", "0"], ["one of 4", "1"],
                                          ["two", "1"]]  # fmt: skip
    at = lines[0].index("dynamics")
    assert [float(x[at]) for x in lines[1:]] == pytest.approx(
        [r["dynamics"] for r in told["rows"]], rel=1e-5
    )
    assert told["fit"]["rows"] == 400 and told["options"]["diffusion"]["width"] == 16
    assert told["stamp"]["cpu"] and told["loss_by_level"]["10.0"] < 5
    assert told["fit"]["nearest_held"] > 0
