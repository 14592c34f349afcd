"""Rewards, actions and draws of the worlds, against numbers worked out by hand."""

import math
from types import SimpleNamespace

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from known import Known

from reverie.agents import RandomPolicy, evaluate
from reverie.agents.playing import Stopped
from reverie.envs import make
from reverie.envs.contexts import Contexts
from reverie.envs.gym.foreign import ForeignEnv
from reverie.envs.native.env import TaskEnv
from reverie.envs.random import CounterDraws, uniforms
from reverie.envs.shown import show_context
from reverie.envs.task import Task
from reverie.envs.tasks import families, swingup

STEP = SimpleNamespace(dt=0.05)


def fields(**arrays):
    return SimpleNamespace(**{name: np.array(x, float) for name, x in arrays.items()})


def test_cheetah_vel_pays_by_the_distance_from_its_speed():
    """0.1 m in 0.05 s are 2 m/s, 0.5 off; the control costs 0.05 x 2."""
    p = SimpleNamespace(dt=0.05, velocity=np.array([1.5, 3.0]))
    f = fields(qpos=[[1.0], [1.0]])
    action = np.array([[1.0, -1.0], [0.0, 0.0]])
    value, terms = families.cheetah_vel_reward(np, np.array([0.9, 0.9]), f, action, p)
    assert value == pytest.approx([-0.5 - 0.1, -1.0])
    assert terms["x_velocity"] == pytest.approx([2, 2])


def test_ant_dir_pays_for_speed_along_its_direction():
    """(1, 3) m/s along 90 and 180 degrees; a force of 2 counts as 1."""
    p = SimpleNamespace(
        dt=0.05, direction=np.array([math.pi / 2, math.pi]), contact_force_range=(-1.0, 1.0)
    )
    force = np.zeros((2, 3, 6))
    force[0, 1, 2] = 2.0
    f = fields(qpos=[[0.05, 0.15], [0.05, 0.15]], cfrc_ext=force)
    action = np.array([[1.0, 0.0], [0.0, 0.0]])
    value, _ = families.ant_dir_reward(np, np.zeros((2, 2)), f, action, p)
    assert value == pytest.approx([3 - 0.5 - 5e-4 + 1, -1 + 1])


def test_walker_par_pays_for_speed_and_life():
    f, action = fields(qpos=[[1.0]]), np.array([[1.0, -1.0]])
    value, _ = families.walker_par_reward(np, np.array([0.9]), f, action, STEP)
    assert value == pytest.approx([2 + 1 - 1e-3 * 2])


def test_goals_are_columns_behind_the_observation():
    def seen(observe, p, **arrays):
        return observe(np, fields(**arrays), SimpleNamespace(show_goal=True, **p))

    state = {"qpos": [[9.0, 1.0, 2.0]], "qvel": [[3.0, 40.0]]}
    vel = seen(families.cheetah_vel_observe, {"velocity": 1.5, "legacy_obs": False}, **state)
    assert vel.tolist() == [[1, 2, 3, 40, 1.5]]
    ant = seen(families.ant_dir_observe, {"direction": math.pi / 2}, **state)
    assert ant[0] == pytest.approx([2, 3, 40, 0, 1])
    own = {"variant": 2.0, "exclude_current_positions_from_observation": True}
    par = seen(families.walker_par_observe, own, **state)
    assert par.tolist() == [[1, 2, 3, 10, 0, 0, 1, 0, 0, 0, 0, 0]]  # velocities within +-10


# -- swing-ups


