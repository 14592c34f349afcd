"""Stable-Baselines3 as a client: our worlds as its VecEnv, our buffer as its replay buffer."""

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.env_checker import check_env

from reverie.buffers import Layout
from reverie.buffers.sb3 import SB3ReplayBuffer
from reverie.envs import make, to_sb3
from reverie.envs.tasks import TASKS


def same_parameters(a, b):
    left, right = a.policy.state_dict(), b.policy.state_dict()
    return all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("algo", [PPO, SAC, TD3])
def test_sb3_trains_unchanged_on_our_worlds(algo):
    env = to_sb3(make("InvertedPendulum-v5", 4, seed=1, max_episode_steps=30))
    small = {"policy_kwargs": {"net_arch": [16]}, "seed": 0, "device": "cpu"}
    extra = {"n_steps": 16, "batch_size": 16} if algo is PPO else {"learning_starts": 40}
    model = algo("MlpPolicy", env, **small, **extra)
    before = {k: v.clone() for k, v in model.policy.state_dict().items()}
    model.learn(160)
    assert any(not torch.equal(v, before[k]) for k, v in model.policy.state_dict().items())
    action, _ = model.predict(env.reset())
    assert action.shape == (4, 1)


def test_terminal_observation_and_truncated_are_right():
    acts = torch.rand(200, 3, 1, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ours = make("InvertedPendulum-v5", 3, seed=2, max_episode_steps=9)
    door = to_sb3(make("InvertedPendulum-v5", 3, seed=2, max_episode_steps=9))
    assert torch.equal(ours.reset(), torch.from_numpy(door.reset()))
    kinds = set()
    for a in acts:
        r = ours.step(a)
        obs, reward, done, infos = door.step(a.numpy())
        assert (obs == r.obs.numpy()).all() and (reward == r.reward.numpy()).all()
        assert (done == (r.terminated | r.truncated).numpy()).all()
        for i in range(3):
            if done[i]:
                cut = bool(r.truncated[i]) and not bool(r.terminated[i])
                kinds.add(cut)
                assert infos[i]["TimeLimit.truncated"] is cut
                assert (infos[i]["terminal_observation"] == r.final_obs[i].numpy()).all()
            else:
                assert infos[i] == {}
    assert kinds == {True, False}


def test_the_door_agrees_with_sb3s_own_vec_env():
    from stable_baselines3.common.env_util import make_vec_env

    theirs = make_vec_env("reverie/Reacher-v5", n_envs=2, seed=4)
    ours = to_sb3(make("Reacher-v5", 2, seed=4))
    ours.seed(4)
    a, b = theirs.reset(), ours.reset()
    assert np.allclose(a, b, atol=0, rtol=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(120):
        act = rng.uniform(-1, 1, (2, 2)).astype(np.float32)
        x, y = theirs.step(act), ours.step(act)
        assert np.allclose(x[0], y[0], rtol=1e-5, atol=1e-6) and np.allclose(x[1], y[1], rtol=1e-5)
        assert (x[2] == y[2]).all()
        for left, right in zip(x[3], y[3], strict=True):
            assert left.get("TimeLimit.truncated", False) == right.get("TimeLimit.truncated", False)
            if "terminal_observation" in left:
                assert np.allclose(
                    left["terminal_observation"],
                    right["terminal_observation"],
                    rtol=1e-5,
                    atol=1e-6,
                )


@pytest.mark.parametrize("algo", [SAC, TD3])
def test_sb3_learns_from_our_buffer(algo):
    env = to_sb3(make("InvertedPendulum-v5", 2, seed=1, max_episode_steps=20))
    model = algo(
        "MlpPolicy", env, replay_buffer_class=SB3ReplayBuffer, replay_buffer_kwargs={"seed": 3},
        buffer_size=300, learning_starts=40, policy_kwargs={"net_arch": [16]}, seed=0, device="cpu",
    )  # fmt: skip
    model.learn(500)
    buffer = model.replay_buffer
    assert buffer.ours.total == 250 and buffer.size() == 300
    batch = buffer.sample(200)
    assert batch.observations.shape == (200, 4) and batch.dones.shape == (200, 1)
    assert 0 < batch.dones.mean() < 0.5


def test_our_buffer_holds_what_sb3s_holds():
    from stable_baselines3.common.buffers import ReplayBuffer as Theirs

    env = to_sb3(make("InvertedPendulum-v5", 3, seed=5, max_episode_steps=7))
    spaces = (env.observation_space, env.action_space)
    theirs, ours = (
        Theirs(150, *spaces, "cpu", n_envs=3),
        SB3ReplayBuffer(150, *spaces, "cpu", n_envs=3),
    )
    obs = env.reset()
    rng = np.random.default_rng(0)
    for _ in range(70):
        act = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
        nxt, reward, done, infos = env.step(act)
        true = nxt.copy()
        for i, info in enumerate(infos):
            if "terminal_observation" in info:
                true[i] = info["terminal_observation"]
        for buffer in (theirs, ours):
            buffer.add(obs, true, act, reward, done, infos)
        obs = nxt
    t = ours.ours.layout.unpack(ours.ours._rows)
    assert isinstance(ours.layout, Layout)
    assert (t.obs.numpy() == theirs.observations).all()
    assert (t.next_obs.numpy() == theirs.next_observations).all()
    assert (t.reward.numpy() == theirs.rewards).all()
    assert (t.terminated.numpy() == theirs.dones * (1 - theirs.timeouts)).all()
    assert (t.truncated.numpy() == theirs.timeouts).all()


def test_what_a_door_cannot_say_is_refused():
    with pytest.raises(ValueError, match="discrete"):
        to_sb3(make("CartPole-v1", 2))
    box = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    with pytest.raises(ValueError, match="Box spaces"):
        SB3ReplayBuffer(10, gymnasium.spaces.Discrete(3), box)
    with pytest.raises(ValueError, match="VecNormalize"):
        SB3ReplayBuffer(10, box, box, "cpu").sample(2, env=object())


@pytest.mark.parametrize("task", TASKS)
def test_sb3s_checker_passes_on_our_single_envs(task):
    check_env(gymnasium.make(f"reverie/{task}").unwrapped, warn=False, skip_render_check=True)
