"""Contexts: every feature changes the trajectory, every default leaves it bit for bit."""

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from mujoco.batch import Batch

from reverie.envs import BatchEnv, Contexts, Task, make
from reverie.envs.contexts import FEATURES, default, parse_contexts
from reverie.envs.native.env import TaskEnv
from reverie.envs.shown import ContextShown
from reverie.envs.tasks import TASKS

# What a task has nothing of is refused; what cannot show in its plane is not claimed.
ABSENT = {
    "Ant-v5": {"stiffness"},
    "AntDir-v0": {"stiffness"},
    "WalkerPar-v0": {"stiffness"},
    "Hopper-v5": {"stiffness"},
    "Walker2d-v5": {"stiffness"},
    "Pusher-v5": {"stiffness"},
    "Swimmer-v5": {"stiffness", "damping", "friction"},
    "Swim-v0": {"stiffness", "damping", "friction"},
    "Reacher-v5": {"stiffness", "friction"},
    "InvertedPendulum-v5": {"stiffness", "friction", "armature"},
    "InvertedDoublePendulum-v5": {"stiffness", "friction", "armature"},
    "CartPoleSwingUp-v0": {"stiffness", "friction", "armature"},
    "PendulumSwingUp-v0": {"stiffness", "friction", "armature"},
}
UNSEEN = {("Swimmer-v5", "gravity"), ("Reacher-v5", "gravity"), ("Swim-v0", "gravity"),
          ("Pusher-v5", "friction")}  # fmt: skip


def play(env, steps=40):
    g = torch.Generator().manual_seed(1)
    rows = [env.reset()]
    for _ in range(steps):
        action = torch.rand(1, env.act_dim, generator=g) * 2 - 1
        rows.append(env.step(action.expand(env.num_envs, -1).contiguous()).final_obs)
    return torch.stack(rows)


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("task", TASKS)
def test_every_feature_is_real_and_its_default_changes_nothing(task, feature):
    plain = make(task, 1)
    usual = default(plain.model, feature)
    values = [usual, usual * 1.5 if usual else 0.01]
    if feature in ABSENT.get(task, ()):
        with pytest.raises(ValueError, match="would change nothing"):
            make(task, 2, context={feature: values})
        return
    both, alone = play(make(task, 2, context={feature: values})), play(plain)
    assert torch.equal(both[:, 0], alone[:, 0])
    assert torch.equal(both[:, 1], alone[:, 0]) == ((task, feature) in UNSEEN)


@pytest.mark.parametrize("task", ["Hopper-v5", "Ant-v5"])
def test_masses_equal_mujocos_own_expanded_fields(task):
    """Agreement test 9: our models against the batch's per-world fields, bit for bit."""
    factors = np.array([0.5, 1.0, 1.5, 2.0])
    env = make(task, 4, context={"mass": factors}, dtype=torch.float64)
    model = make(task, 1).model
    batch = Batch(model, 4, 1, persistent=True)
    state = env.physics.get_state()
    for name in ("body_mass", "body_inertia"):
        field = batch.expand(name)
        field *= factors.reshape(-1, *[1] * (field.ndim - 1))
    batch.set_const()
    batch.state[:] = state
    action = np.random.default_rng(0).uniform(-1, 1, (50, 4, env.act_dim))
    for a in action:
        env.physics.step(a, env.p.frame_skip)
        batch.ctrl[:] = a
        batch.step(None, env.p.frame_skip)
        assert np.array_equal(env.physics.get_state(), batch.state)
    assert len(np.unique(env.physics.fields.qpos[:, 1])) == 4


@pytest.mark.parametrize("task", ["Humanoid-v5", "Ant-v5", "Hopper-v5", "Swimmer-v5", "Pusher-v5"])
def test_a_world_of_a_batch_equals_the_world_alone(task):
    """Everything derived from the model is each world's own: masses, dt, start pose, forces."""
    rows = Contexts(("mass", "timestep", "gear"), [[1, 0.002, 1], [1.3, 0.003, 0.7]])
    many = make(task, 4, seed=3, context=rows)
    expected = play(many, 25)
    for i in range(2):
        row = Contexts(rows.names, rows.table[i : i + 1])
        alone = play(make(task, 1, seed=3, context=row), 25)
        assert torch.equal(expected[:, i], alone[:, 0])
    assert not torch.equal(expected[:, 0], expected[:, 2])  # the next group: other starts


