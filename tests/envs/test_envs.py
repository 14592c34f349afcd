"""The batched environment: invariance, seeds, state, bad worlds, bad input."""

import gymnasium
import numpy as np
import pytest
import torch

from reverie.envs import BatchEnv, make
from reverie.envs.native.contact_forces import by_get_data
from reverie.envs.native.engine import NativePhysics
from reverie.envs.native.env import TaskEnv
from reverie.envs.tasks import TASKS

ALL = list(TASKS)
SOME = ["HalfCheetah-v5", "Ant-v5", "Hopper-v5", "Reacher-v5"]


def actions(env, steps, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.rand(env.num_envs, env.act_dim, generator=g) * 2 - 1 for _ in range(steps)]


def play(env, acts):
    """Reset and step; return observations, rewards, ends, final observations, stacked over time."""
    out = [(env.reset(),)]
    rows = [env.step(a) for a in acts]
    return out[0][0], [torch.stack(x) for x in zip(*rows, strict=True)]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("task", ALL)
def test_threads_do_not_matter(task):
    runs = []
    for threads in (1, 2, 4):
        env = make(task, 6, seed=1, threads=threads)
        runs.append(play(env, actions(env, 40)))
    for first, rows in runs[1:]:
        assert torch.equal(first, runs[0][0]) and equal(rows, runs[0][1])


@pytest.mark.parametrize("task", ALL)
def test_a_world_is_the_same_among_8_and_64_and_alone(task):
    big = make(task, 64, seed=5, dtype=torch.float64)
    acts = actions(big, 30)
    obs, rows = play(big, acts)
    small = make(task, 8, seed=5, dtype=torch.float64)
    obs8, rows8 = play(small, [a[:8] for a in acts])
    assert torch.equal(obs8, obs[:8]) and equal(rows8, [x[:, :8] for x in rows])
    alone = make(
        task, 1, seed=5 + 7, dtype=torch.float64
    )  # world 7 of seed 5 is world 0 of seed 12
    obs1, rows1 = play(alone, [a[7:8] for a in acts])
    assert torch.equal(obs1, obs[7:8]) and equal(rows1, [x[:, 7:8] for x in rows])


@pytest.mark.parametrize("task", SOME)
def test_persistent_batches_do_not_matter(task, monkeypatch):
    env = make(task, 4, seed=2)
    reference = play(env, actions(env, 40))
    if not TASKS[task].contact_forces:
        from reverie.envs.native import engine

        real = engine.Batch
        monkeypatch.setattr(engine, "Batch", lambda *a, **k: real(*a, **{**k, "persistent": True}))
        other = make(task, 4, seed=2)
        assert other.physics.batch.persistent
    else:  # here the slow route to the contact forces is the other way
        other = make(task, 4, seed=2)
        other.physics._forces = by_get_data
    rows = play(other, actions(other, 40))
    assert torch.equal(rows[0], reference[0]) and equal(rows[1], reference[1])


@pytest.mark.parametrize("task", ["Ant-v5", "Humanoid-v5", "HumanoidStandup-v5"])
def test_the_fast_route_to_contact_forces_is_taken_and_named(task):
    assert make(task, 2).notes["cfrc_ext"] == "mjb_apply"


@pytest.mark.parametrize("task", SOME)
def test_a_masked_reset_leaves_the_other_worlds_alone(task):
    def run(reset):
        env = TaskEnv(TASKS[task], 5, seed=3)
        acts = [a.numpy() for a in actions(env, 12)]
        rows = []
        for i, a in enumerate(acts):
            rows.append(env.advance(a)[0][[0, 1, 3]])
            if reset and i == 5:
                env.restart(np.array([2, 4]))
        return np.stack(rows)

    assert np.array_equal(run(False), run(True))


