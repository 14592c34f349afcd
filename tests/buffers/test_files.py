"""Files of strangers: units, sizes, links and types, before anything is read."""

import json
import logging

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from reverie.agents.dynamics import DynamicsConfig, DynamicsEnsemble
from reverie.buffers import Card, Dataset, Transitions, load_dataset, untrusted
from reverie.buffers.formats import Bounds, load_hdf5, load_minari, save_hdf5, save_minari
from reverie.envs import Actions, describe

FAST = settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
CARD = Card(env="reverie/Humanoid-v5", policy="planted")
# Obs 0, 1, 2, ...: episodes of 3 (terminates), 3 (cut by a limit), 3 (the file ends).
ZEROS = np.zeros((9, 1), np.float32)
TERMINALS = np.array([0, 0, 1, 0, 0, 0, 0, 0, 0], bool)
TIMEOUTS = np.array([0, 0, 0, 0, 0, 1, 0, 0, 0], bool)


def d4rl(path, actions=ZEROS, **more):
    """Write a file as D4RL has them, without successors; None is left out. Return its path."""
    arrays = {
        "observations": np.arange(9, dtype=np.float32)[:, None],
        "actions": actions,
        "rewards": np.arange(9.0), "terminals": TERMINALS, "timeouts": TIMEOUTS, **more,
    }  # fmt: skip
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            if value is not None:
                file[name] = value
    return path


# -- units


def test_native_actions_are_mapped_by_the_bounds_they_are_of(tmp_path):
    """Bounds -0.4 to 0.4 and 0 to 2: 0.2 is half of the one, 2 the end of the other."""
    played = np.tile(np.float32([[0.2, 2.0], [-0.4, 0.5], [0.0, 0.0]]), (3, 1))
    path = d4rl(tmp_path / "x.hdf5", played)
    bounds = Bounds([-0.4, 0], [0.4, 2])
    want = torch.tensor([[0.5, 1.0], [-1.0, -0.5], [0.0, -1.0]])
    for actions in (bounds, lambda card: bounds if card.env == "E-v0" else None):
        data = load_hdf5(path, "E-v0", actions=actions)
        assert torch.allclose(data.all.action[:3], want, atol=1e-6)


@pytest.mark.parametrize(
    "space",
    [
        Bounds(-0.4, 0.4),
        Bounds([-0.4, 1.0], [0.4, 5.0]),
        Actions((2,), "float64", (-0.4, 1.0), (0.4, 5.0)),
        Actions((2,), "int64", (0, -3), (3, 2)),
        Actions((), "int64", n=2, start=4),
    ],
)
def test_what_is_written_in_native_units_comes_back(tmp_path, space):
    g = torch.Generator().manual_seed(0)
    rows = torch.rand(40, 2, generator=g) * 2 - 1
    if isinstance(space, Actions) and space.dtype == "int64":  # only such rows come back
        rows = torch.from_numpy(space.to_unit(space.to_native(rows.numpy())))
    x, ends = torch.zeros(40, 1), torch.zeros(40)
    ends[-1] = 1
    data = Dataset.of(Transitions(x, rows, ends, x, ends, 0 * ends), CARD)
    save_hdf5(data, tmp_path / "x.hdf5", space)
    with h5py.File(tmp_path / "x.hdf5") as file:
        assert file.attrs["action_units"] == "native"
        assert np.array_equal(file["actions"], space.to_native(rows.numpy()))
    assert torch.equal(load_hdf5(tmp_path / "x.hdf5", actions=space).rows, data.rows)
    with pytest.raises(ValueError, match="it is native"):
        load_hdf5(tmp_path / "x.hdf5")
    save_hdf5(data, tmp_path / "x.hdf5")
    assert torch.equal(load_hdf5(tmp_path / "x.hdf5").rows, data.rows)


