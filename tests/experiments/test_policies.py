"""What a run leaves works elsewhere: policies that are loaded, sent, damaged, forged."""

import functools
import json
import multiprocessing
import pickle
import shutil
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import BY_LOOP, config, finished, module_of

from reverie.agents import SAC, TD3
from reverie.buffers import Card, Dataset, Transitions
from reverie.buffers.shards import file_digest
from reverie.envs import make, spaces_of
from reverie.experiments import cli, load_policy, load_run, ppo, sac, td3
from reverie.experiments.runs import checkpoint
from reverie.experiments.runs.config import from_dict


class Room(gymnasium.Env):
    """Spaces of any kind; checks what it is given."""

    def __init__(self, observation, action, render_mode=None):
        self.observation_space, self.action_space = observation, action

    def _obs(self):
        self.observation_space.seed(int(self.np_random.integers(1000)))
        return self.observation_space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        return self._obs(), float(np.sum(action)), False, self.t == 20, {}


REAL, WHOLE = Box(-2, 3, (2,), np.float32), Box(0, 3, (2,), np.int64)
ROOMS = {
    "dict": (sac, Dict(x=Box(-1, 1, (2,)), y=Dict(k=Discrete(3))), REAL),
    "stacked": (td3, Box(-1, 1, (4, 3), np.float32), Box(-2, 3, (1, 2), np.float64)),
    "image": (ppo, Box(0, 255, (4, 4, 3), np.uint8), WHOLE),
    "discrete": (sac, Discrete(4, start=1), WHOLE),
}
for name, (_, observation, action) in ROOMS.items():
    gymnasium.register(f"Room/{name}-v0", entry_point=functools.partial(Room, observation, action))


@pytest.mark.parametrize("name", ROOMS)
def test_a_policy_takes_what_the_environment_gives_and_gives_what_it_takes(name, tmp_path):
    """In a plain loop, one at a time and in a batch, as the worlds of the run played it."""
    module = ROOMS[name][0]
    options = config(
        module.__name__.split(".")[-1], tmp_path, "run", env=f"Room/{name}-v0", steps=120
    )
    policy = load_policy(module.main(options).path)
    env = gymnasium.make(f"Room/{name}-v0")
    obs, _ = env.reset(seed=0)
    for _ in range(20):
        assert policy.act(obs).shape == (2,)
        obs, _, _, _, _ = env.step(policy.native(obs))
    worlds = make(f"Room/{name}-v0", 3)
    rows = worlds.reset(0)
    many = gymnasium.make_vec(f"Room/{name}-v0", 3)
    obs, _ = many.reset(seed=0)
    unit, _ = policy.policy.act(rows, (), explore=False)
    assert np.array_equal(policy.act(obs), unit.numpy())
    assert np.array_equal(policy.act(rows), unit) and torch.equal(policy.act(rows), unit)
    native = policy.native(obs)
    assert np.array_equal(native, worlds.to_native(unit.numpy()))
    assert native.dtype == env.action_space.dtype
    many.step(native)


def test_act_returns_one_kind_of_thing():
    """Actions: an array for an array, a tensor for a tensor, whatever else is given."""
    policy = load_policy(finished("sac")[1].path)
    obs = np.zeros((3, 10))
    assert isinstance(policy.act(obs), np.ndarray)
    for got in (policy.act(torch.zeros(3, 10)), policy.act(torch.zeros(3, 10), explore=True)):
        assert isinstance(got, torch.Tensor) and got.shape == (3, 2)
    assert policy.act(np.zeros((4, 3, 10))).shape == (4, 3, 2)
    with pytest.raises(TypeError):  # a memory would not come back: that is `.policy`'s
        policy.act(obs, (torch.zeros(3, 1),))
    assert torch.equal(policy.policy.act(torch.zeros(3, 10))[0], policy.act(torch.zeros(3, 10)))
    for wrong in (np.zeros(9), np.zeros((3, 9)), np.zeros(()), np.array(["x"] * 10), {"x": 1}):
        with pytest.raises(ValueError, match=r"10|no \['x'\]|shape|expected"):
            policy.act(wrong)


def test_a_policy_with_a_memory_is_not_played_without_it():
    from reverie.experiments.runs.policy import LoadedPolicy

    class Counts:
        def initial_state(self, n):
            return (torch.zeros(n, 1),)

        def act(self, obs, state, *, explore):
            return state[0] + 0.5, (state[0] + 1,)

    policy = LoadedPolicy(Counts(), 3, {"env": "reverie/Reacher-v5"})
    with pytest.raises(ValueError, match=r"play it by \.policy"):
        policy.act(np.zeros(3))
    action, memory = policy.policy.act(
        torch.zeros(1, 3), policy.policy.initial_state(1), explore=False
    )
    assert action.tolist() == [[0.5]] and memory[0].tolist() == [[1]]