@pytest.mark.parametrize("task", ALL)
def test_seeds(task):
    env = make(task, 3, seed=9)
    acts = actions(env, 25)
    first = play(env, acts)
    again = make(task, 3, seed=9)
    second = play(again, acts)
    assert torch.equal(first[0], second[0]) and equal(first[1], second[1])
    assert torch.equal(env.reset(seed=9), first[0])  # the stream of episodes starts over
    assert not torch.equal(env.reset(), first[0])
    assert not torch.equal(make(task, 3, seed=10).reset(), first[0])


@pytest.mark.parametrize("task", ALL)
def test_state_rows_replay_the_next_observation_bit_for_bit(task):
    env = make(task, 4, seed=0)
    acts = actions(env, 60)
    env.reset()
    for a in acts[:30]:
        env.step(a)
    saved, here = env.state_dict(), env.current_obs()
    ahead = [env.step(a) for a in acts[30:]]
    for other in (env, make(task, 4, seed=77)):  # the same object, and a fresh one
        other.load_state_dict(saved)
        assert torch.equal(other.current_obs(), here)
        for a, expected in zip(acts[30:], ahead, strict=True):
            assert equal(other.step(a), expected)


def test_set_state_of_single_rows_from_a_buffer():
    env = TaskEnv(TASKS["Walker2d-v5"], 4, dtype=torch.float64)
    acts = actions(env, 20)
    stored = []
    env.reset()
    for a in acts:
        before = env.physics.get_state()
        stored.append((before, a, env.step(a).final_obs))
    for rows, a, expected in stored[::5]:
        env.physics.set_state(rows)
        obs = env.advance(a.double().numpy())[0]
        assert np.array_equal(obs, expected.numpy())


def test_stage_vel_is_mj_step_then_mj_step1():
    import mujoco

    model = TASKS["HalfCheetah-v5"].model(make("HalfCheetah-v5").p)
    batch = NativePhysics([model], 2, ("xpos", "cvel"), refresh="vel", threads=2)
    data = mujoco.MjData(model)
    qpos = np.tile(model.qpos0, (2, 1))
    batch.reset(None, qpos, np.zeros((2, model.nv)))
    mujoco.mj_forward(model, data)
    rng = np.random.default_rng(0)
    for _ in range(50):
        ctrl = rng.uniform(-1, 1, model.nu)
        data.ctrl[:] = ctrl
        mujoco.mj_step(model, data, nstep=5)
        mujoco.mj_step1(model, data)
        batch.step(np.tile(ctrl, (2, 1)), 5)
        for name in ("qpos", "qvel", "xpos", "cvel"):
            assert np.array_equal(getattr(batch.fields, name)[1], getattr(data, name)), name


def test_world_order_does_not_matter():
    env = TaskEnv(TASKS["Ant-v5"], 4, seed=0)
    acts = actions(env, 20)
    order = np.array([2, 0, 3, 1])
    mixed = TaskEnv(TASKS["Ant-v5"], 4, seed=0)
    mixed.physics.set_state(env.physics.get_state()[order])
    mixed._carry = env.task.before(np, env.physics.fields, env.p)[order]
    for a in acts:
        one, other = env.advance(a.numpy()), mixed.advance(a.numpy()[order])
        assert all(np.array_equal(x[order], y) for x, y in zip(one[:4], other[:4], strict=True))


@pytest.mark.parametrize("value", [np.nan, 1e12])
@pytest.mark.parametrize("task", SOME)
def test_a_bad_world_is_flagged_reset_and_leaves_the_others_alone(task, value):
    env, clean = make(task, 6, seed=4), make(task, 6, seed=4)
    acts = actions(env, 10)
    env.reset(), clean.reset()
    for i, a in enumerate(acts):
        if i == 4:
            env.physics.fields.qvel[2] = value
        got, expected = env.step(a), clean.step(a)
        others = [0, 1, 3, 4, 5]
        assert all(torch.equal(x[others], y[others]) for x, y in zip(got, expected, strict=True))
        assert bool(got.valid[2]) is (i != 4)
        assert torch.isfinite(got.obs).all() and torch.isfinite(got.final_obs).all()
        if i == 4:
            assert got.truncated[2] and not got.terminated[2] and got.reward[2] == 0
    assert env.bad_worlds == 1


