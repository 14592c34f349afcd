"""Reverie's tasks through gymnasium's own doors."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import reverie.envs  # noqa: F401
from reverie.envs.tasks import TASKS

ALL = [f"reverie/{t}" for t in TASKS]
N = 3


@pytest.mark.parametrize("env_id", ALL)
def test_gymnasiums_checker_passes(env_id):
    check_env(gymnasium.make(env_id).unwrapped, skip_render_check=True)


def transitions(env, steps, acts, same_step):
    """Set of true transitions of a vector env, as tuples of bytes."""
    obs, _ = env.reset(seed=11)
    out, skip = [], np.zeros(N, bool)
    for a in acts[:steps]:
        nxt, reward, term, trunc, info = env.step(a)
        final = nxt.copy()
        if same_step and "final_obs" in info:
            for i in np.flatnonzero(info["_final_obs"]):
                final[i] = info["final_obs"][i]
        for i in range(N):
            if not skip[i]:
                row = (obs[i], a[i], final[i])
                out.append((i, *(x.tobytes() for x in row), float(reward[i]), term[i], trunc[i]))
        obs, ended = nxt, term | trunc
        if env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP:
            skip = ended
    return out


@pytest.mark.parametrize("env_id", ["reverie/Hopper-v5", "reverie/HalfCheetah-v5"])
def test_make_and_every_make_vec_give_the_same_first_50_transitions(env_id):
    vec = gymnasium.make_vec(env_id, N)
    vec.action_space.seed(0)
    acts = [vec.action_space.sample() for _ in range(50)]
    same = {"vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP}}
    envs = [
        (vec, True),
        (gymnasium.make_vec(env_id, N, vectorization_mode="sync", **same), True),
        (gymnasium.make_vec(env_id, N, vectorization_mode="async", **same), True),
    ]
    results = [transitions(env, 50, acts, flag) for env, flag in envs]
    assert results[0] == results[1] == results[2] and len(results[0]) == 50 * N
    for env, _ in envs:
        env.close()
    single = gymnasium.make(env_id)
    for i in range(N):
        obs, _ = single.reset(seed=11 + i)
        for step, row in enumerate(r for r in results[0] if r[0] == i):
            nxt, reward, term, trunc, _ = single.step(acts[step][i])
            assert row[1:4] == (obs.tobytes(), acts[step][i].tobytes(), nxt.tobytes())
            assert row[4:] == (float(reward), term, trunc)
            obs = single.reset()[0] if term or trunc else nxt


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_vector_of_gymnasiums_own_env_agrees_in_every_mode(mode):
    env_id, steps = "Hopper-v5", 80
    ours = gymnasium.make_vec(f"reverie/{env_id}", N, rng="gymnasium", autoreset_mode=mode)
    theirs = gymnasium.make_vec(
        env_id, N, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}
    )
    assert ours.metadata["autoreset_mode"] is mode
    theirs.action_space.seed(1)
    a, b = ours.reset(seed=5)[0], theirs.reset(seed=5)[0]
    assert np.array_equal(a, b)
    ended = 0
    for _ in range(steps):
        act = theirs.action_space.sample()
        x, y = ours.step(act), theirs.step(act)
        for left, right in zip(x[:4], y[:4], strict=True):
            assert np.array_equal(left, right)
        done = x[2] | x[3]
        ended += int(done.sum())
        if mode is AutoresetMode.SAME_STEP and done.any():
            for i in np.flatnonzero(done):
                assert np.array_equal(x[4]["final_obs"][i], y[4]["final_obs"][i])
                for key in y[4]["final_info"]:
                    if not key.startswith("_"):
                        assert np.array_equal(
                            x[4]["final_info"][key][i], y[4]["final_info"][key][i]
                        )
        if mode is AutoresetMode.DISABLED and done.any():
            options = {"reset_mask": done}
            assert np.array_equal(
                ours.reset(options=dict(options))[0], theirs.reset(options=options)[0]
            )
    assert ended > 3


def test_a_disabled_autoreset_that_is_forgotten_is_told():
    env = gymnasium.make_vec("reverie/Reacher-v5", 2, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    for _ in range(50):
        env.step(env.action_space.sample())
    with pytest.raises(RuntimeError, match="reset_mask"):
        env.step(env.action_space.sample())


def test_rendering_or_a_clear_message():
    env = gymnasium.make("reverie/Hopper-v5", render_mode="rgb_array")
    env.reset(seed=0)
    try:
        frame = env.render()
    except RuntimeError as error:
        assert "EGL or OSMesa" in str(error)
    else:
        assert frame.shape == (480, 480, 3) and frame.std() > 0
    env.close()