@pytest.mark.parametrize("method", BY_LOOP)
def test_a_loaded_policy_is_its_actor_alone(method):
    """No optimiser, no critic, and tensors that share no memory with anything larger."""
    policy = load_policy(finished(method)[1].path)
    blob = pickle.dumps(policy.policy)
    held = [x for x in vars(policy.policy).values() if isinstance(x, torch.nn.Module)]
    weights = sum(p.numel() * 4 for module in held for p in module.parameters())
    found = getattr(policy.policy, "parameters", None)  # of a search
    weights += 0 if found is None else found.numel() * 4
    assert len(blob) < weights + 12_000  # 5,000 are the generator of its noise
    for module in held:
        for p in (*module.parameters(), *module.buffers()):
            assert p.untyped_storage().nbytes() == p.numel() * p.element_size()
            assert not p.requires_grad
    again = pickle.loads(pickle.dumps(policy))
    obs = np.random.default_rng(0).normal(size=(5, policy.obs_dim))
    start, rows = policy.policy.initial_state(5), torch.from_numpy(obs).float()
    played = [p.policy.act(rows, start, explore=False)[0] for p in (policy, again)]
    assert torch.equal(*played)
    if not start:  # else it is played by .policy alone
        assert np.array_equal(again.act(obs), policy.act(obs))
        assert np.array_equal(again.native(obs), policy.native(obs))


def test_a_policy_is_sent_to_a_spawned_process():
    policy = load_policy(finished("td3")[1].path)
    obs = np.random.default_rng(0).normal(size=(5, 10))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(policy.native, (obs,)), policy.native(obs))


@pytest.mark.parametrize(("method", "agent"), [("sac", SAC), ("td3", TD3)])
def test_exploration_goes_on_where_the_agent_was(method, agent):
    path = finished(method)[1].path
    from reverie.experiments.runs import checkpoint

    state = checkpoint.load(path / "checkpoints", path / "buffer").state["agent"]
    settings_ = from_dict(type(module_of(method).Config().agent), load_run(path).config["agent"])
    whole = agent(10, 2, settings_)
    whole.load_state_dict(state)
    obs, policy = torch.randn(6, 10), load_policy(path)
    for explore in (False, True, True):
        want, _ = whole.act(obs, (), explore=explore)
        assert torch.equal(policy.act(obs, explore=explore), want)


def test_other_widths_are_told(capsys):
    path = finished("sac")[1].path
    assert cli.main(["eval", str(path), "--env", "Hopper-v5", "--episodes", "2"]) == 2
    told = capsys.readouterr().err
    assert "Hopper-v5 has observations of 11 numbers and actions of 3" in told
    assert "trained in reverie/Reacher-v5, takes 10 and gives 2" in told and told.count("\n") == 1


# -- damaged and forged


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return sac.main(config("sac", folder, "run", steps=150)).path


@pytest.fixture
def copied(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.mark.parametrize("how", ["damaged", "missing", "all gone"])
def test_a_lost_shard_does_not_lose_the_policy(copied, trained, how, capsys):
    shards = sorted((copied / "buffer" / "replay").iterdir())
    if how == "damaged":
        shards[0].write_bytes(b"\0" + shards[0].read_bytes()[1:])
    elif how == "missing":
        shards[-1].unlink()
    else:
        shutil.rmtree(copied / "buffer")
    obs = np.ones(10)
    assert np.array_equal(load_policy(copied).act(obs), load_policy(trained).act(obs))
    assert cli.main(["eval", str(copied), "--episodes", "2"]) == 0
    assert cli.main(["collect", "--replay", str(copied), "--out", str(copied / "d")]) == 2
    assert "buffer/replay/" in capsys.readouterr().err


def forge(run, tree=None, tensors=None, manifest=None):
    """Change what the newest checkpoint holds, and give it digests that hold."""
    folder = sorted((run / "checkpoints").iterdir())[-1]
    for name in sorted((run / "checkpoints").iterdir())[:-1]:
        shutil.rmtree(name)
    if tree is not None:
        state = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps(tree(state)))
    if tensors is not None:
        held = load_file(folder / "tensors.safetensors")
        save_file(tensors(held), folder / "tensors.safetensors")
    about = json.loads((folder / "manifest.json").read_text())
    for name, row in about["files"].items():
        row.update(size=(folder / name).stat().st_size, sha256=file_digest(folder / name))
    about.pop(checkpoint.SEAL)
    whole = about if manifest is None else manifest(about)
    if isinstance(whole, dict):
        whole = {**whole, checkpoint.SEAL: checkpoint._seal(whole)}
    (folder / "manifest.json").write_text(json.dumps(whole))