@pytest.mark.parametrize("task", SOME)
def test_what_is_returned_is_never_written_again(task):
    env = make(task, 3, seed=0)
    kept = [env.reset()]
    for a in actions(env, 60):
        kept += list(env.step(a))
    copies = [x.clone() for x in kept]
    for a in actions(env, 30, seed=1):
        env.step(a)
    env.reset()
    assert equal(kept, copies)


def test_a_task_that_returns_a_live_view_is_refused():
    from dataclasses import replace

    with pytest.raises(ValueError, match="live view"):
        TaskEnv(replace(TASKS["Hopper-v5"], observe=lambda xp, f, p: f.qpos))


def test_batch_env_protocol():
    assert isinstance(make("Hopper-v5"), BatchEnv)
    assert isinstance(make("Pendulum-v1", 2), BatchEnv)


def test_max_episode_steps():
    for limit, expected in ((None, 50), (7, 7)):
        env = make("Reacher-v5", 2, max_episode_steps=limit)
        acts = actions(env, 60)
        env.reset()
        cuts = [i for i, a in enumerate(acts) if bool(env.step(a).truncated.any())]
        assert cuts[0] == expected - 1
    env = make("Reacher-v5", 2, max_episode_steps=0)
    env.reset()
    assert not any(bool(env.step(a).truncated.any()) for a in actions(env, 60))


BAD_INPUT = [
    (lambda: make("reverie/HalfCheeta-v5"), "did you mean 'reverie/HalfCheetah-v5'"),
    (lambda: make("Pendulm-v1"), "did you mean 'Pendulum-v1'"),
    (lambda: make("HalfCheetah-v5", ctrl_cost=1), "did you mean 'ctrl_cost_weight'"),
    (lambda: make("HalfCheetah-v5", backend="gym"), "did you mean 'gymnasium'"),
    (lambda: make("HalfCheetah-v5", rng="gymnasum"), "did you mean 'gymnasium'"),
    (lambda: make("HalfCheetah-v5", 0), "at least 1"),
    (lambda: make("HalfCheetah-v5", 2).step(torch.zeros(3, 6)), r"\(3, 6\), expected \(2, 6\)"),
    (lambda: make("HalfCheetah-v5", 2).step(torch.full((2, 6), torch.nan)), "not finite"),
    (lambda: make("Blackjack-v1", 2), "not supported"),
]


@pytest.mark.parametrize(("call", "text"), BAD_INPUT)
def test_bad_input_is_told(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_a_missing_autoreset_mode_is_refused():
    from reverie.envs.gym.foreign import ForeignEnv

    env = gymnasium.make_vec("Pendulum-v1", 2, vectorization_mode="sync")
    env.metadata = {}
    with pytest.raises(ValueError, match="autoreset_mode"):
        ForeignEnv(env)


def test_discrete_actions_become_one_hot_columns():
    env = make("CartPole-v1", 3)
    assert env.discrete and env.act_dim == 2
    env.reset()
    step = env.step(torch.eye(2)[[0, 1, 0]])
    assert step.obs.shape == (3, 4)


def test_a_task_of_ones_own_module(tmp_path, monkeypatch):
    (tmp_path / "my_tasks.py").write_text(
        "from dataclasses import replace\n"
        "from reverie.envs import register_task\n"
        "from reverie.envs.tasks import TASKS\n"
        "register_task(replace(TASKS['Hopper-v5'], id='MyHopper-v0', max_episode_steps=9))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    env = make("my_tasks:reverie/MyHopper-v0", 2)
    try:
        assert isinstance(env, TaskEnv) and env.max_episode_steps == 9
        with pytest.raises(ValueError, match="taken"):
            from dataclasses import replace

            from reverie.envs import register_task

            register_task(replace(TASKS["Hopper-v5"], id="MyHopper-v0"))
    finally:
        del TASKS["MyHopper-v0"]