def test_a_file_that_does_not_say_its_units_is_refused_and_the_advice_works(tmp_path):
    path = d4rl(tmp_path / "x.hdf5", np.full((9, 1), 0.4, np.float32))
    with pytest.raises(ValueError, match="does not say in which units") as caught:
        load_hdf5(path, "Pendulum-v1")
    from reverie.envs import actions_of

    assert "actions=reverie.envs.actions_of('Pendulum-v1')" in str(caught.value)
    data = load_hdf5(path, "Pendulum-v1", actions=actions_of("Pendulum-v1"))
    assert data.all.action.unique().tolist() == [pytest.approx(0.2)]
    advice = str(caught.value).split("say so in it: ")[1]
    assert advice == "h5py.File(path, 'a').attrs['action_units'] = 'unit'"
    with h5py.File(path, "a") as file:
        file.attrs["action_units"] = "unit"
    assert load_hdf5(path, "Pendulum-v1").all.action.unique().tolist() == [pytest.approx(0.4)]


@pytest.mark.parametrize("env", [None, "reverie/Humanoid-v5"])
def test_a_file_of_ours_from_before_the_attribute_is_not_guessed_at(tmp_path, env):
    """Its writer had actions in [-1, 1]; where the environment has them too, all is said."""
    path = d4rl(tmp_path / "x.hdf5", np.full((9, 1), 0.25, np.float32))
    with h5py.File(path, "a") as file:
        file.attrs["reverie"] = json.dumps({"env": "reverie/Humanoid-v5"})
    assert load_hdf5(path, env, actions=Bounds(-1, 1)).all.action.unique().tolist() == [0.25]
    with pytest.raises(ValueError, match="has a card of ours and does not say"):
        load_hdf5(path, env, actions=Bounds(-0.5, 0.5))
    for units, want in (("unit", 0.25), ("native", 0.5)):
        with h5py.File(path, "a") as file:
            file.attrs["action_units"] = units
        data = load_hdf5(path, env, actions=Bounds(-0.5, 0.5))
        assert data.all.action.unique().tolist() == [want]


def test_actions_beyond_the_bounds_are_refused(tmp_path):
    path = d4rl(tmp_path / "x.hdf5", np.full((9, 1), 0.9, np.float32))
    with pytest.raises(ValueError, match=r"an action of 0\.9 is beyond the bounds of E-v0"):
        load_hdf5(path, "E-v0", actions=Bounds(-0.4, 0.4))


# -- successors that nobody recorded


def test_a_terminated_row_has_no_successor_and_says_so(tmp_path, caplog):
    """Row 2 terminates; 5 (a limit) and 8 (the file's end) have none either and are dropped."""
    with caplog.at_level(logging.WARNING):
        data = load_hdf5(d4rl(tmp_path / "x.hdf5"), "E-v0", actions=Bounds(-1, 1))
    batch = data.all
    assert batch.obs[:, 0].tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert batch.extra["next_known"].tolist() == [1, 1, 0, 1, 1, 1, 1]
    assert batch.next_obs[:, 0].tolist() == [1, 2, 2, 4, 5, 7, 8]  # never 3, another episode's
    assert batch.terminated.tolist() == [0, 0, 1, 0, 0, 0, 0]
    told = caplog.records[0].getMessage()
    assert "of 9 rows, 2 cut by a limit" in told and "1 that terminated" in told
    save_hdf5(data, tmp_path / "y.hdf5")
    assert torch.equal(load_hdf5(tmp_path / "y.hdf5").rows, data.rows)


def test_models_of_the_dynamics_do_not_see_them(tmp_path):
    """Obs grows by one at every step; the wrong successors would be a million away."""
    torch.manual_seed(0)
    n = 60
    obs = torch.arange(float(n)).view(-1, 1) / 10
    ends = torch.zeros(n)
    ends[9::10] = 1
    next_obs = torch.where(ends[:, None] > 0, 1e6, obs + 0.1)
    known = {"next_known": 1 - ends}
    data = Dataset.of(Transitions(obs, 0 * obs, 0 * ends, next_obs, ends, 0 * ends, known), CARD)
    model = DynamicsEnsemble(1, 1, DynamicsConfig(members=2, hidden=(16,), steps=40), seed=1)
    model.fit(data, data.all)
    ahead, _ = model.predict(obs, 0 * obs, member=False)
    assert (ahead - obs - 0.1).abs().max() < 1
    density = model.log_prob(data.all)
    assert torch.isinf(density[9::10]).all() and torch.isfinite(density[:9]).all()