def places(tree, path=()):
    """Yield the path of every part of a tree of JSON."""
    yield path
    if isinstance(tree, dict):
        for key in tree:
            yield from places(tree[key], (*path, key))
    elif isinstance(tree, list):
        for i, part in enumerate(tree[:4]):
            yield from places(part, (*path, i))


def put(tree, path, value):
    """Return a tree with another value at the path."""
    if not path:
        return value
    out = dict(tree) if isinstance(tree, dict) else list(tree)
    out[path[0]] = put(tree[path[0]], path[1:], value)
    return out


WRONG = st.sampled_from([
    None, True, 1e30, -1, 2**70, "x", [], {}, ["x"], {"$tensor": "nothing"}, {"$tensor": ["x"]},
    {"$pairs": 3}, {"$pairs": [[[], 1]]}, {"$tuple": None}, {"$array": "0"}, {"$tensor": "1"},
])  # fmt: skip


OTHERS = [torch.zeros(3, 3), torch.full((2, 2), torch.nan), torch.zeros(0), torch.zeros(4).long()]


@given(data=st.data())
@settings(max_examples=40, deadline=None, derandomize=True, database=None,
          suppress_health_check=list(HealthCheck))  # fmt: skip
def test_a_forged_checkpoint_is_a_policy_or_one_clear_line(trained, tmp_path, data):
    run = tmp_path / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(trained, run)
    which = data.draw(st.sampled_from(["state", "agent", "manifest", "tensors"]))
    value = data.draw(WRONG)

    def change(tree):
        spots = [p for p in places(tree) if which != "agent" or p[:2] == ("agent", "actor")]
        return put(tree, data.draw(st.sampled_from(spots)), value)

    def swap(held):
        name = data.draw(st.sampled_from(sorted(held)))
        new = [
            torch.zeros(3, 3),
            torch.full((2, 2), torch.nan),
            torch.zeros(0),
            torch.zeros(4).long(),
        ]
        return {**held, name: data.draw(st.sampled_from(new))}

    if which == "tensors":
        forge(run, tensors=swap)
    elif which == "manifest":
        forge(run, manifest=change)
    else:
        forge(run, tree=change)
    try:
        policy = load_policy(run)
    except (ValueError, FileNotFoundError) as error:
        assert str(run) in str(error) and "\n" not in str(error)
        return
    assert policy.act(np.zeros((2, 10))).shape == (2, 2)


def test_a_checkpoint_cannot_ask_for_more_than_it_holds(copied):
    """Layers that do not meet would be built as large as their product: 10^18 numbers."""
    wide = torch.zeros(1, 1).expand(10**6, 1).contiguous()

    def swap(held):
        out = {k: wide if v.shape == (24, 10) else v for k, v in held.items()}
        return {k: wide if v.shape == (24, 24) else v for k, v in out.items()}

    forge(copied, tensors=lambda h: {k: v.clone() for k, v in swap(h).items()})
    with pytest.raises(ValueError, match="no network in"):
        load_policy(copied)


def test_noise_that_was_drawn_on_another_device_starts_again(copied):
    """A GPU's generator has a state of 16 bytes, which no generator here can go on with."""

    def change(tree):
        tree["agent"]["acting"] = {"$tensor": "acting"}
        return tree

    forge(copied, change, lambda held: {**held, "acting": torch.zeros(16, dtype=torch.uint8)})
    one, two = load_policy(copied), load_policy(copied)
    obs = np.zeros((3, 10))
    assert np.array_equal(one.act(obs, explore=True), two.act(obs, explore=True))
    assert not np.array_equal(one.act(obs, explore=True), one.act(obs))


@pytest.mark.parametrize("hidden", [[10**9, 10**9], "x", None])
def test_the_settings_of_a_forged_config_do_not_build_its_networks(copied, hidden):
    about = json.loads((copied / "config.json").read_text())
    about["config"]["agent"]["hidden"] = hidden
    about["config"]["agent"]["critics"] = 10**9
    (copied / "config.json").write_text(json.dumps(about))
    assert load_policy(copied).act(np.zeros(10)).shape == (2,)


