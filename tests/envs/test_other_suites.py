"""Environments of other packages: dm_control through shimmy, gymnasium-robotics' goal tasks."""

import pytest
from tiny import config

from reverie.envs import make
from reverie.envs.check import FAULT, check_env
from reverie.experiments import sac

IDS = [
    "dm_control/cartpole-swingup-v0",
    "dm_control/cheetah-run-v0",
    "shimmy:dm_control/reacher-easy-v0",
    "gymnasium_robotics:PointMaze_UMaze-v3",  # Dict observations: observation and two goals
]


@pytest.mark.parametrize(
    "env_id", [IDS[3], *(pytest.param(i, marks=pytest.mark.slow) for i in IDS[:3])]
)
def test_they_are_fit_to_learn_from(env_id):
    rows = check_env(env_id, steps=60)
    assert not [r for r in rows if r.verdict == FAULT], rows
    assert {r.name for r in rows if r.verdict == "lost"} == {"state restore"}


@pytest.mark.parametrize("env_id", [IDS[0], IDS[3]])
def test_they_train(env_id, tmp_path):
    result = sac.main(config("sac", tmp_path, "a", env=env_id, steps=150, buffer_size=300))
    assert result.steps == 150 and result.evaluation.lengths.min() > 0


def test_goals_are_part_of_the_observation():
    env = make("gymnasium_robotics:PointMaze_UMaze-v3", 2)
    single = env.env.single_observation_space
    assert env.obs_dim == 8 == sum(s.shape[0] for s in single.values())


def test_what_mujoco_dropped_is_forgotten():
    import mujoco
    from dm_control.mujoco.wrapper.mjbindings import sizes

    from reverie.envs.gym.dm_control import forget_missing_arrays

    sizes.array_sizes["mjdata"]["no_such_array"] = ("nv",)
    assert forget_missing_arrays() == ["no_such_array"] and forget_missing_arrays() == []
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    assert all(hasattr(model, name) for name in sizes.array_sizes["mjmodel"])
