"""What an observation says: state, end and reward of every task, from its rows alone."""

import numpy as np
import pytest
import torch

from reverie.agents import RandomPolicy
from reverie.envs import make
from reverie.envs.tasks import TASKS

SHOWN = [name for name, task in TASKS.items() if task.state_from_obs is not None]
ENDING = [name for name, task in TASKS.items() if task.terminated_from_obs is not None]
REWARDED = [name for name, task in TASKS.items() if task.reward_from_obs is not None]


def rows(name, steps=60, num_envs=16):
    """Return observations, actions, successors, rewards and ends of random play, in float64."""
    env = make(f"reverie/{name}", num_envs, seed=3, dtype=torch.float64)
    policy, obs, out = RandomPolicy(env.act_dim, seed=1), env.reset(), []
    for _ in range(steps):
        action, _ = policy.act(obs, (), explore=True)
        r = env.step(action)
        out.append((obs, action, r.final_obs, r.reward, r.terminated))
        obs = r.obs
    return env, [torch.cat(x).numpy() for x in zip(*out, strict=True)]


def test_every_task_says_what_it_hides_or_gives_all():
    for task in TASKS.values():
        whole = task.state_from_obs and task.reward_from_obs
        ends = task.terminated is None or task.terminated_from_obs
        assert task.hides or (whole and ends), task.id


@pytest.mark.parametrize("name", SHOWN)
def test_the_state_of_an_observation_leads_to_the_same_successor(name):
    """Put back into an engine and stepped once, it gives the successor to 1e-6; Humanoids: 1e-5."""
    env, (obs, action, successor, _, _) = rows(name, 20 if "Humanoid" in name else 60)
    task, p = env.task, env.p
    qpos, qvel = task.state_from_obs(np, obs, p)
    assert qpos.shape == (len(obs), p.nq) and qvel.shape == (len(obs), p.nv)
    told = np.zeros(len(obs), bool)
    if task.saturated is not None:
        told = task.saturated(np, obs, p)
    twin = make(f"reverie/{name}", len(obs), dtype=torch.float64)
    twin.physics.reset(None, qpos, qvel)
    again = task.observe(np, twin.physics.fields, twin.p)
    width = np.isclose(again, obs, atol=1e-9).all(0)  # columns of state; contact forces lag
    after, *_ = twin.advance(twin.to_native(action))
    gap = np.abs(after - successor)[~told][:, width]
    assert told.mean() < 0.85, f"{told.mean():.0%} of the rows lie at a clip"
    assert width.sum() >= p.nq + p.nv - 4
    calm = np.quantile(gap.max(1), 0.99)
    exact = 1e-5 if "Humanoid" in name else 1e-6  # PGS stops early: its warm start is hidden too
    assert calm < exact, (
        f"{name}: {calm:.1e}, at most {gap.max():.1e}, told apart {told.mean():.0%}"
    )


@pytest.mark.parametrize("name", ENDING)
def test_the_end_of_an_episode_is_seen_in_its_last_observation(name):
    env, (_, _, successor, _, ended) = rows(name)
    told = np.zeros(len(ended), bool)
    if env.task.saturated is not None:
        told = env.task.saturated(np, successor, env.p)
    seen = env.task.terminated_from_obs(np, successor, env.p)
    assert ended.any() and (seen == ended)[~told].all()


@pytest.mark.parametrize("name", REWARDED)
def test_the_reward_follows_from_the_row(name):
    env, (obs, action, successor, reward, _) = rows(name)
    native = env.to_native(action)
    assert np.allclose(
        env.task.reward_from_obs(np, obs, native, successor, env.p), reward, atol=1e-6
    )


@pytest.mark.parametrize("name", ["CartPoleSwingUp-v0", "PendulumSwingUp-v0"])
def test_swing_up_by_hand(name):
    """Reward, observation and start of the two swing-ups, from their definitions."""
    env = make(f"reverie/{name}", 64, seed=0, dtype=torch.float64)
    obs = env.reset().numpy()
    cart = int(name.startswith("Cart"))
    assert obs.shape == (64, 5 if cart else 3)
    cosine, sine = obs[:, cart], obs[:, cart + 1]
    assert np.allclose(cosine**2 + sine**2, 1) and (cosine < np.cos(np.pi - 0.31)).all()
    q, v = (np.array([[0.0, np.pi / 2]]), np.array([[0.0, 5.0]])) if cart else (
        np.array([[np.pi / 2]]), np.array([[5.0]]))  # fmt: skip
    one = make(f"reverie/{name}", 1, dtype=torch.float64)
    one.physics.reset(None, q, v)
    value = one.task.reward(np, None, one.physics.fields, np.zeros((1, 1)), one.p)[0]
    assert np.isclose(value, 0.5 * (1 + 0.1) / 2, atol=1e-4)  # level, at 5 rad/s, in the middle


def test_the_wide_start_is_wide():
    env = make("reverie/CartPoleSwingUp-v0", 256, seed=0, wide=True)
    obs = env.reset()
    assert obs[:, 1].min() < -0.9 and obs[:, 1].max() > 0.9 and obs[:, 0].abs().max() > 0.8