# -- what the environment gives, where the run did not keep it


def without_spaces(run, env=None):
    stamp = json.loads((run / "stamp.json").read_text())
    del stamp["notes"]["spaces"]
    (run / "stamp.json").write_text(json.dumps(stamp))
    if env is not None:
        about = json.loads((run / "config.json").read_text())
        about["config"]["env"] = env
        (run / "config.json").write_text(json.dumps(about))


def test_an_older_run_asks_its_environment(copied, trained):
    obs = np.random.default_rng(0).normal(size=(4, 10))
    want = load_policy(trained).native(obs)
    without_spaces(copied)
    assert np.array_equal(load_policy(copied).native(obs), want)
    (copied / "stamp.json").write_text("{")
    assert np.array_equal(load_policy(copied).native(obs), want)


def test_a_module_is_not_imported_for_a_policy_and_the_advice_works(copied, trained, monkeypatch):
    without_spaces(copied, "strange_module:Strange-v0")
    monkeypatch.setitem(sys.modules, "strange_module", None)
    policy, obs = load_policy(copied), np.zeros(10)
    assert np.array_equal(policy.act(obs), load_policy(trained).act(obs))
    with pytest.raises(
        ValueError, match=r"set policy\.spaces = reverie\.envs\.spaces_of"
    ) as caught:
        policy.native(obs)
    assert "'strange_module:Strange-v0'" in str(caught.value)
    policy.spaces = spaces_of(make("Reacher-v5"))
    assert np.array_equal(policy.native(obs), load_policy(trained).native(obs))
    with pytest.raises(ValueError, match="the policy 10 and 2"):
        policy.spaces = spaces_of(make("Hopper-v5"))


# -- cards of strangers


@pytest.fixture
def strange(tmp_path, monkeypatch):
    """A module that registers an environment, and notes that it was imported."""
    (tmp_path / "strange_rooms.py").write_text(
        "import gymnasium\n"
        "from gymnasium.wrappers import TimeLimit\n"
        "def build(render_mode=None):\n"
        "    return TimeLimit(gymnasium.make('Pendulum-v1'), 5)\n"
        "gymnasium.register('Strange-v0', entry_point=build)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "strange_rooms:Strange-v0"
    sys.modules.pop("strange_rooms", None)
    gymnasium.registry.pop("Strange-v0", None)


def rows_of(env, **card):
    x, ends = torch.zeros(6, 3), torch.zeros(6)
    ends[-1] = 1
    return Dataset.of(Transitions(x, x[:, :1], ends, x, ends, 0 * ends), Card(env=env, **card))


@pytest.mark.parametrize("form", ["safetensors", "hdf5", "native"])
def test_a_cards_module_is_imported_for_who_names_it_only(strange, form, tmp_path, capsys):
    from reverie.buffers.formats import Bounds, save_hdf5

    place = tmp_path / "data"
    if form == "safetensors":
        rows_of(strange).save(place)
    else:
        place = tmp_path / "data.hdf5"
        save_hdf5(rows_of(strange), place, Bounds(-2, 2) if form == "native" else None)
    argv = ["bc", "--data", f"dataset:{place}", "--steps", "2", "--batch-size", "2", "--hidden",
            "4", "--eval-episodes", "2", "--threads", "1", "--no-tensorboard", "--out",
            str(tmp_path)]  # fmt: skip
    assert cli.main(argv) == 2
    told = capsys.readouterr().err
    assert f"say so: --env {strange}" in told and "strange_rooms" not in sys.modules
    assert cli.main([*argv, "--env", strange]) == 0
    assert "strange_rooms" in sys.modules


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_envs": 10**6}, "sets num_envs"),
        ({"env_id": "x", "threads": 3}, "sets env_id, threads"),
        ({"ctrl_cost_weight": "much"}, "ctrl_cost_weight"),
        ({"frame_skip": 1e30}, "frame_skip"),
        ({"no_such": 1}, "no_such"),
    ],
)
def test_a_cards_options_are_those_of_a_task(options, text, tmp_path, capsys):
    rows_of("reverie/HalfCheetah-v5", env_options=options).save(tmp_path / "data")
    argv = ["bc", "--data", f"dataset:{tmp_path / 'data'}", "--out", str(tmp_path)]
    assert cli.main(argv) == 2
    told = capsys.readouterr().err
    assert text in told and told.count("\n") == 1