def test_minari_which_keeps_successors_does_not_take_them(tmp_path):
    pytest.importorskip("minari", reason="needs the extra: pip install 'reverie[minari]'")
    data = load_hdf5(d4rl(tmp_path / "x.hdf5"), "E-v0", actions=Bounds(-1, 1))
    with pytest.raises(ValueError, match="next_known is 0"):
        save_minari(data, "reverie/nothing-v0", -1, 1)


# -- sizes and links


def refused(path):
    with pytest.raises(ValueError) as caught:
        load_hdf5(path, "E-v0", actions=Bounds(-1, 1))
    assert path.name in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_small_file_cannot_hold_much(tmp_path):
    """22 GiB of observations that were never written: nothing is allocated."""
    path = d4rl(tmp_path / "x.hdf5", observations=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("observations", (9, 700_000_000), np.float32, chunks=(1, 1000))
    assert path.stat().st_size < 40_000
    assert "GiB of numbers in" in refused(path)


def test_what_is_too_large_for_the_memory_is_told(tmp_path, monkeypatch):
    path = d4rl(tmp_path / "x.hdf5")
    monkeypatch.setattr(untrusted, "free_memory", lambda: 100)
    assert "100 B are free" in refused(path)
    assert untrusted.size_text(22.4 * 2**30) == "22.4 GiB"


def test_a_block_much_larger_than_its_array_is_refused(tmp_path):
    path = d4rl(tmp_path / "x.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", data=np.zeros(9), maxshape=(None,), chunks=(10**7,),
                            compression="gzip")  # fmt: skip
    assert "in blocks of 76.3 MiB" in refused(path)


def test_arrays_that_nobody_needs_are_not_read(tmp_path):
    path = d4rl(tmp_path / "x.hdf5")
    with h5py.File(path, "a") as file:
        file.create_dataset("infos/qpos", (10**9, 100), np.float64, chunks=(1, 100))
        file.create_dataset("more", (10**10,), np.float64, chunks=(1000,))
        file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")
    assert len(load_hdf5(path, "E-v0", actions=Bounds(-1, 1))) == 7


def test_nothing_is_read_from_another_file(tmp_path):
    """Whatever shape the detour has."""
    (tmp_path / "secret").write_bytes(bytes(range(72)))
    other = d4rl(tmp_path / "other.hdf5")
    for kind in ("external", "link", "soft", "soft over link", "virtual", "group", "extra"):
        path = d4rl(tmp_path / f"{kind}.hdf5", rewards=None)
        with h5py.File(path, "a") as file:
            if kind == "external":
                storage = [(str(tmp_path / "secret"), 0, 72)]
                file.create_dataset("rewards", (9,), np.float64, external=storage)
            elif kind == "link":
                file["rewards"] = h5py.ExternalLink(str(other), "rewards")
            elif kind == "soft":
                file["r"] = np.zeros(9)
                file["rewards"] = h5py.SoftLink("/r")
            elif kind == "soft over link":
                file["r"] = h5py.ExternalLink(str(other), "/")
                file["rewards"] = h5py.SoftLink("/r/rewards")
            elif kind == "virtual":
                layout = h5py.VirtualLayout((9,), np.float64)
                layout[:] = h5py.VirtualSource(str(other), "rewards", (9,))
                file.create_virtual_dataset("rewards", layout)
            elif kind == "group":
                file["rewards/x"] = np.zeros(9)
            else:
                file["rewards"] = np.zeros(9)
                file.attrs["reverie"] = json.dumps({"env": "E-v0"})
                file["extra"] = h5py.ExternalLink(str(other), "/")
        text = refused(path)
        assert ("extra" if kind == "extra" else "rewards") in text, text


# -- any file


SHAPES = st.lists(st.sampled_from([0, 1, 2, 9, 10**6, 10**12]), max_size=3).map(tuple)
KINDS = st.sampled_from(["f4", "f8", "i8", "u1", "?", "S3", "c8", "f2"])
NAMES = st.sampled_from(
    ["observations", "actions", "rewards", "terminals", "timeouts", "next_observations"]
)


@given(
    arrays=st.dictionaries(NAMES, st.tuples(SHAPES, KINDS), max_size=3),
    attribute=st.one_of(st.none(), st.sampled_from([b"unit", "native", "", 3, [1, 2]])),
    card=st.one_of(st.none(), st.sampled_from(["", "null", "[]", "{", '{"env": 3}', "1e30", 5])),
    link=st.one_of(st.none(), NAMES),
)
@FAST
def test_a_file_of_any_types_sizes_and_links_is_a_dataset_or_one_clear_line(
    tmp_path, arrays, attribute, card, link
):
    path = d4rl(tmp_path / "x.hdf5", **dict.fromkeys(arrays))
    with h5py.File(path, "a") as file:
        for name, (shape, kind) in arrays.items():
            chunks = tuple(min(s, 100) or 1 for s in shape) or None
            file.create_dataset(name, shape, kind, chunks=chunks if 0 not in shape else None)
        if attribute is not None:
            file.attrs["action_units"] = attribute
        if card is not None:
            file.attrs["reverie"] = card
        if link is not None and link in file:
            del file[link]
            file[link] = h5py.ExternalLink("elsewhere.hdf5", link)
    try:
        data = load_hdf5(path, "E-v0", actions=Bounds(-1, 1))
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    assert not link and torch.isfinite(data.rows).all() and len(data) < 10


VALUES = st.recursive(
    st.sampled_from([None, True, -1, 0, 3, 2**70, 1e30, float("inf"), float("nan"), "", "x", "3"]),
    lambda x: st.lists(x, max_size=2) | st.dictionaries(st.sampled_from(["a", "env"]), x),
    max_leaves=4,
)
FIELDS = [f"card.{name}" for name in Card.__dataclass_fields__]
FIELDS += ["layout.obs_dim", "layout.act_dim", "layout.extra", "card", "layout"]


@given(field=st.sampled_from(FIELDS), value=VALUES)
@FAST
def test_a_card_of_any_types_is_read_or_one_clear_line(tmp_path, field, value):
    x, ends = torch.zeros(3, 2), torch.tensor([0.0, 0, 1])
    Dataset.of(Transitions(x, x[:, :1], ends, x, ends, 0 * ends), CARD).save(tmp_path / "d")
    about = json.loads((tmp_path / "d.json").read_text())
    part, _, name = field.partition(".")
    if name:
        about[part][name] = value
    else:
        about[part] = value
    (tmp_path / "d.json").write_text(json.dumps(about))
    try:
        data = load_dataset(tmp_path / "d")
    except ValueError as error:
        assert str(tmp_path) in str(error) and "\n" not in str(error)
        return
    card = data.card
    assert isinstance(card.env, str) and card.env and isinstance(card.policy, str)
    assert card.max_episode_steps is None or type(card.max_episode_steps) is int
    assert all(np.isfinite(v) for v in card.context.values())
    assert data.layout.width == data.rows.shape[1]


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"rows": torch.zeros(3, 8, dtype=torch.float64)}, "F64"),
        ({"rows": torch.zeros(3, 8), "more": torch.zeros(1)}, "more"),
        ({"else": torch.zeros(3, 8)}, "else"),
        ({"rows": torch.zeros(3, 9)}, "width 8"),
        ({"rows": torch.zeros(24)}, "width 8"),
    ],
)
def test_the_header_of_the_rows_is_looked_at_first(tmp_path, tensors, text, monkeypatch):
    x, ends = torch.zeros(3, 2), torch.tensor([0.0, 0, 1])
    Dataset.of(Transitions(x, x[:, :1], ends, x, ends, 0 * ends), CARD).save(tmp_path / "d")
    save_file(tensors, tmp_path / "d.safetensors")
    monkeypatch.setattr("reverie.buffers.dataset.load_file", None)  # is not reached
    with pytest.raises(ValueError, match=text):
        load_dataset(tmp_path / "d")