@pytest.mark.parametrize(
    ("angle", "turn", "x", "value"),
    [
        (0.0, 0.0, 0.0, 1.0),
        (math.pi, 0.0, 0.0, 0.0),
        (math.pi / 3, 0.0, 0.0, 3 / 4),
        (-math.pi / 2, 0.0, 0.0, 1 / 2),
        (0.0, 5.0, 0.0, (1 + 0.1) / 2),  # a Gaussian that is 0.1 at 5 rad/s,
        (0.0, -2.5, 0.0, (1 + 0.1**0.25) / 2),  # of half of which it is the fourth root
        (0.0, 0.0, 1.0, (1 + 0.1**0.25) / 2),  # and at 2 m, which are beyond the rails
        (0.0, 0.0, -2.0, (1 + 0.1) / 2),
        (math.pi / 3, 5.0, 2.0, 3 / 4 * 0.55 * 0.55),
    ],
)
def test_a_swing_up_pays_for_being_upright_slow_and_in_the_middle(angle, turn, x, value):
    cart = fields(qpos=[[x, angle]], qvel=[[9.0, turn]])
    pole = fields(qpos=[[angle]], qvel=[[turn]])
    got, terms = swingup.reward(np, None, cart, np.zeros((1, 1)), SimpleNamespace(nq=2))
    assert got == pytest.approx([value]) and terms["reward_upright"] is got
    alone = value / ((1 + 0.1 ** (x**2 / 4)) / 2)  # a pole on no cart is everywhere in the middle
    got, _ = swingup.reward(np, None, pole, np.zeros((1, 1)), SimpleNamespace(nq=1))
    assert got == pytest.approx([alone])


def test_what_a_swing_up_shows_and_what_it_says_of_the_state():
    """x 0.5 at 3 m/s, 120 degrees at -10 rad/s: shown over 2 and over 5."""
    f, p = fields(qpos=[[0.5, 2 * math.pi / 3]], qvel=[[3.0, -10.0]]), SimpleNamespace(nq=2)
    shown = swingup.observe(np, f, p)
    assert shown[0] == pytest.approx([0.5, -0.5, 0.75**0.5, 1.5, -2])
    qpos, qvel = swingup.state_from_obs(np, shown, p)
    assert qpos == pytest.approx(f.qpos) and qvel == pytest.approx(f.qvel)
    # the reward is that of the successor: up at rest in the middle
    top = np.array([[0.0, 1.0, 0.0, 0.0, 0.0]])
    assert swingup.reward_from_obs(np, shown, None, top, p) == pytest.approx([1])


# -- contexts


def test_a_shown_context_stands_behind_both_observations_of_a_step():
    """Speeds 4, 5.5 and 10: -1, -0.5 and 1 of their range. World 0 ends, its successor is true."""
    contexts = Contexts(("speed", "same"), np.array([[4.0, 7.0], [5.5, 7.0], [10.0, 7.0]]))
    columns = {"raw": contexts.table.tolist(), "normalised": [[-1, 0], [-0.5, 0], [1, 0]]}
    for mode, shown in columns.items():
        inner = Known([[1], [2], [2]], paid=0.0)
        inner.contexts, inner.context_id = contexts, torch.arange(3)
        inner.context = torch.tensor(contexts.table).float()
        env = show_context(inner, mode)
        assert env.obs_dim == 5 and env.reset(8).shape == (3, 5) and inner.seeds == [8]
        r = env.step(torch.zeros(3, 1))
        after = [[0, 0, 1], [1, 0, 1], [2, 0, 1]]  # world, episode, t
        begun = [[0, 1, 0], *after[1:]]
        for got, want in ((r.final_obs, after), (r.obs, begun), (env.current_obs(), begun)):
            assert got[:, :3].tolist() == want
            assert torch.equal(got[:, 3:], torch.tensor(shown).float())
        assert r.reward.tolist() == [1, 2, 3] and r.terminated.tolist() == [True, False, False]
        assert env.context is inner.context
    assert show_context(inner, "hidden") is inner


# -- actions


