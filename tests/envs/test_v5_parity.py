"""Every v5 task equals gymnasium's own, bit for bit, in float64."""

import gymnasium
import numpy as np
import pytest

import reverie.envs  # noqa: F401  (registers the tasks)

# One constructor parameter of each task that is not at its default.
OTHER = {
    "Ant-v5": {"contact_cost_weight": 1e-2},
    "HalfCheetah-v5": {"exclude_current_positions_from_observation": False},
    "Hopper-v5": {"healthy_z_range": (0.9, 2.0)},
    "Humanoid-v5": {"include_cinert_in_observation": False},
    "HumanoidStandup-v5": {"impact_cost_range": (-np.inf, 0.05)},
    "InvertedDoublePendulum-v5": {"healthy_reward": 3.0},
    "InvertedPendulum-v5": {"reset_noise_scale": 0.05},
    "Pusher-v5": {"reward_near_weight": 2.0},
    "Reacher-v5": {"reward_control_weight": 0.3},
    "Swimmer-v5": {"frame_skip": 3},
    "Walker2d-v5": {"terminate_when_unhealthy": False},
}
CASES = [(t, o, d) for t in OTHER for o, d in (({}, np.float32), ({}, np.float64))]
CASES += [(t, OTHER[t], np.float32) for t in OTHER]


def actions(space, rng, dtype):
    """Half random, half bang-bang."""
    draw = rng.uniform(space.low, space.high)
    return (np.where(draw > 0, space.high, space.low) if rng.random() < 0.5 else draw).astype(dtype)


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)


@pytest.mark.parametrize("task", list(OTHER))
def test_resets_equal_gymnasiums(task):
    theirs, ours = gymnasium.make(task), gymnasium.make(f"reverie/{task}", rng="gymnasium")
    for seed in range(32):
        for again in (seed, None):
            a, info_a = theirs.reset(seed=again)
            b, info_b = ours.reset(seed=again)
            assert a.dtype == b.dtype and same(a, b), f"seed {seed}"
            assert set(info_a) == set(info_b)
            for key, value in info_a.items():
                assert same(value, info_b[key]), key
            core = ours.unwrapped.env.physics.fields
            assert same(core.qpos[0], theirs.unwrapped.data.qpos)
            assert same(core.qvel[0], theirs.unwrapped.data.qvel)
            if hasattr(core, "cfrc_ext"):
                assert not core.cfrc_ext.any()


@pytest.mark.parametrize(("task", "options", "dtype"), CASES)
def test_steps_equal_gymnasiums(task, options, dtype):
    theirs = gymnasium.make(task, **options)
    ours = gymnasium.make(f"reverie/{task}", rng="gymnasium", **options)
    assert theirs.observation_space == ours.observation_space
    assert theirs.action_space == ours.action_space
    rng = np.random.default_rng(7)
    a, _ = theirs.reset(seed=3)
    b, _ = ours.reset(seed=3)
    ends = 0
    for step in range(300):
        act = actions(theirs.action_space, rng, dtype)
        a, ra, ta, ua, ia = theirs.step(act)
        b, rb, tb, ub, ib = ours.step(act)
        assert same(a, b), f"observation at step {step}: {np.abs(a - b).max()}"
        assert float(ra) == rb, f"reward at step {step}: {ra!r} {rb!r}"
        assert (ta, ua) == (tb, ub), f"ends at step {step}"
        assert set(ia) == set(ib), set(ia) ^ set(ib)
        for key, value in ia.items():
            assert same(value, ib[key]), f"info {key} at step {step}: {value!r} {ib[key]!r}"
        if ta or ua:
            ends += 1
            assert same(theirs.reset()[0], ours.reset()[0])
    if task in ("Hopper-v5", "InvertedPendulum-v5", "Reacher-v5", "Pusher-v5", "Humanoid-v5"):
        assert ends > 0
