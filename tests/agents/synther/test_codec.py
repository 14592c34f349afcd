"""Features of rows and back: statistics, actions, ends and rewards."""

import dataclasses

import numpy as np
import pytest
import torch

from reverie.agents import RandomPolicy
from reverie.agents.synther.codec import Codec, Rules, rules_of
from reverie.agents.synther.config import FAITHFUL, DiffusionConfig
from reverie.buffers import Layout, Transitions
from reverie.envs import make

LAYOUT = Layout(2, 1)
ROWS = torch.tensor(  # obs 0, obs 1, action, reward, next 0, next 1, terminated, truncated
    [[1.0, 4.0, 0.5, 10.0, 2.0, 7.0, 0.0, 0.0], [3.0, 4.0, -0.5, 30.0, 6.0, 9.0, 1.0, 1.0]]
)
RULES = Rules(lambda then: then[:, 0] > 4, lambda obs, act, then: obs[:, 0] + act[:, 0])


def codec(config=FAITHFUL, rules=None, **changes):
    out = Codec(LAYOUT, dataclasses.replace(config, **changes), rules)
    out.fit(ROWS)
    return out


def test_features_by_hand():
    """Means 2, 4, 0, 20, 4, 8; unbiased deviations sqrt 2 * (1, 0, .5, 10, 2, 1)."""
    one, half = codec(), 1 / 2**0.5
    assert one.names() == [
        *("obs[0]", "obs[1]", "action[0]", "reward", "next_obs[0]", "next_obs[1]", "terminated")
    ]
    assert one.mean.tolist() == pytest.approx([2, 4, 0, 20, 4, 8, 0])
    root = 2**0.5
    assert one.std.tolist() == pytest.approx(
        [root + 1e-5, 1e-5, root / 2 + 1e-5, 10 * root + 1e-5, 2 * root + 1e-5, root + 1e-5, 1]
    )
    first, second = one.encode(ROWS).tolist()
    assert first == pytest.approx([-half, 0, half, -half, -half, -half, 0], abs=2e-5)
    assert second == pytest.approx([half, 0, -half, half, half, half, 1], abs=2e-5)


@pytest.mark.parametrize("config", [FAITHFUL, DiffusionConfig()])
def test_what_is_decoded_is_what_was_encoded_but_never_truncated(config):
    one = codec(config)
    wanted = ROWS.clone()
    wanted[:, -1] = 0
    assert torch.allclose(one.decode(one.encode(ROWS)), wanted, atol=1e-5)


