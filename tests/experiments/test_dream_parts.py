"""Dream worlds, part by part: each controller, model and scope of `reverie dreamland` in a run."""

import dataclasses

import pytest
import torch
from tiny import config

from reverie.agents.ncap import Circuit, CircuitConfig, joint_limit
from reverie.agents.playing import EVAL_SEED
from reverie.agents.search import SearchConfig
from reverie.envs import make
from reverie.experiments import dreamland, load_policy
from reverie.experiments.loops.dreamt import open_dream, reopen

SWIM, LIMIT = "reverie/Swim-v0", {"max_episode_steps": 40}


@pytest.fixture(scope="module", params=["cma", "es"])
def swimmer(request, tmp_path_factory):
    """Episodes of 40 real steps; ten generations of six dreams of 40 steps."""
    out = tmp_path_factory.mktemp(request.param)
    options = config(
        "dreamland", out, "run", env=SWIM, controller="circuit", learner=request.param,
        steps=2400, round_every=0, collect=400, real_size=400, select_every=480,
        env_options=LIMIT, circuit=CircuitConfig(period=40),
        es=SearchConfig(population=6, sigma=0.2, lr=0.1),
    )  # fmt: skip
    options = dataclasses.replace(
        options,
        dream=dataclasses.replace(options.dream, horizon=0, p=0.5),
        run=dataclasses.replace(options.run, checkpoint_every=480, log_every=480),
    )
    return dreamland.main(options)


def test_a_circuit_is_driven_by_the_dreams_clock(swimmer):
    """Half of a period of 40 steps its head pulls to one side, then to the other, masked or not."""
    dreams, r = open_dream(str(swimmer.path), 7), reopen(swimmer.path)
    assert dreams.obs_dim == 24 and dreams.max_episode_steps == 40
    obs, heads, clocks = dreams.reset(3), [], []
    for _ in range(40):
        action, _ = r.policy.act(obs, ())
        heads.append(action[:, 0])
        clocks.append(obs[:, -1])
        obs = dreams.step(action).obs
    assert (torch.stack(heads)[:20] > 0).all() and (torch.stack(heads)[20:] < 0).all()
    step = torch.arange(40.0)[:, None].expand(-1, 7)
    assert torch.allclose(torch.stack(clocks), 2 * step / 1000 - 1, atol=1e-5)


def test_the_circuit_that_is_deployed_is_the_one_that_was_dreamt_of(swimmer):
    acts = load_policy(swimmer.path).policy
    circuit = Circuit(5, joint_limit(6), CircuitConfig(period=40))
    assert load_policy(swimmer.path).config["env_options"] == {**LIMIT, "time_feature": True}
    assert acts.parameters.shape == (4,) and not torch.equal(acts.parameters, circuit.initial())
    env = make(SWIM, 2, time_feature=True, **LIMIT)
    obs, total = env.reset(EVAL_SEED), torch.zeros(2)
    for _ in range(40):
        action, _ = acts.act(obs)
        assert torch.allclose(action, circuit.act(circuit.bind(acts.parameters), obs))
        result = env.step(action)
        obs, total = result.obs, total + result.reward
    assert swimmer.evaluation.returns[:, 0] == pytest.approx(total.numpy(), abs=1e-4)
    assert total.min() > 0.5  # it swims: random actions come to 0.1 in 40 steps


@pytest.mark.parametrize(("env", "target"), [("reverie/Reacher-v5", "delta"), (SWIM, "next")])
def test_the_circuit_asks_for_a_swimmer_and_a_clock(env, target, tmp_path):
    options = config("dreamland", tmp_path, "no", controller="circuit", env=env)
    model = dataclasses.replace(options.model, target=target)
    with pytest.raises(ValueError, match=f"the circuit swims by a clock.* got {env}, {target}"):
        dreamland.main(dataclasses.replace(options, model=model))
    assert not (tmp_path / "no").exists()
