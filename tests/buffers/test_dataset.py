"""Offline data: what it holds, what it refuses, round trips, and readers that meet rubbish."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reverie.buffers import Card, Dataset, Layout, Source, Transitions, load_dataset
from reverie.buffers.dataset import join
from reverie.buffers.formats import Bounds, load_hdf5, load_minari, save_hdf5, save_minari

CARD = Card(env="reverie/Hopper-v5", policy="planted", context={"mass": 1.5}, seed=3)


UNIT = Bounds(-1, 1)


def planted(lengths=(4, 1, 6), terminal=(True, False, True), obs_dim=3, act_dim=2, extra=()):
    """Episodes whose numbers say where they are: obs = 100 * episode + t."""
    rows = []
    for e, (n, ends) in enumerate(zip(lengths, terminal, strict=True)):
        for t in range(n):
            last = t == n - 1
            rows.append((100 * e + t, e, t, float(last and ends), float(last and not ends)))
    at = torch.tensor(rows)
    place = at[:, :1].expand(-1, obs_dim)
    g = torch.Generator().manual_seed(0)
    action = torch.rand(len(rows), act_dim, generator=g) * 2 - 1
    columns = {name: at[:, 2] for name in extra}
    return Dataset.of(
        Transitions(place, action, at[:, 2] + 1, place + 1, at[:, 3], at[:, 4], columns), CARD
    )


def test_episodes_returns_and_draws():
    data = planted()
    assert data.episodes() == [(0, 4), (4, 5), (5, 11)] and len(data) == 11
    assert data.returns().tolist() == [10, 1, 21]
    assert isinstance(data, Source) and isinstance(data.select([1, 2]), Source)
    a, b = planted(), planted()
    assert torch.equal(a.sample(50).obs, b.sample(50).obs)
    drawn = data.sample(500)
    assert set(drawn.obs[:, 0].tolist()) == set(data.all.obs[:, 0].tolist())
    assert torch.equal(drawn.next_obs, drawn.obs + 1)
    state = data.state_dict()
    ahead = data.sample(20).obs
    b.load_state_dict(state)
    assert torch.equal(b.sample(20).obs, ahead)


def test_a_subset_draws_its_rows_only():
    data = planted()
    memory = data.select(torch.tensor([0, 7, 9]))
    assert set(memory.sample(200).obs[:, 0].tolist()) == {0.0, 202.0, 204.0}
    for bad in ([], [11], [-1]):
        with pytest.raises(ValueError, match="do not lie within 11 rows"):
            data.select(torch.tensor(bad, dtype=torch.int64))


def test_next_action_is_that_of_the_episode():
    data = planted()
    actions, following = data.all.action, data.with_next_action().all.extra["next_action"]
    assert torch.equal(following[:3], actions[1:4]) and torch.equal(following[5:10], actions[6:11])
    assert not following[[3, 4, 10]].any()


def test_moments_standardise():
    mean, std = planted().moments()
    assert torch.allclose(mean, planted().all.obs.mean(0))
    assert (std > 0).all()


def test_scores():
    card = replace(CARD, random_return=10.0, reference_return=110.0)
    assert card.normalised(60.0) == 50.0
    with pytest.raises(ValueError, match="two different numbers"):
        CARD.normalised(1.0)


def test_join():
    data = planted()
    both = join([data, data], CARD)
    assert len(both) == 22 and len(both.episodes()) == 6
    with pytest.raises(ValueError, match="different layouts"):
        join([data, planted(act_dim=1)], CARD)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r: r[:, :-1], "do not fit a layout"),
        (lambda r: r[:0], "do not fit a layout"),
        (lambda r: r.double(), "expected float32"),
        (lambda r: r.index_fill(0, torch.tensor([2]), torch.nan), "row 2 has a value"),
        (lambda r: r[:-1], "the last episode is open"),
        (lambda r: r * torch.tensor([1.0] * 9 + [0.5] * 2), "must be 0 or 1"),
        (lambda r: r * torch.tensor([1.0] * 3 + [9.0] * 2 + [1.0] * 6), r"must lie in \[-1, 1\]"),
    ],
)
def test_what_is_no_dataset_is_refused(change, text):
    data = planted()
    assert data.rows.shape[1] == 11
    with pytest.raises(ValueError, match=text):
        Dataset(data.layout, change(data.rows.clone()), CARD)


@pytest.mark.parametrize("extra", [(), ("step",)])
def test_round_trips_are_exact(tmp_path, extra):
    data = planted(extra=extra)
    card = data.save(tmp_path / "d")
    again = load_dataset(tmp_path / "d")
    assert torch.equal(again.rows, data.rows) and again.layout == data.layout
    assert again.card == card and card.sha256
    assert torch.equal(load_dataset(tmp_path / "d.json").rows, data.rows)
    save_hdf5(data, tmp_path / "d.hdf5")
    back = load_hdf5(tmp_path / "d.hdf5")
    assert torch.equal(back.rows, data.rows) and back.layout == data.layout and back.card == CARD


def test_d4rls_own_files_without_successors(tmp_path):
    """Three episodes: terminated, timed out, cut by the end of the file."""
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["observations"] = np.arange(9, dtype=np.float32)[:, None]
        file["actions"] = np.zeros((9, 1), np.float32)
        file["rewards"] = np.arange(9.0)
        file["terminals"] = np.array([0, 0, 1, 0, 0, 0, 0, 0, 0], bool)
        file["timeouts"] = np.array([0, 0, 0, 0, 0, 1, 0, 0, 0], bool)
    data = load_hdf5(tmp_path / "x.hdf5", "Hopper-v2", actions=UNIT)
    assert data.all.obs[:, 0].tolist() == [0, 1, 2, 3, 4, 6, 7]  # 5 and 8 have no successor
    assert data.all.next_obs[[0, 1, 3, 4, 5, 6], 0].tolist() == [1, 2, 4, 5, 7, 8]
    assert data.all.terminated.tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert data.all.truncated.tolist() == [0, 0, 0, 0, 1, 0, 1]
    with pytest.raises(ValueError, match="give env"):
        load_hdf5(tmp_path / "x.hdf5", actions=UNIT)


def test_hdf5_without_flags_is_cut_where_it_does_not_continue(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["observations"] = np.array([[0], [1], [2], [50], [51], [52]], np.float32)
        file["next_observations"] = np.array([[1], [2], [3], [51], [52], [53]], np.float32)
        file["actions"], file["rewards"] = np.zeros((6, 1)), np.zeros(6)
        file["terminals"] = np.zeros(6, bool)
    data = load_hdf5(tmp_path / "x.hdf5", "Hopper-v5", actions=UNIT)
    assert data.episodes() == [(0, 3), (3, 6)]
    with h5py.File(tmp_path / "x.hdf5", "a") as file:
        del file["next_observations"]
    with pytest.raises(ValueError, match="neither next_observations nor timeouts"):
        load_hdf5(tmp_path / "x.hdf5", "Hopper-v5", actions=UNIT)


def test_minari_round_trip(tmp_path, monkeypatch):
    pytest.importorskip("minari", reason="needs the extra: pip install 'reverie[minari]'")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data = planted()
    save_minari(data, "reverie/planted-v0", low=[-2, 0], high=[2, 1])
    back = load_minari("reverie/planted-v0")
    assert torch.equal(back.rows, data.rows) and back.card == CARD
    whole = data.all
    broken = Dataset.of(whole._replace(next_obs=whole.next_obs + 1), CARD)
    with pytest.raises(ValueError, match="no unbroken episode"):
        save_minari(broken, "reverie/broken-v0", low=[-1, -1], high=[1, 1])


def test_missing_files_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="is missing"):
        load_dataset(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_hdf5(tmp_path / "nothing.hdf5")


def test_a_changed_row_does_not_match_its_digest(tmp_path):
    data = planted()
    data.save(tmp_path / "d")
    other = Dataset(data.layout, data.rows + torch.tensor([1.0] * 3 + [0.0] * 8), CARD)
    other.save(tmp_path / "e")
    (tmp_path / "e.safetensors").replace(tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match="does not match the sha256"):
        load_dataset(tmp_path / "d")


RUBBISH = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    data = planted()
    data.save(folder / "d")
    save_hdf5(data, folder / "d.hdf5")
    return folder, data


def damaged(whole, cut, at, byte):
    data = bytearray(whole[: max(0, len(whole) - cut)])
    if data:
        data[at % len(data)] ^= byte
    return bytes(data)


@RUBBISH
@given(
    which=st.sampled_from(["d.safetensors", "d.json", "d.hdf5"]),
    cut=st.one_of(st.just(0), st.integers(0, 3000)),
    at=st.integers(0, 100_000),
    byte=st.integers(0, 255),
)
def test_damaged_files_load_what_was_written_or_raise_a_clear_error(
    files, tmp_path, which, cut, at, byte
):
    """Nothing but ValueError, and never other rows than those that were written."""
    folder, data = files
    work = tmp_path
    for name in ("d.safetensors", "d.json", "d.hdf5"):
        (work / name).write_bytes((folder / name).read_bytes())
    (work / which).write_bytes(damaged((folder / which).read_bytes(), cut, at, byte))
    try:
        got = load_hdf5(work / "d.hdf5") if which == "d.hdf5" else load_dataset(work / "d")
    except ValueError as error:
        assert str(work) in str(error)
        return
    if which != "d.hdf5":  # HDF5 has no digest of ours: it may be readable and different
        assert torch.equal(got.rows, data.rows)


ARRAY = st.sampled_from([
    np.zeros((5, 3), np.float32), np.zeros((5, 2)), np.zeros(5), np.zeros(4), np.zeros((5, 1)),
    np.full((5, 3), np.nan), np.array(3.0), np.zeros((0, 3)), np.array([b"x"] * 5), np.ones(5),
])  # fmt: skip


@RUBBISH
@given(arrays=st.dictionaries(
    st.sampled_from(["observations", "actions", "rewards", "terminals", "timeouts",
                     "next_observations", "truncateds"]), ARRAY))  # fmt: skip
def test_hdf5_of_any_arrays_is_a_dataset_or_a_clear_error(tmp_path, arrays):
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file[name] = value
    try:
        data = load_hdf5(path, "Hopper-v5", actions=UNIT)
    except ValueError as error:
        assert "x.hdf5" in str(error)
        return
    assert torch.isfinite(data.rows).all() and bool(data.ends[-1])


def test_a_card_with_unknown_keys_is_read(tmp_path):
    """Cards may grow; older code reads them."""
    planted().save(tmp_path / "d")
    about = json.loads((tmp_path / "d.json").read_text())
    about["card"]["later"] = 1
    (tmp_path / "d.json").write_text(json.dumps(about))
    assert load_dataset(tmp_path / "d").card.env == CARD.env
    assert Layout(3, 2).width == 11


@pytest.mark.parametrize("name", ["a.1", "a.2", "a.json", "b.safetensors", "c.1.json"])
def test_a_dataset_is_found_under_the_name_that_it_was_saved_by(name, tmp_path):
    """What follows a dot belongs to the name, but for the suffixes of its own two files."""
    for other in ("a.1", "a.2"):
        planted((3,), (True,)).save(tmp_path / other)
    planted((4,), (True,)).save(tmp_path / name)
    base = name.removesuffix(".json").removesuffix(".safetensors")
    assert len(load_dataset(tmp_path / name)) == len(load_dataset(tmp_path / base)) == 4
    files = {f"{n}.{end}" for n in ("a.1", "a.2", base) for end in ("json", "safetensors")}
    assert {p.name for p in tmp_path.iterdir()} == files


def test_a_share_of_the_rows_is_cut_where_one_is_missing():
    data = planted()
    half = data.share(0.5, seed=3)
    assert len(half) == round(len(data) / 2)
    at = [int((data.rows[:, :-1] == row[:-1]).all(1).nonzero()[0, 0]) for row in half.rows]
    assert at == sorted(set(at))  # none twice, in their order
    for i, row in enumerate(at):
        was, now = data.layout.unpack(data.rows[row]), half.layout.unpack(half.rows[i])
        followed = i + 1 < len(at) and at[i + 1] == row + 1
        assert now.terminated == was.terminated
        assert bool(now.truncated) == (bool(was.truncated) or not (followed or was.terminated))
    assert torch.equal(data.share(0.5, seed=3).rows, half.rows)
    assert not torch.equal(data.share(0.5, seed=4).rows, half.rows)
    assert torch.equal(data.share(1.0).rows, data.rows) and len(data.share(1e-9)) == 1