def test_a_constant_comes_back_whatever_is_drawn():
    rows = ROWS.repeat(101, 1)[:201]
    rows[:, 1] = 1234.567
    one = codec()
    one.fit(rows)
    assert not one.encode(rows)[:, 1].any()  # a float32 mean is off by 12 deviations of 1e-5
    out = one.decode(4 * torch.randn(100, one.dim, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(out[:, 1], rows[0, 1], atol=2e-3)


def test_actions_by_arctanh_stay_in_the_box():
    """arctanh(.5) = .549306; at +-1 it is cut to arctanh(.999) = 3.800201."""
    one = codec(DiffusionConfig())
    assert float(one.std[2]) == pytest.approx(0.549306 * 2**0.5, rel=1e-4)
    rows = torch.cat([ROWS, ROWS, ROWS])
    rows[:, 2] = torch.tensor([1.0, -1.0, 0.999, 0.5, 0.0, -0.5])
    raw = one.encode(rows)[:, 2] * one.std[2] + one.mean[2]
    assert raw.tolist() == pytest.approx(
        [3.8002, -3.8002, 3.8002, 0.549306, 0, -0.549306], abs=1e-4
    )
    assert rows[0, 2] == 1  # and the rows are left as they were
    far = torch.full((1, one.dim), 50.0)
    assert float(one.decode(far)[0, 2]) == 1


def test_raw_actions_are_clipped_or_left():
    far = torch.full((1, 7), 10.0)  # 10 deviations of sqrt(1/2)
    assert float(codec(clip=True).decode(far)[0, 2]) == 1
    assert float(codec(clip=False).decode(far)[0, 2]) == pytest.approx(7.0711, abs=1e-3)


def test_ends_are_cut_at_one_half_left_raw_or_never():
    features = torch.zeros(3, 7)
    features[:, 6] = torch.tensor([0.49, 0.51, -0.2])
    assert codec(terminal="threshold").decode(features)[:, 6].tolist() == [0, 1, 0]
    raw = codec(terminal="raw").decode(features)[:, 6]
    assert raw.tolist() == pytest.approx([0.49, 0.51, -0.2])
    none = codec(terminal="none")
    assert none.dim == 6 and none.decode(features[:, :6])[:, 6].tolist() == [0, 0, 0]


def test_what_rules_give_is_not_modelled():
    """next_obs[0] > 4 ends; the reward is obs[0] + action, 1.5 and 2.5 in the two rows."""
    one = codec(DiffusionConfig(), RULES)
    assert one.dim == 5 and "reward" not in one.names() and "terminated" not in one.names()
    out = one.decode(one.encode(ROWS))
    assert out[:, 3].tolist() == pytest.approx([1.5, 2.5], abs=1e-5)
    assert out[:, 6].tolist() == [0, 1]
    assert codec(FAITHFUL, RULES).dim == 7  # as published they are


def test_a_raw_reward_is_not_normalised():
    one = codec(reward="raw")
    assert one.encode(ROWS)[:, 3].tolist() == [10, 30]
    assert one.std[0] != 1 and one.std[5] != 1


def test_statistics_are_saved_exactly_and_others_are_refused():
    one, other = codec(), Codec(LAYOUT, FAITHFUL)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.encode(ROWS), one.encode(ROWS))
    with pytest.raises(ValueError, match="the state has 7 features, this model 5"):
        Codec(LAYOUT, DiffusionConfig(), RULES).load_state_dict(one.state_dict())


def played(env_id, steps=50, num_envs=16):
    env = make(env_id, num_envs, seed=3)
    policy, obs, out = RandomPolicy(env.act_dim, seed=1), env.reset(), []
    for _ in range(steps):
        action, _ = policy.act(obs, (), explore=True)
        r = env.step(action)
        flags = r.terminated.float(), torch.zeros(num_envs)
        out.append(Transitions(obs, action, r.reward, r.final_obs, *flags))
        obs = r.obs
    return env, Transitions(*(torch.cat(x) for x in zip(*(b[:6] for b in out), strict=True)))


@pytest.mark.parametrize(
    ("env_id", "ends", "pays"),
    [("Hopper-v5", True, False), ("HalfCheetah-v5", False, False), ("Reacher-v5", False, True)],
)
def test_the_rules_of_a_task_are_what_its_steps_said(env_id, ends, pays):
    env, batch = played(f"reverie/{env_id}")
    rules = rules_of(env)
    assert torch.equal(rules.terminated(batch.next_obs).float(), batch.terminated)
    assert bool(batch.terminated.any()) == ends and (rules.reward is not None) == pays
    if pays:
        again = rules.reward(batch.obs, batch.action, batch.next_obs)
        assert torch.allclose(again.float(), batch.reward, atol=1e-5)


def test_actions_reach_the_rule_in_the_tasks_own_units():
    """InvertedPendulum's motor takes +-3; its reward does not say it, so look at what is given."""
    env = make("reverie/InvertedPendulum-v5", 2)
    seen = []
    task = dataclasses.replace(
        env.task, reward_from_obs=lambda xp, obs, act, then, p: seen.append(act) or obs[:, 0]
    )
    env.task = task
    rules_of(env).reward(torch.zeros(2, 4), torch.tensor([[1.0], [-0.5]]), torch.zeros(2, 4))
    assert np.allclose(seen[0], [[3.0], [-1.5]])


def test_worlds_of_several_contexts_and_foreign_ones_have_no_rules():
    class Foreign:
        task = None

    assert rules_of(Foreign()) == Rules()
    one, two = (make("reverie/CheetahVel-v0", 2, context={"velocity": v}) for v in ([1.0], [1, 2]))
    assert rules_of(one).terminated is not None and rules_of(two) == Rules()