def test_world_i_plays_row_i_mod_k_and_groups_start_alike():
    env = make("Hopper-v5", 6, context={"gravity": [9.81, 5.0], "mass": [1.0]})
    assert env.contexts.names == ("gravity", "mass") and len(env.contexts) == 2
    assert env.context_id.tolist() == [0, 1, 0, 1, 0, 1]
    assert torch.allclose(env.context[:, 0], torch.tensor([9.81, 5.0] * 3))
    obs = env.reset(4)
    assert torch.equal(obs[0::2], obs[1::2]) and not torch.equal(obs[0], obs[2])
    assert torch.equal(obs[0::2], make("Hopper-v5", 3).reset(4))


def test_streams_choose_the_start_states():
    obs = make("Hopper-v5", 4, streams=[0, 1, 0, 1], seed=2).reset()
    assert torch.equal(obs[:2], obs[2:]) and torch.equal(
        obs[:2], make("Hopper-v5", 2, seed=2).reset()
    )
    with pytest.raises(ValueError, match="streams"):
        make("Hopper-v5", 4, streams=[0, 1])


def test_a_body_or_joint_can_be_named():
    env = make("Hopper-v5", 2, context={"mass:torso": [1, 2]})
    one, two = env.physics.models
    torso = one.body("torso").id
    changed = np.flatnonzero(one.body_mass != two.body_mass)
    assert changed.tolist() == [torso] and two.body_mass[torso] == 2 * one.body_mass[torso]
    with pytest.raises(ValueError, match="did you mean 'torso'"):
        make("Hopper-v5", 1, context={"mass:torsoo": [1]})
    assert np.isclose(two.body_subtreemass[0], two.body_mass.sum())


def test_length_scales_the_body():
    env = make("Hopper-v5", 3, context={"length": [1.0, 1.2], "mass": [1.0]})
    one, two = env.physics.models[:2]
    data = [mujoco.MjData(m) for m in (one, two)]
    for m, d in zip((one, two), data, strict=True):
        mujoco.mj_forward(m, d)
    assert np.allclose(data[1].xpos[1:], 1.2 * data[0].xpos[1:])
    moving = one.geom_bodyid > 0
    assert np.allclose(data[1].geom_xpos[moving], 1.2 * data[0].geom_xpos[moving])
    assert np.allclose(two.body_inertia, 1.44 * one.body_inertia)
    assert np.array_equal(two.body_mass, one.body_mass)
    obs = env.reset(0)  # starts 1.2 times as high
    assert torch.isclose(obs[1, 0] - obs[0, 0], torch.tensor(0.25), atol=1e-6)
    with pytest.raises(ValueError, match="length"):
        make("Hopper-v5", 1, context={"length": [0.0]})


def test_parameters_of_the_task_may_differ_between_worlds():
    base = TASKS["Hopper-v5"]

    def reward(xp, before, f, action, p):
        value = -xp.abs(f.qvel[:, 0] - p.goal)
        return value, {}

    task = Task(**{**vars(base), "id": "Goal-v0", "params": {**base.params, "goal": 1.0},
                   "reward": reward, "contexts": ("goal",)})  # fmt: skip
    env = TaskEnv(task, 4, context={"goal": [1.0, 3.0]})
    r = env.step(torch.zeros(4, 3))
    assert torch.allclose(r.reward[0] - r.reward[1], torch.tensor(2.0), atol=0.2)
    assert torch.equal(TaskEnv(task, 1).step(torch.zeros(1, 3)).reward, r.reward[:1])
    with pytest.raises(ValueError, match="did you mean 'goal'"):
        TaskEnv(task, 1, context={"goall": [1.0]})


def test_state_restores_with_contexts():
    env = make("Ant-v5", 3, context={"gravity": [9.81, 7.0, 3.0]})
    play(env, 30)
    state = env.state_dict()
    expected = play_on(env)
    other = make("Ant-v5", 3, context={"gravity": [9.81, 7.0, 3.0]})
    other.load_state_dict(state)
    assert torch.equal(play_on(other), expected)


