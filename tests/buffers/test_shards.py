"""A replay buffer on disk: append-only shards hold every row once, and exactly."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from reverie.buffers import Layout, ReplayBuffer
from reverie.buffers.shards import (
    Shard,
    append_rows,
    from_json,
    prune,
    read_rows,
    read_shard,
    to_json,
    verify,
)

LAYOUT = Layout(2, 1, {"tag": 1})
T, N = 8, 3


def play(buffer, first, last):
    """Add steps first..last-1; their rows are unlike any other's, some are invalid, some end."""
    for s in range(first, last):
        number = torch.arange(N) + N * s + 1.0
        packed = number[:, None] * torch.arange(1.0, LAYOUT.width + 1)
        packed[:, LAYOUT.slices["terminated"]] = number % 5 == 0
        packed[:, LAYOUT.slices["truncated"]] = number % 7 == 0
        buffer.add(LAYOUT.unpack(packed), number % 11 != 0)


def saved(folder, *stops):
    """A buffer that was saved after each of the stops, and its shards."""
    buffer, shards = ReplayBuffer(LAYOUT, T * N, N, seed=4), []
    for first, last in zip((0, *stops), stops, strict=False):
        play(buffer, first, last)
        shards = append_rows(buffer, folder, shards)
    return buffer, shards


def refilled(buffer, folder, shards):
    """Another process's buffer, made from the shards and the state without rows."""
    state = buffer.state_dict(rows=False)
    other = ReplayBuffer(LAYOUT, T * N, N, seed=99)
    read_rows(other, folder, shards, state["total"])
    other.load_state_dict(state)
    return other


def assert_same(a, b, more=3):
    """Same rows, episodes, draws; also after `more` further steps."""
    for s in range(more + 1):
        assert len(a) == len(b)
        assert LAYOUT.pack(a.sample(64)).equal(LAYOUT.pack(b.sample(64)))
        x, y = (c.sample_windows(64, 3, 2) for c in (a, b))
        assert LAYOUT.pack(x.batch).equal(LAYOUT.pack(y.batch)) and x.mask.equal(y.mask)
        assert a.initial_obs(32).equal(b.initial_obs(32))
        for c in (a, b):
            play(c, 1000 + s, 1001 + s)


def spans(shards):
    return [(s.first, s.last) for s in shards]


@pytest.mark.parametrize(
    ("stops", "kept"),
    [
        ((3,), [(0, 3)]),
        ((3, 5, 6), [(0, 3), (3, 5), (5, 6)]),
        ((8, 16), [(8, 16)]),
        ((3, 5, 10), [(0, 3), (3, 5), (5, 10)]),
        ((3, 5, 12), [(3, 5), (5, 12)]),
        ((3, 5, 13), [(5, 13)]),
        ((3, 20), [(12, 20)]),
        ((5, 5 + 2 * T + 3), [(16, 24)]),  # the ring wrapped twice between two saves
        ((2, 25, 27, 30), [(17, 25), (25, 27), (27, 30)]),
    ],
)
def test_a_refill_equals_the_original(tmp_path, stops, kept):
    folder = tmp_path / "buffer"
    buffer, shards = saved(folder, *stops)
    assert spans(shards) == kept
    assert verify(folder, shards) is None
    other = refilled(buffer, folder, shards)
    first = max(0, buffer.total - T)
    a, b = (c.export_rows(first, buffer.total) for c in (buffer, other))
    assert a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a)
    assert_same(buffer, other)


def test_only_new_rows_are_written(tmp_path):
    folder, stamps = tmp_path / "buffer", {}
    buffer, shards = saved(folder, 4)
    for last, new in ((4, []), (6, ["0-4-6.safetensors"]), (15, ["0-7-15.safetensors"])):
        before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}
        play(buffer, buffer.total, last)
        shards = append_rows(buffer, folder, shards)
        after = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}
        assert sorted(after.keys() - before.keys()) == new
        assert before == {name: after[name] for name in before}, "an old shard was touched"
        stamps |= after
    one, two = (len(stamps[k][1]) for k in ("0-4-6.safetensors", "0-0-4.safetensors"))
    row = N * (4 * LAYOUT.width + 8 + 1)  # float32 columns, int64 episode, bool
    assert two - one == pytest.approx(2 * row, abs=16)
    assert all(s.size == len(stamps[s.name][1]) for s in shards)


def test_a_second_process_continues_the_shards(tmp_path):
    folder = tmp_path / "buffer"
    buffer, shards = saved(folder, 3, 6)
    play(buffer, 6, 9)
    append_rows(buffer, folder, shards)  # of a checkpoint that was never finished
    _, shards = saved(tmp_path / "again", 3, 6)
    twin = refilled(saved(tmp_path / "twin", 3, 6)[0], folder, shards)
    play(twin, 500, 503)
    shards = append_rows(twin, folder, shards)
    assert [s.name for s in shards] == [f"{n}.safetensors" for n in ("0-0-3", "0-3-6", "1-6-9")]
    assert (folder / "0-6-9.safetensors").exists()
    assert_same(twin, refilled(twin, folder, shards))


@pytest.mark.parametrize("steps", [3, 5, 7, 2 * T])
def test_a_cleared_buffer_is_saved_anew(tmp_path, steps):
    folder = tmp_path / "buffer"
    buffer, shards = saved(folder, 5)
    buffer.clear()
    play(buffer, 100, 100 + steps)
    shards = append_rows(buffer, folder, shards)
    assert verify(folder, shards) is None
    assert_same(buffer, refilled(buffer, folder, shards))