def test_a_card_is_small(tmp_path, monkeypatch):
    x, ends = torch.zeros(3, 2), torch.tensor([0.0, 0, 1])
    Dataset.of(Transitions(x, x[:, :1], ends, x, ends, 0 * ends), CARD).save(tmp_path / "d")
    monkeypatch.setattr(untrusted, "TEXT", 50)
    with pytest.raises(ValueError, match="a card has 50 B at most"):
        load_dataset(tmp_path / "d")


# -- Minari's spaces


def minari_file(dataset_id, observation, action, observations, actions):
    """Write one episode of as many steps as there are actions."""
    import minari
    from minari.data_collector import EpisodeBuffer

    n = len(actions)
    episode = EpisodeBuffer(
        observations=observations, actions=actions, rewards=np.arange(n, dtype=float),
        terminations=np.zeros(n, bool), truncations=np.arange(n) == n - 1,
    )  # fmt: skip
    minari.create_dataset_from_buffers(
        dataset_id, buffer=[episode], observation_space=observation, action_space=action
    )


@pytest.fixture
def minari_folder(tmp_path, monkeypatch):
    pytest.importorskip("minari", reason="needs the extra: pip install 'reverie[minari]'")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minaris_spaces_are_flattened_as_in_training(minari_folder):
    from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

    space = Dict(at=Box(-9, 9, (2,), np.float32), door=Dict(key=Discrete(3)))
    obs = {"at": np.float32([[0, 1], [2, 3], [4, 5]]), "door": {"key": np.array([2, 0, 1])}}
    minari_file("test/dict-v0", space, Discrete(3, start=1), obs, np.array([3, 1]))
    data = load_minari("test/dict-v0", describe).all
    assert data.obs.tolist() == [[0, 1, 0, 0, 1], [2, 3, 1, 0, 0]]
    assert data.next_obs.tolist() == [[2, 3, 1, 0, 0], [4, 5, 0, 1, 0]]
    assert data.action.tolist() == [[0, 0, 1], [1, 0, 0]]

    images = np.arange(24, dtype=np.uint8).reshape(3, 2, 2, 2)
    whole = Box(0, 3, (1,), np.int64)
    minari_file("test/image-v0", Box(0, 255, (2, 2, 2), np.uint8), whole, images,
                np.array([[3], [0]]))  # fmt: skip
    data = load_minari("test/image-v0", describe).all
    assert data.obs.tolist() == [list(range(8)), list(range(8, 16))]
    assert data.action.ravel().tolist() == [0.75, -0.75]

    with pytest.raises(ValueError, match=r"is no flat Box: give describe=reverie\.envs\.describe"):
        load_minari("test/image-v0")
    minari_file("test/tuple-v0", Tuple((Discrete(2),)), Discrete(2), (np.zeros(3, int),),
                np.array([0, 1]))  # fmt: skip
    with pytest.raises(ValueError, match="minari:test/tuple-v0: observation space Tuple"):
        load_minari("test/tuple-v0", describe)
    minari_file("test/multi-v0", Discrete(2), MultiDiscrete([2, 2]), np.zeros(3, int),
                np.zeros((2, 2), int))  # fmt: skip
    with pytest.raises(ValueError, match=r"MultiDiscrete\(\[2 2\]\) is not supported"):
        load_minari("test/multi-v0", describe)