def play_on(env):
    g = torch.Generator().manual_seed(2)
    return torch.stack(
        [env.step(torch.rand(3, env.act_dim, generator=g) * 2 - 1).obs for _ in range(40)]
    )


def test_gymnasium_sees_contexts():
    env = gymnasium.make("reverie/Hopper-v5", context={"gravity": 3.0})
    assert env.unwrapped.env.model.opt.gravity[2] == -3.0
    vector = gymnasium.make_vec(
        "reverie/Hopper-v5", 2, vectorization_mode="vector_entry_point",
        context={"gravity": [3.0, 9.81]},
    )  # fmt: skip
    assert vector.env.context_id.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: make("Hopper-v5", 1, context={"gravity": [1, 2]}), "num_envs=2 or more"),
        (lambda: make("Hopper-v5", 1, context={"gravty": 1}), "did you mean 'gravity'"),
        (lambda: make("Hopper-v5", 1, context={"mass": -1}), "must not be negative"),
        (lambda: make("Hopper-v5", 1, context={"gravity:torso": 1}), "whole model"),
        (lambda: make("Hopper-v5", 1, context={"density": -1}), "must be positive"),
        (lambda: make("Pendulum-v1", 1, context={"mass": 1}), "another package"),
        (lambda: Contexts(("a",), [[np.nan]]), "finite"),
        (lambda: Contexts(("a", "a"), [[1, 2]]), "twice"),
        (lambda: Contexts(("a",), [[1, 2]]), "shape"),
        (lambda: parse_contexts(["gravity"]), "gravity=4.9,9.8"),
        (lambda: parse_contexts(["gravity=x"]), "gravity=4.9,9.8"),
    ],
)
def test_mistakes_are_told(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_the_command_lines_grid():
    grid = parse_contexts(["gravity=4.9,9.8", "mass=1,2"])
    assert grid.names == ("gravity", "mass")
    assert grid.table.tolist() == [[4.9, 1], [4.9, 2], [9.8, 1], [9.8, 2]]
    assert parse_contexts([]) is None


def test_a_context_may_be_shown_raw_or_normalised():
    """gravity 5, 10 and 15 of three worlds, as columns behind the same observations."""
    table = {"gravity": [5.0, 10.0, 15.0], "mass": [2.0]}
    hidden = make("Hopper-v5", 3, context=table)
    for mode, columns in {
        "raw": [[5.0, 2.0], [10.0, 2.0], [15.0, 2.0]],
        "normalised": [[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]],
    }.items():
        env = make("Hopper-v5", 3, context=table, context_in_obs=mode, max_episode_steps=2)
        assert isinstance(env, BatchEnv) and env.obs_dim == 13
        assert torch.equal(env.reset()[:, :11], hidden.reset(0))
        for _ in range(3):  # over the end of an episode
            r = env.step(torch.zeros(3, 3))
            for obs in (r.obs, r.final_obs, env.current_obs()):
                assert torch.equal(obs[:, 11:], torch.tensor(columns))
        saved = env.state_dict()
        ahead = env.step(torch.ones(3, 3)).obs
        env.load_state_dict(saved)
        assert torch.equal(env.step(torch.ones(3, 3)).obs, ahead)
    even = Contexts.grid({"gravity": [0.5, 1.0, 2.0], "mass": [1.0, 2.0, 3.0]})
    pairs = Contexts(even.names, even.table[[0, 4, 8]])  # at equal ratios, at equal distances
    shown = ContextShown(make("Hopper-v5", 3, context=pairs), pairs, "normalised", {"gravity"})
    assert torch.equal(shown.reset()[:, 11:], torch.tensor([[-1.0, -1], [0, 0], [1, 1]]))
    with pytest.raises(ValueError, match="have no context"):
        make("Hopper-v5", 1, context_in_obs="raw")
    with pytest.raises(ValueError, match="did you mean 'normalised'"):
        make("Hopper-v5", 1, context={"gravity": 9.0}, context_in_obs="normalized")