def pushed_model(p):
    """A mass on a rail, pushed by a motor whose range is not around 0."""
    spec = mujoco.MjSpec()
    body = spec.worldbody.add_body()
    body.add_joint(name="x", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[1, 0, 0])
    body.add_geom(size=[0.1, 0, 0], mass=1, contype=0, conaffinity=0)
    motor = spec.add_actuator(name="push", target="x", trntype=mujoco.mjtTrn.mjTRN_JOINT)
    motor.ctrlrange, motor.ctrllimited = [1, 5], True
    return spec.compile()


PUSHED = Task(
    id="Pushed",
    model=pushed_model,
    fields=(),
    frame_skip=1,
    max_episode_steps=5,
    params={},
    observe=lambda xp, f, p: f.qpos + 0.0,
    reward=lambda xp, before, f, action, p: (action[:, 0] + 0.0, {}),
    reset=lambda xp, u, p: (u.uniform(0, 0, 1), u.uniform(0, 0, 1)),
)


def test_actions_of_a_task_span_its_motors_range():
    """From 1 to 5: -1, 0, 1 are 1, 3, 5; the reward is the control."""
    env = TaskEnv(PUSHED, 3)
    env.reset()
    action = torch.tensor([[-1.0], [0.0], [1.0]])
    assert env.to_native(action.numpy()).tolist() == [[1], [3], [5]]
    assert env.step(action).reward.tolist() == [1, 3, 5]
    assert env.physics.fields.ctrl.tolist() == [[1], [3], [5]]


def test_actions_of_a_foreign_env_span_its_box():
    class Boxed(gymnasium.Env):
        observation_space = Box(-1, 1, (1,), np.float32)
        action_space = Box(np.array([1.0, -4.0]), np.array([5.0, 0.0]), dtype=np.float64)

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            return np.zeros(1, np.float32), float(action @ [1, 10]), False, False, {}

    env = ForeignEnv(SyncVectorEnv([Boxed] * 2, autoreset_mode=AutoresetMode.DISABLED))
    env.reset()
    action = torch.tensor([[-1.0, 0.5], [0.0, 1.0]])  # (1, -1) and (3, 0)
    assert env.step(action).reward.tolist() == [1 - 10, 3]


# -- draws


def test_every_call_takes_the_next_draws_of_a_worlds_stream():
    worlds, episodes = np.array([0, 5]), np.array([2, 0])
    draws = CounterDraws(np, 3, worlds, episodes)
    stream = uniforms(np, 3, worlds, episodes, 0, 7)
    assert len(np.unique(stream)) == 14
    assert np.allclose(draws.uniform(-2, 4, 3), -2 + 6 * stream[:, :3], atol=1e-6)
    u, v = stream[:, 3:5], stream[:, 5:7]
    want = np.sqrt(-2 * np.log(1 - u)) * np.cos(2 * math.pi * v)
    assert np.allclose(draws.normal(2), want, atol=1e-6)


def test_the_first_point_inside_is_taken():
    worlds, episodes = np.arange(4), np.zeros(4, np.int64)

    def inside(xp, points):
        return points[..., 0] > 1.5

    got = CounterDraws(np, 0, worlds, episodes).accept((0.0, 10.0), (2.0, 20.0), inside)
    stream = uniforms(np, 0, worlds, episodes, 0, 64).reshape(4, 32, 2)
    points = stream * [2.0, 10.0] + [0.0, 10.0]
    want = [next(point for point in of_world if point[0] > 1.5) for of_world in points]
    assert np.allclose(got, want, atol=1e-5)


def test_worlds_go_on_behind_an_evaluation_and_behind_a_loaded_state():
    """Worlds whose episode is counted are left out; then, or stopped meanwhile, all are there."""
    env = make("reverie/PendulumSwingUp-v0", 2)
    saved = env.state_dict()
    evaluate(RandomPolicy(1), env)
    assert env.active is None
    env.active = np.array([1])
    env.load_state_dict(saved)
    assert env.active is None
    env.active = np.array([1])
    with pytest.raises(Stopped):
        evaluate(RandomPolicy(1), env, stop=lambda: True)
    assert env.active is None