@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("harm", ["missing", "truncated", "longer", "flipped bit"])
def test_a_damaged_shard_is_named(tmp_path, harm, victim):
    folder = tmp_path / "buffer"
    _, shards = saved(folder, 2, 5, 6)
    path = folder / shards[victim].name
    data = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
    elif harm == "truncated":
        path.write_bytes(data[:-1])
    elif harm == "longer":
        path.write_bytes(data + b"\0")
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    text = {"missing": "is missing", "flipped bit": "does not match its sha256"}
    told = verify(folder, shards)
    assert told is not None and str(path) in told
    assert text.get(harm, f"expected {shards[victim].size}") in told
    assert verify(folder, [s for s in shards if s.name != path.name]) is None


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    folder = tmp_path / "buffer"
    buffer, shards = saved(folder, 2)

    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reverie.buffers.shards.save_file", full)
    play(buffer, 2, 5)
    with pytest.raises(OSError, match="No space left"):
        append_rows(buffer, folder, shards)
    assert [p.name for p in folder.iterdir()] == [shards[0].name]
    monkeypatch.undo()
    play(buffer, 5, 6)
    shards = append_rows(buffer, folder, shards)
    assert spans(shards) == [(0, 2), (2, 6)]
    assert_same(buffer, refilled(buffer, folder, shards))


def test_prune_deletes_what_nobody_needs_and_nothing_else(tmp_path):
    folder = tmp_path / "buffer"
    _, shards = saved(folder, 2, 5, 6)
    others = ["notes.txt", "0-0.safetensors", "a-0-2.safetensors", "x0-0-2.safetensors"]
    for name in [*others, "0-6-7.partial", "3-0-2.safetensors"]:
        (folder / name).write_text("x")
    prune(folder, {s.name for s in shards[1:]})
    assert sorted(p.name for p in folder.iterdir()) == sorted([s.name for s in shards[1:]] + others)
    assert verify(folder, shards[1:]) is None


def test_a_manifest_lists_shards_as_json(tmp_path):
    _, shards = saved(tmp_path / "buffer", 2, 5)
    assert from_json(json.loads(json.dumps(to_json(shards)))) == shards
    assert from_json([]) == []


@pytest.mark.parametrize(
    "name",
    [
        "../0-0-2.safetensors",
        "/tmp/0-0-2.safetensors",
        "0-0-2.safetensors\n",
        "0-0-2.safetensors/..",
        "0-0-2.pt",
        "0-2.safetensors",
        "-1-0-2.safetensors",
        "",
    ],
)
def test_a_name_that_is_no_shards_is_refused(name):
    good = Shard("0-0-2.safetensors", 0, 2, 10, "ab")
    rows = to_json([good, replace(good, name=name)])
    with pytest.raises(ValueError, match="is not a shard's name"):
        from_json(rows)


ROWS = torch.zeros(5, N, LAYOUT.width)
HELD = {"rows": ROWS, "episode": ROWS[..., 0].long(), "invalid": ROWS[..., 0] > 0}


@pytest.mark.parametrize(
    "held",
    [
        {},
        {"rows": ROWS},
        {**HELD, "more": torch.zeros(1)},
        {**HELD, "rows": ROWS.double()},
        {**HELD, "rows": ROWS[..., 1:]},
        {**HELD, "rows": ROWS[0, 0, 0]},
        {**HELD, "episode": HELD["episode"][1:]},
        {**HELD, "invalid": HELD["episode"].clone()},
    ],
)
def test_a_shard_of_something_else_is_refused_before_it_is_read(tmp_path, held, monkeypatch):
    save_file({k: v.contiguous() for k, v in held.items()}, tmp_path / "0-0-5.safetensors")
    monkeypatch.setattr("reverie.buffers.shards.load_file", None)  # is not reached
    with pytest.raises(ValueError, match=r"0-0-5\.safetensors is no shard of this buffer"):
        read_shard(tmp_path / "0-0-5.safetensors", N, LAYOUT.width)


def test_a_shard_of_another_length_than_its_manifest_says_is_refused(tmp_path):
    buffer, shards = saved(tmp_path, 4)
    with pytest.raises(ValueError, match="do not make up the rows up to step 4"):
        read_rows(buffer, tmp_path, [replace(shards[0], last=3)], 4)


@pytest.mark.parametrize(
    "entry",
    [
        3, "x", None, [], {}, {"name": "0-0-1.safetensors"},
        {"name": 3, "first": 0, "last": 1, "size": 1, "sha256": ""},
        {"name": "0-0-1.safetensors", "first": "0", "last": 1, "size": 1, "sha256": ""},
        {"name": "0-0-1.safetensors", "first": 0, "last": 1e30, "size": 1, "sha256": ""},
        {"name": "0-0-1.safetensors", "first": 2, "last": 1, "size": 1, "sha256": ""},
        {"name": "../0-0-1.safetensors", "first": 0, "last": 1, "size": 1, "sha256": ""},
    ],
)  # fmt: skip
def test_entries_of_other_types_are_refused(entry):
    with pytest.raises(ValueError, match="shard"):
        from_json([entry])
