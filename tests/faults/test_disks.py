"""Disks that take nothing more: the run goes on, a line says so, what is there stays whole."""

import dataclasses
import errno
import functools
import io
import json
import logging
import os
import re
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from made import files, same_end
from safetensors import SafetensorError
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tiny import BY_LOOP, METHODS, config, module_of, offline_data

from reverie.buffers import Layout, ReplayBuffer, Transitions, aside, load_dataset, shards
from reverie.buffers.formats import save_hdf5
from reverie.experiments import cli, load_run
from reverie.experiments.looking import film
from reverie.experiments.runs import checkpoint, stopping
from reverie.experiments.runs.directory import Counts, Directory
from reverie.experiments.runs.run import Run
from reverie.experiments.studies import plots

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
PAGE = 4096


@pytest.fixture
def disk(tmp_path):
    """A file system of 6 MB, empty."""
    where = tmp_path / "disk"
    where.mkdir()
    command = f"mount -t tmpfs -o size=6m none {where}"
    made = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no small file system can be mounted here: {made.stderr.strip()}")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def fill(where, leave=0):
    """Take all the room of a file system but `leave` bytes."""
    with (where / "filler").open("ab", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(PAGE))
        file.truncate(file.tell() - leave // PAGE * PAGE)


def options(method, out, steps=660, **changes):
    made = config(method, out, "run", steps=steps)
    run = dataclasses.replace(made.run, tensorboard=True, **changes)
    return dataclasses.replace(made, run=run)


def when(monkeypatch, actions):
    """Do each of `actions`, step -> what, once the run has passed that step."""
    real, left = Run.tick, dict(actions)

    def tick(self, transitions):
        real(self, transitions)
        for step in [s for s in left if self.step > s]:
            left.pop(step)()

    monkeypatch.setattr(Run, "tick", tick)


@functools.cache
def whole(method, steps=660):
    """The directory of a run on a disk with room."""
    out = Path(tempfile.mkdtemp(prefix="reverie-whole-"))
    return module_of(method).main(options(method, out, steps)).path


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def saved(path):
    return [checkpoint.step_of(p) for p in checkpoint.list_checkpoints(path / "checkpoints")]


def require_tidy(path):
    """Nothing half-written, and no shard that no checkpoint lists."""
    assert not [p for p in path.rglob("*") if re.search(r"tmp|partial|\.old", p.name)]
    points = checkpoint.list_checkpoints(path / "checkpoints")
    listed = {
        s.name for p in points for rows in checkpoint.manifest_stores(p).values() for s in rows
    }
    assert {p.name for p in path.glob("buffer/*/*")} == listed


def require_readable(path, tmp_path, capsys):
    """What people look at a run with; `path` is in a folder of its own."""
    capsys.readouterr()
    assert cli.main(["list", "runs", str(path.parent)]) == 0
    assert re.match(rf"finished +{load_run(path).stamp['step']} steps", capsys.readouterr().out)
    judged = len(load_run(path).frame()) > 0
    assert cli.main(["plot", str(path), "--out", str(tmp_path / "curve.png")]) == 2 * (not judged)
    events = [e for f in path.glob("tensorboard/events*") for e in EventFileLoader(str(f)).Load()]
    drawn = sum(len(e.summary.value) for e in events)
    assert drawn == len({(e.step, v.tag) for e in events for v in e.summary.value})


# -- a file system without room


FULL_FROM = ["begin", "checkpoint", "too large"]


def _cases():
    for method in METHODS:
        for since in FULL_FROM:
            fast = method == "sac" and since != "begin"
            yield pytest.param(method, since, marks=[] if fast else [pytest.mark.slow])


@pytest.mark.parametrize(("method", "since"), list(_cases()))
def test_a_full_disk_costs_one_line_and_the_run_goes_on(
    method, since, disk, tmp_path, monkeypatch, caplog, capsys
):
    def take_it():
        largest = [p.stat().st_size for p in (disk / "run").rglob("tensors.safetensors")]
        fill(disk, max(largest) // 2 if since == "too large" else 0)

    when(monkeypatch, {0 if since == "begin" else 120: take_it})
    result = module_of(method).main(options(method, disk))
    path = result.path
    (told,) = warnings(caplog)
    assert re.search(r"not written: \[Errno 28\] No space left on device.*training goes on", told)
    if since != "begin":
        assert told.startswith("checkpoint at step ")
    stamp = load_run(path).stamp
    assert (stamp["status"], stamp["step"], result.steps) == ("finished", 660, 660)
    assert "checkpoint" in stamp["notes"]["not written"]
    fits = method == "synther-iql" or method.startswith("dreamland")
    begun = [0, 0] if fits else []  # a fit saves before the first step
    assert saved(path) == (begun if since == "begin" else [60, 120])
    require_tidy(path)
    require_readable(path, tmp_path, capsys)
    assert warnings(caplog) == [told]  # no broken row

    (disk / "filler").unlink()
    module_of(method).main(options(method, disk), resume=True)
    assert same_end(path, whole(method))
    require_tidy(path)


@pytest.mark.parametrize("method", BY_LOOP[:1] + [
    pytest.param(m, marks=pytest.mark.slow) for m in METHODS if m != "sac"
])  # fmt: skip
def test_when_there_is_room_again_the_run_saves_again(
    method, disk, tmp_path, monkeypatch, caplog, capsys
):
    caplog.set_level(logging.INFO, "reverie")
    when(monkeypatch, {120: lambda: fill(disk), 400: (disk / "filler").unlink})
    path = module_of(method).main(options(method, disk)).path
    assert len(warnings(caplog)) == 1
    again = [r.getMessage() for r in caplog.records if "takes them again" in r.getMessage()]
    assert len(again) == 1 and re.match(r"checkpoint at step 4[258]0 written", again[0])
    require_tidy(path)
    require_readable(path, tmp_path, capsys)
    newest = checkpoint.list_checkpoints(path / "checkpoints")[-1]
    names = ("tensors.safetensors", "state.json")
    end = {name: (newest / name).read_bytes() for name in names}
    there = checkpoint.list_checkpoints(whole(method) / "checkpoints")[-1]
    assert end == {name: (there / name).read_bytes() for name in names}
    checkpoint.sweep(newest)
    rows = (path / "metrics.jsonl").read_bytes()
    module_of(method).main(options(method, disk), resume=True)
    assert end == {name: (newest / name).read_bytes() for name in names}
    assert (path / "metrics.jsonl").read_bytes() == rows


@pytest.mark.parametrize("pages", [0, 2, 3])
def test_a_new_run_on_a_full_disk_is_refused_and_leaves_nothing(pages, disk, capsys, monkeypatch):
    """Without a byte, with room for the lock and config.json, and for stamp.json too."""
    monkeypatch.setattr(module_of("sac"), "PRESETS", {"default": options("sac", disk, 60)})
    fill(disk, pages * PAGE)
    if pages == 3:
        assert cli.main(["sac"]) == 0
        return
    assert cli.main(["sac"]) == 2
    told = capsys.readouterr().err
    assert re.search(rf"^reverie: {disk}/run takes no new run: .*No space left", told, re.M)
    assert [p.name for p in disk.iterdir()] == ["filler"]


# -- a writer that is refused, wherever that is


class Refused:
    """An open file that takes half of what it is given, or fails, or cannot even be cut back."""

    def __init__(self, file, how):
        self._file, self._how, self._cut = file, how, False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        size = os.fstat(self._file.fileno()).st_size
        held = max(0, size - self._file.tell())  # that much has room
        if self._how != "none" and (held or not self._cut):
            self._cut = self._cut or not held
            part = self._file.write(data[: held or len(data) // 2])
            if isinstance(self._file, io.FileIO):
                return part
        raise FULL

    def truncate(self, *args):
        size = args[0] if args else self._file.tell()
        if (
            self._how == "stuck"
            and self._file.mode == "ab"
            and os.fstat(self._file.fileno()).st_size > size
        ):
            raise FULL
        return self._file.truncate(*args)


WRITERS = {
    "metrics.jsonl": r"/metrics\.jsonl",
    "timing.jsonl": r"/timing\.jsonl",
    "TensorBoard": r"/events\.out\.tfevents\.",
    "stamp.json": r"/\.?stamp\.json",
    "shard": r"/buffer/replay/",
    "tensors": r"/tensors\.safetensors",
    "state.json": r"/state\.json",
    "manifest.json": r"/manifest\.json",
    "everything": r"/run/",
}


def refuse(monkeypatch, pattern, how):
    """From now on files of this name take no more; those that are open, too."""
    real_open, real_save, real_sync = Path.open, shards.save_file, os.fsync

    def opened(self, mode="r", *args, **kwargs):
        file = real_open(self, mode, *args, **kwargs)
        held = re.search(pattern, str(self)) and set(mode) & set("wax+") and self.name != "lock"
        return Refused(file, how) if held else file

    def saves(tensors, path):
        if not re.search(pattern, str(path)):
            return real_save(tensors, path)
        with real_open(path, "wb") as file:
            file.write(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    def sync(handle):
        if re.search(pattern, os.readlink(f"/proc/self/fd/{handle}")):
            raise FULL
        real_sync(handle)

    if how == "sync":
        monkeypatch.setattr(os, "fsync", sync)
    else:
        monkeypatch.setattr(Path, "open", opened)
        monkeypatch.setattr(shards, "save_file", saves)


def refused_run(method, out, writer, how, monkeypatch):
    """Train with a writer that is refused from step 121 on, and with all of them from then on."""
    with monkeypatch.context() as patch:
        real = Run.tick

        def tick(self, transitions):
            real(self, transitions)
            if self.step > 120 and self.previous <= 120:
                refuse(patch, WRITERS[writer], how)
                grown = self._writers
                for file in (
                    grown._metrics,
                    grown._timing,
                    *(b._file for b in grown._boards.values()),
                ):
                    file.close()  # to be opened by the next row

        patch.setattr(Run, "tick", tick)
        return module_of(method).main(options(method, out, 300)).path


def _refusals():
    """Every writer is refused its write; the other ways are left to the slow tests, but of two."""
    for writer in WRITERS:
        for how in ("none", "short", "stuck", "sync"):
            fast = how == "none" or writer in ("metrics.jsonl", "everything")
            yield pytest.param(writer, how, marks=[] if fast else [pytest.mark.slow])


@pytest.mark.parametrize(("writer", "how"), list(_refusals()))
def test_a_writer_that_is_refused_costs_one_line(
    writer, how, tmp_path, monkeypatch, caplog, capsys
):
    path = refused_run("sac", tmp_path / "runs", writer, how, monkeypatch)
    if how == "sync" and writer in (
        "metrics.jsonl",
        "shard",
        "tensors",
        "state.json",
        "everything",
    ):
        assert len(warnings(caplog)) == 1
    elif how == "sync":  # not synced, or written over itself
        assert len(warnings(caplog)) == (writer == "manifest.json")
    else:
        (told,) = warnings(caplog)
        first = "metrics.jsonl" if writer == "everything" else writer
        kind = first if first in list(WRITERS)[:4] else "checkpoint"
        assert re.match(rf"{kind} at step \d+ not written: \[Errno 28\] No space left", told)
    caplog.clear()
    rows = load_run(path).rows
    torn = how == "stuck" and writer in ("metrics.jsonl", "everything")
    assert [f"{path / 'metrics.jsonl'}: line {len(rows) + 1} left out"] * torn == [
        text.split(",")[0] for text in warnings(caplog)
    ]
    lost = how != "sync" and writer in ("metrics.jsonl", "everything")
    want = [json.loads(x) for x in (whole("sac", 300) / "metrics.jsonl").read_bytes().splitlines()]
    assert rows == (want[: len(rows)] if lost else want)
    assert len(rows) < len(want) if lost else True
    if how != "sync":
        require_tidy(path)
    if writer not in ("stamp.json", "everything") or how == "sync":
        assert load_run(path).stamp["status"] == "finished"
        require_readable(path, tmp_path, capsys)
    module_of("sac").main(options("sac", tmp_path / "runs", 300), resume=True)
    if writer in ("metrics.jsonl", "timing.jsonl", "TensorBoard", "stamp.json"):
        assert saved(path) == [240, 300]  # the checkpoints were taken
    else:
        assert same_end(path, whole("sac", 300))


@pytest.mark.parametrize("method", [
    pytest.param(m, marks=[] if m in ("oer", "ncap") else [pytest.mark.slow]) for m in METHODS
])  # fmt: skip
def test_every_method_goes_on_where_all_its_writers_are_refused(
    method, tmp_path, monkeypatch, caplog
):
    path = refused_run(method, tmp_path, "everything", "short", monkeypatch)
    assert len(warnings(caplog)) == 1
    assert saved(path) == [60, 120]
    require_tidy(path)
    module_of(method).main(options(method, tmp_path, 300), resume=True)
    assert same_end(path, whole(method, 300))


def test_a_resume_on_a_full_disk_goes_on_and_says_so_once(tmp_path, monkeypatch, caplog):
    refused_run("sac", tmp_path, "everything", "none", monkeypatch)
    caplog.clear()
    with monkeypatch.context() as patch:
        refuse(patch, WRITERS["everything"], "none")
        path = module_of("sac").main(options("sac", tmp_path, 300), resume=True).path
    (told,) = warnings(caplog)
    assert told.startswith("config.json at step 120 not written: [Errno 28]")
    assert saved(path) == [60, 120]


# -- what is told


def opened(tmp_path):
    home = Directory(tmp_path / "run", "sac", options("sac", tmp_path), 0, False)
    home.begin(0)
    return home


def save(home, step, buffer):
    beside = {"size": 0, "sha256": "0" * 64}
    home.save(Counts(step), {"agent": torch.zeros(9)}, {"replay": buffer}, 2, beside)


def rows(buffer, n):
    x = torch.rand(n, 2)
    zeros = torch.zeros(n)
    for i in range(n):
        one = Transitions(
            x[i : i + 1], x[i : i + 1, :1], zeros[:1], x[i : i + 1], zeros[:1], zeros[:1]
        )
        buffer.add(one)


def test_what_is_told_of_a_disk_that_takes_some_things(tmp_path, caplog):
    """Worked out by hand: what is told is marked."""
    home, buffer, broken = (
        opened(tmp_path),
        ReplayBuffer(Layout(2, 1), 100),
        OSError(errno.EIO, "broken"),
    )
    home.refused("TensorBoard", 1, FULL)  # told
    home.refused("metrics.jsonl", 2, FULL)
    home.refused("metrics.jsonl", 3, broken)  # not the first of its kind
    home.refused("checkpoint", 4, FULL)
    home.refused("timing.jsonl", 5, broken)
    rows(buffer, 3)
    save(home, 6, buffer)
    home.refused("metrics.jsonl", 7, FULL)
    home.refused("checkpoint", 8, broken)  # told: after one that was taken
    home.refused("checkpoint", 9, broken)
    home.refused("config.json", 10, FULL)
    told = [text.split(" not written")[0] for text in warnings(caplog)]
    assert told == ["TensorBoard at step 1", "checkpoint at step 8"]
    counts = "TensorBoard 1 times, metrics.jsonl 3 times, checkpoint 3 times, timing.jsonl 1 times"
    assert home.stamp["notes"]["not written"] == f"{counts}, config.json 1 times"


# -- what a save that failed has written is taken back


class Broken:
    """Lets the disk refuse the n-th of what it is asked for, once."""

    def __init__(self, monkeypatch, n):
        self.left = n
        for owner, name in ((os, "fsync"), (os, "replace"), (os, "rename"), (os, "mkdir")):
            monkeypatch.setattr(owner, name, self.guard(getattr(owner, name)))
        monkeypatch.setattr(shards, "save_file", self.guard(shards.save_file))
        real = Path.open
        monkeypatch.setattr(Path, "open", lambda path, mode="r", *args, **kwargs: (
            self.guard(real) if set(mode) & set("wax+") else real
        )(path, mode, *args, **kwargs))  # fmt: skip

    def guard(self, real):
        def asked(*args, **kwargs):
            self.left -= 1
            if self.left == 0:
                raise FULL
            return real(*args, **kwargs)

        return asked


@pytest.mark.parametrize("again", [False, True])
def test_whatever_the_disk_refuses_a_save_is_whole_or_not_there(again, tmp_path, monkeypatch):
    """Also the second one of a step, whose first one stays."""
    home, buffer = opened(tmp_path), ReplayBuffer(Layout(2, 1), 100)
    points, folder = home.path / "checkpoints", home.path / "buffer"
    rows(buffer, 3)
    save(home, 60, buffer)
    failed = 0
    for n in range(1, 100):
        rows(buffer, 2)
        before = {k: v for k, v in files(home.path).items() if k != "stamp.json"}
        with monkeypatch.context() as patch:
            broken = Broken(patch, n)
            try:
                save(home, 60 if again else 60 + n, buffer)
                taken = True
            except OSError:
                taken = False
        after = {k: v for k, v in files(home.path).items() if k != "stamp.json"}
        newest = checkpoint.list_checkpoints(points)[-1]
        assert checkpoint.problem(newest, folder) is None
        if taken:
            assert checkpoint.manifest_stores(newest)["replay"][-1].last == 3 + 2 * n
        else:
            assert after == before
            failed += 1
        if broken.left > 0:  # it was not asked for that much
            break
    assert failed >= 10 and broken.left > 0
    save(home, 200, buffer)
    require_tidy(home.path)


# -- files of results


FRAMES = [np.full((16, 16, 3), i, np.uint8) for i in range(4)]


def a_picture(path):
    figure, axes = plots.new_figure(size=(2.0, 2.0))
    axes.plot([0, 1])
    plots.save_figure(figure, path, 50)


RESULTS = {
    "a.txt": lambda path: aside.write_text(path, "text"),
    "a.json": lambda path: load_dataset(offline_data()).save(path.with_name("a")),
    "a.hdf5": lambda path: save_hdf5(load_dataset(offline_data()), path),
    "a.gif": lambda path: film.write(FRAMES, path, 25.0),
    "a.strip.png": lambda path: film.write(FRAMES, path, 25.0),
    "a.png": a_picture,
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_whole_or_the_old_one(name, tmp_path, disk):
    """On a disk without a byte, and with room for some pages."""
    RESULTS[name](tmp_path / name)
    old = files(disk)
    RESULTS[name](disk / name)
    made = files(disk)
    assert {k: v for k, v in made.items() if k.endswith(".png")} == {
        k: (tmp_path / k).read_bytes() for k in made if k.endswith(".png")
    }
    for leave in (0, PAGE):
        fill(disk, leave)
        held = files(disk)
        size = sum(len(v) for k, v in held.items() if k != "filler" and k not in old)
        if size > leave:
            with pytest.raises(OSError, match=r"No space left.*'.*/a\b"):
                RESULTS[name](disk / name)
            assert files(disk) == held
        (disk / "filler").unlink()
    RESULTS[name](disk / name)


def test_a_collection_on_a_full_disk_is_refused_in_a_line(disk, capsys):
    fill(disk)
    argv = ["collect", "--env", "reverie/Reacher-v5", "--transitions", "100", "--num-envs", "2"]
    assert cli.main([*argv, "--out", str(disk / "a")]) == 2
    told = capsys.readouterr().err
    assert re.search(r"^reverie: .*/a\.\w+: No space left on device: free some space", told, re.M)
    assert [p.name for p in disk.iterdir()] == ["filler"]


def test_a_stop_that_the_disk_refuses_to_save_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module_of("sac"), "PRESETS", {"default": options("sac", tmp_path, 300)})
    with monkeypatch.context() as patch:
        when(patch, {130: lambda: [refuse(patch, WRITERS["tensors"], "none"), stop()]})
        assert cli.main(["sac"]) == stopping.INTERRUPTED
    assert "stopped and not saved, for the disk refused it; go on" in capsys.readouterr().err
    assert saved(tmp_path / "run") == [60, 120]


def stop():
    stopping.stop_asked = True
