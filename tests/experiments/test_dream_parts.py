"""Dream worlds, part by part: each controller, model and scope of `reverie dreamland` in a run."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import config

from reverie.agents import evaluate
from reverie.agents.ncap import Circuit, CircuitConfig, joint_limit
from reverie.agents.playing import EVAL_SEED
from reverie.agents.search import SearchConfig
from reverie.buffers import Layout, ReplayBuffer, Source, Transitions
from reverie.envs import make
from reverie.experiments import cli, dreamland, load_policy, ppo, sac
from reverie.experiments.looking.film import film
from reverie.experiments.loops.branches import Branches
from reverie.experiments.loops.dreamt import open_dream, reopen
from reverie.experiments.runs import checkpoint

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


def small(preset, out, **model):
    """A preset of `reverie dreamland` with all its parts, each of them small."""
    p, tiny = dreamland.PRESETS[preset], config("dreamland", out, "run")
    sizes = {"members": 2, "updates": 40, "batch_size": 16, "window": 6, "judge_every": 20}
    sizes["hidden"] = (12,) * len(p.model.hidden)
    small_model = dataclasses.replace(p.model, **{**sizes, **model})
    names = ("episodes", "select_every", "select_episodes", "num_envs", "learning_starts",
             "batch_size", "buffer_size", "collect", "real_size", "sac", "run")  # fmt: skip
    return dataclasses.replace(
        p, steps=180, model=small_model, hidden=(4,), env_options={"max_episode_steps": 5},
        es=dataclasses.replace(p.es, population=6), round_every=min(p.round_every, 100),
        dream=dataclasses.replace(p.dream, horizon=min(p.dream.horizon, 5), copies=3),
        **{name: getattr(tiny, name) for name in names},
    )  # fmt: skip


GRU = {"kind": "gru", "hidden": (12,)}
RUNS = [  # fast
    ("layer-norm", {}),
    ("masksembles", {}),
    ("mc-mean", GRU),
    ("gep", {}),
    ("faithful", {}),
    ("mbpo", {}),
]
SLOW_RUNS = [
    *((p, {}) for p in dreamland.PRESETS if (p, {}) not in RUNS and p not in ("default", "quick")),
    ("layer-norm", GRU),
    ("masksembles", {**GRU, "p_train": 0.2}),  # of 0.05 five observed numbers keep all five
    ("masksembles", {"layer_norm": True, "fixed": 4}),
    ("ensemble", {"layer_norm": True, "target": "next"}),
]
CASES = [*RUNS, *(pytest.param(*row, marks=pytest.mark.slow) for row in SLOW_RUNS)]


@pytest.mark.parametrize(("preset", "model"), CASES, ids=str)
def test_every_preset_dreams_and_is_deployed(preset, model, tmp_path):
    result = dreamland.main(options := small(preset, tmp_path, **model))
    rows = [json.loads(x) for x in (result.path / "metrics.jsonl").read_text().splitlines()]
    numbers = [x for row in rows for x in row.values() if isinstance(x, float)]
    assert all(math.isfinite(x) for x in numbers)
    (wrong, *_), ends = ([r for r in rows if r["kind"] == kind] for kind in ("world model", "eval"))
    assert wrong["masked_one_step_error"] != wrong["one_step_error"]
    worlds = make(options.env, 2, **load_policy(result.path).config["env_options"])
    deployed = evaluate(load_policy(result.path), worlds, seed=EVAL_SEED)
    assert deployed.mean == pytest.approx(ends[-1]["return"], abs=1e-5)


# -- rows that are dreamt while a learner learns


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    options = small("quick", out)
    return str(dreamland.main(dataclasses.replace(options, steps=30)).path)


class Still:
    """Acts as it is told: a policy that changes while it learns."""

    now = 0.25

    def initial_state(self, n):
        return ()

    def act(self, obs, state, *, explore):
        assert explore
        return torch.full((len(obs), 1), self.now), state


@pytest.fixture
def replay():
    """Forty steps at 0.1 m, 0.2 m, ... to the right."""
    store = ReplayBuffer(Layout(5, 1), 40)
    obs = torch.tensor([0.0, -1.0, 0.0, 0.0, 0.0]) + 0.1 * torch.arange(40.0)[:, None]
    zero = torch.zeros(40)
    store.add(Transitions(obs, zero[:, None], zero, obs, zero, (torch.arange(40) == 39).float()))
    return store


def test_a_batch_is_dreamt_anew_from_the_replay_by_the_policy_of_now(model, replay):
    policy = Still()
    source = Branches(model, None, replay, policy, 3)
    first = source.sample(50)
    assert isinstance(source, Source) and first.action.tolist() == [[0.25]] * 50
    steps = first.map(lambda x: x.view(5, 10, *x.shape[1:]))  # ten dreams of five steps
    known = {tuple(x) for x in replay.layout.unpack(replay.rows()).obs.tolist()}
    assert all(tuple(x) in known for x in steps.obs[0].tolist())
    assert torch.equal(steps.obs[1:], steps.next_obs[:-1])
    assert steps.truncated[-1].all() and not steps.truncated[:-1].any()
    r = reopen(Path(model))
    whole = r.world.model.predict(steps.obs[0], steps.action[0], (), (), None)
    assert not torch.allclose(whole.next_obs, steps.next_obs[0])  # each under a mask of its own
    policy.now = -0.5
    second, kept = source.sample(12), source.state_dict()
    assert second.action.tolist() == [[-0.5]] * 12 and kept == {"drawn": 2}
    again = Branches(model, None, replay, policy, 3)
    draws = replay.generator.get_state()
    third = source.sample(7)
    replay.generator.set_state(draws)
    again.load_state_dict(kept)
    assert torch.equal(again.sample(7).next_obs, third.next_obs)


def test_rows_that_are_not_finite_are_dreamt_again(model, replay):
    source = Branches(model, None, replay, Still(), 0)
    predict, calls = source.world.model.predict, []

    def broken(*args):
        calls.append(1)
        said = predict(*args)
        return said._replace(next_obs=said.next_obs * (math.nan if len(calls) <= 5 else 1.0))

    source.world.model.predict = broken
    with pytest.raises(FloatingPointError, match="from every step"):
        source.sample(20)
    rows = source.sample(20)
    assert torch.isfinite(rows.next_obs).all() and len(rows.reward) == 20


def test_a_run_on_live_dreams_goes_on_bit_for_bit_in_the_same_model(model, tmp_path):
    def learn(name, steps, resume=False):
        parts = ("replay:0.5", f"dream:{model}:0.5")
        env, limit = "reverie/CartPoleSwingUp-v0", {"max_episode_steps": 20}
        options = config("sac", tmp_path, name, env=env, env_options=limit, steps=steps, data=parts)
        return sac.main(options, resume=resume).path

    whole, parted = learn("whole", 240), learn("parted", 180)
    learn("parted", 240, resume=True)
    a, b = (checkpoint.list_checkpoints(p / "checkpoints")[-1] for p in (whole, parted))
    assert json.loads((a / "state.json").read_text())["source"][1]["drawn"] == 37  # 150 steps x .25
    for name in ("state.json", "tensors.safetensors"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Branches, "digest", "another")
        with pytest.raises(ValueError, match="begun with other data: the digest of world model 0"):
            learn("parted", 300, resume=True)


def test_live_dreams_need_a_replay(model, tmp_path):
    with pytest.raises(ValueError, match="give replay beside it"):
        sac.main(config("sac", tmp_path, "no", data=(f"dream:{model}",)))


def test_a_policy_that_is_loaded_leaves_the_global_generator_as_it_is(tmp_path):
    """SB3's PPO draws from it, and evaluations of a run load policies beside its learner."""
    result = ppo.main(config("ppo", tmp_path, "run", steps=30))
    before = torch.get_rng_state()
    assert load_policy(result.path).policy.act(torch.zeros(1, 10)) is not None
    assert torch.equal(torch.get_rng_state(), before)


# -- films


def test_a_quick_run_is_filmed_in_reality(model, tmp_path, capsys):
    out = tmp_path / "quick.gif"
    assert cli.main(["watch", model, "--seed", "3", "--out", str(out)]) == 0
    loaded = load_policy(model)
    first, worlds = (
        make(loaded.config["env"], 1, seed=3, **loaded.config["env_options"]) for _ in range(2)
    )
    assert f"{out}: 5 steps, return 0.0" in capsys.readouterr().out  # in 5 steps
    total = evaluate(loaded, worlds, seed=3).mean
    assert film(loaded, first, tmp_path / "again.gif") == (pytest.approx(total, abs=1e-6), 5)
    assert total > 1e-4
    with Image.open(out) as made:
        assert made.format == "GIF" and made.n_frames > 1 and made.size == (320, 240)


def test_a_circuit_out_of_a_dream_is_filmed_with_its_units(swimmer, tmp_path):
    """What it does stands beside the body, as of a circuit that never dreamt."""
    out = tmp_path / "swim.gif"
    assert cli.main(["watch", str(swimmer.path), "--steps", "3", "--out", str(out)]) == 0
    with Image.open(out) as made:
        assert made.size[0] > 320 + 6 * 28  # five segments and the oscillator