def test_options_that_another_packages_environment_does_not_take_are_told(tmp_path, capsys):
    rows_of("Pendulum-v1", env_options={"colour": "red"}).save(tmp_path / "data")
    assert cli.main(["bc", "--data", f"dataset:{tmp_path / 'data'}", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "Pendulum-v1 does not take its options {'colour': 'red'}" in told


# -- native units, from the file to the environment


def test_a_d4rl_file_of_humanoid_is_played_as_it_was_recorded(tmp_path):
    """Actions of +-0.4 in the file are +-1 in the data, and +-0.4 again in the environment."""
    import h5py

    from reverie.experiments.loops.sources import open_dataset

    env, rng, rows = gymnasium.make("Humanoid-v5"), np.random.default_rng(0), []
    obs, _ = env.reset(seed=0)
    for t in range(25):
        action = rng.choice([-0.4, 0.1, 0.4], 17).astype(np.float32)
        new, reward, terminated, _, _ = env.step(action)
        rows.append((obs, action, reward, terminated, t == 24))
        obs = env.reset()[0] if terminated else new
    names = ("observations", "actions", "rewards", "terminals", "timeouts")
    with h5py.File(tmp_path / "humanoid.hdf5", "w") as file:
        for name_, column in zip(names, zip(*rows, strict=True), strict=True):
            file[name_] = np.array(column)
    path = str(tmp_path / "humanoid.hdf5")
    data = open_dataset(path, 0, "Humanoid-v5").all
    assert sorted({round(x, 6) for x in data.action.flatten().tolist()}) == [-1.0, 0.25, 1.0]
    back = make("Humanoid-v5", len(data.action)).to_native(data.action.numpy())
    assert np.abs(back - np.array([r[1] for r in rows[: len(back)]])).max() < 1e-7
    with pytest.raises(ValueError, match=r"give env \(--env\)"):
        open_dataset(path, 0)


def test_what_is_collected_is_exported_in_native_units(tmp_path):
    import h5py

    from reverie.experiments.loops.sources import open_dataset

    argv = ["collect", "--env", "reverie/Humanoid-v5", "--transitions", "40", "--num-envs", "2"]
    assert cli.main([*argv, "--hdf5", "--out", str(tmp_path / "d")]) == 0
    with h5py.File(tmp_path / "d.hdf5") as file:
        played = file["actions"][()]
        assert file.attrs["action_units"] == "native"
    assert 0.35 < np.abs(played).max() <= 0.4
    for named in (None, "Humanoid-v5"):
        read = open_dataset(str(tmp_path / "d.hdf5"), 0, named)
        assert torch.equal(read.rows, open_dataset(str(tmp_path / "d"), 0).rows)


@pytest.mark.parametrize(
    "command",
    [
        "eval {run} --episodes 1", "watch {run} --steps 2 --out {out}/w.png",
        "collect --policy {run} --transitions 5 --num-envs 1 --out {out}/d",
        "collect --replay {run} --out {out}/d",
    ],
)  # fmt: skip
def test_a_runs_word_alone_imports_no_module(command, copied, tmp_path, monkeypatch, capsys):
    """As with a dataset's card: only the user may name one."""
    name = "named_by_a_run"
    (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = copied / "config.json"
    about = json.loads(file.read_text())
    env = about["config"]["env"] = f"{name}:reverie/Reacher-v5"
    file.write_text(json.dumps(about))
    argv = command.format(run=copied, out=tmp_path).split()
    assert cli.main(argv) == 2
    told = capsys.readouterr().err
    assert f"the run names the environment '{env}'" in told and f"say so: --env {env}" in told
    assert told.count("\n") == 1 and not (tmp_path / "imported").exists()
    if cli.main([*argv, "--env", env]):
        assert "EGL or OSMesa" in capsys.readouterr().err  # what a film needs
    assert (tmp_path / "imported").exists()
    (tmp_path / "imported").unlink()
    sys.modules.pop(name)


def test_a_dump_imports_no_module_either(copied, monkeypatch, capsys):
    checkpoint.save(copied / "dump", (0, 0), {"what": "x", "trail": [torch.zeros(1, 20)]})
    file = copied / "config.json"
    file.write_text(file.read_text().replace("reverie/Reacher-v5", "nowhere_at_all:Reacher-v5"))
    assert cli.main(["watch", str(copied), "--dump"]) == 2
    assert "module would be imported that you did not name" in capsys.readouterr().err
