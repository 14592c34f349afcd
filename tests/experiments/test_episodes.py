"""Kept episodes: whose they are, where the bodies were, what a circuit did."""

import json
import types

import mujoco
import numpy as np
import pytest
import torch

from reverie.agents.controllers import ControllerPolicy
from reverie.agents.ncap import Circuit
from reverie.envs import make
from reverie.experiments.looking.episodes import UNIT, record


def pushing(force):
    """A policy of one action for ever."""
    return types.SimpleNamespace(
        initial_state=lambda n: (),
        act=lambda obs, state, explore: (torch.full((len(obs), 1), force), state),
    )


def test_the_median_and_the_worst_episode_are_kept_as_the_bodies_lay():
    """A pole that is pushed falls; each step that it stands pays 1; 25 steps a second."""
    env = make("reverie/InvertedPendulum-v5", 4, seed=3)
    obs, first = env.reset(), env.physics.get_state().copy()
    lengths = torch.zeros(4)
    alive = torch.ones(4, dtype=torch.bool)
    for _ in range(60):
        result = env.step(torch.full((4, 1), 0.02))
        lengths += result.reward * alive
        alive &= ~result.terminated
    assert not alive.any() and len(set(lengths.tolist())) > 1
    env = make("reverie/InvertedPendulum-v5", 4, seed=3)
    told = json.loads(json.dumps(record(pushing(0.02), env, 100, "still")))
    assert (told["what"], told["played"], told["steps"], told["fps"]) == ("still", 4, 100, 25)
    order = lengths.sort(stable=True)
    for episode, rank in zip(told["episodes"], (1, 0), strict=True):
        assert episode["return"] == order.values[rank] == episode["gained"][-1]
        qpos = first[int(order.indices[rank]), 1:3]  # behind the time: the cart's x, the angle
        cart, pole = np.array(episode["frames"][0]).reshape(2, 7) / UNIT
        assert cart[:3] == pytest.approx([qpos[0], 0, 0], abs=1e-4)
        assert pole[3:] == pytest.approx([np.cos(qpos[1] / 2), 0, np.sin(qpos[1] / 2), 0], abs=1e-4)
    assert [e["label"] for e in told["episodes"]] == ["median", "worst"]
    assert told["bodies"] == [1, 2] and {g["kind"] for g in told["geoms"]} == {"capsule"}
    cart = told["geoms"][1]
    assert cart["size"][:2] == [0.1, 0.1] and told["camera"]["distance"] == 2.04
    assert len(obs) == 4


def test_an_episode_is_cut_and_thinned():
    """A hopper makes 125 steps a second: every fifth is kept."""
    env = make("reverie/Hopper-v5", 2, seed=0)
    joints = env.act_dim
    still = types.SimpleNamespace(
        initial_state=lambda n: (),
        act=lambda obs, state, explore: (torch.zeros(len(obs), joints), state),
    )
    told = record(still, env, 21, "still")
    stride = 5
    assert told["fps"] == 25
    assert [len(e["frames"]) for e in told["episodes"]] == [-(-21 // stride)] * 2
    assert "circuit" not in told["episodes"][0]
    with pytest.raises(ValueError, match="Reverie's own"):
        record(still, make("CartPole-v1", 1), 3, "still")


def test_a_circuits_units_are_kept_in_percent():
    env = make("reverie/Swim-v0", 2, time_feature=True)
    circuit = Circuit(env.act_dim, env.p.limit)
    policy = ControllerPolicy(circuit, circuit.initial())
    told = record(policy, env, 9, "worm")["episodes"][0]["circuit"]
    n = env.act_dim
    assert len(told["units"]) == 2 + 5 * n
    values = dict(zip(told["units"], told["values"], strict=True))
    fresh = make("reverie/Swim-v0", 2, time_feature=True)
    now = circuit.activity(circuit.bind(policy.parameters), fresh.reset()[0, :n], torch.tensor(0.0))
    assert values["oscillator dorsal"][0] == 100 and values["oscillator ventral"][0] == 0
    assert values["neuron dorsal 1"][0] == round(100 * float(now.neuron[0, 0]))
    assert values["muscle ventral 2"][0] == round(100 * float(now.muscle[1, 1]))
    assert values["torque 1"][0] == round(100 * float(now.torque[0]))


def test_colours_and_places_of_what_is_seen():
    env = make("reverie/Reacher-v5", 1, seed=0)
    told = record(types.SimpleNamespace(
        initial_state=lambda n: (), act=lambda obs, state, explore: (torch.zeros(1, 2), state),
    ), env, 2, "still")  # fmt: skip
    model = env.physics.models[0]
    ball = next(g for g in told["geoms"] if g["kind"] == "sphere")
    geom = next(i for i in range(model.ngeom) if model.geom_type[i] == mujoco.mjtGeom.mjGEOM_SPHERE)
    assert ball["body"] == model.geom_bodyid[geom]
    assert ball["colour"] == [round(255 * float(c)) for c in model.geom_rgba[geom, :3]]
    assert told["camera"] == {
        "azimuth": 90.0, "elevation": -90.0, "distance": 0.9, "track": 0,
        "lookat": pytest.approx([float(x) for x in model.stat.center]),
    }  # fmt: skip
