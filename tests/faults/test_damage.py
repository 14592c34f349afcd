"""Damaged files: what is damaged is named, nothing else is lost, no run begins again in silence."""

import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
import torch
from made import copy_of, files, made, resume, same_end
from safetensors.torch import load_file, save_file
from tiny import BY_LOOP, METHODS, config, module_of

from reverie.buffers.shards import file_digest
from reverie.experiments import cli, load_policy, load_run
from reverie.experiments.loops.collecting import CollectOptions, collect_dataset
from reverie.experiments.runs import checkpoint
from reverie.experiments.runs.rows import read_rows

DEEP = b"[" * 100_000
HARMS = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "longer": lambda data: data + b"\0",
    "zeros": lambda data: bytes(len(data)),
    "flipped": lambda data: flip(data, len(data) // 2),
    "deep": lambda data: DEEP,
    "list": lambda data: b"[1, 2]",
    "gone": None,
}


def flip(data, at, bit=0):
    out = bytearray(data)
    out[at] ^= 1 << bit
    return bytes(out)


def harm(file, how):
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(HARMS[how](file.read_bytes()))


def points(path):
    return checkpoint.list_checkpoints(path / "checkpoints")


def reseal(point, change=lambda manifest: None):
    """Make a checkpoint whole again after its files, or its manifest, were changed on purpose."""
    manifest = json.loads((point / "manifest.json").read_text())
    manifest.pop(checkpoint.SEAL)
    for name, facts in manifest["files"].items():
        file = point / name
        facts.update(size=file.stat().st_size, sha256=file_digest(file))
    change(manifest)
    sealed = {**manifest, checkpoint.SEAL: checkpoint._seal(manifest)}
    (point / "manifest.json").write_text(json.dumps(sealed))


# -- one checkpoint is damaged


@pytest.mark.parametrize("how", HARMS)
@pytest.mark.parametrize("name", ["manifest.json", "state.json", "tensors.safetensors", "shard"])
def test_a_damaged_checkpoint_is_named_moved_and_the_one_before_goes_on(
    name, how, tmp_path, caplog
):
    path = copy_of("sac", tmp_path)
    newest = points(path)[-1]
    shard = path / "buffer" / "replay" / checkpoint.manifest_stores(newest)["replay"][-1].name
    harm(shard if name == "shard" else newest / name, how)
    left = {k: v for k, v in files(newest).items()}
    resume("sac", tmp_path)
    told = [r.getMessage() for r in caplog.records if "is not usable" in r.getMessage()]
    assert len(told) == 1 and newest.name in told[0]
    assert (shard.name if name == "shard" else name) in told[0]
    assert files(path / "checkpoints" / "bad" / newest.name) == left
    assert same_end(path, made("sac"))
    assert [checkpoint.step_of(p) for p in points(path)] == [120, 180]  # and 60, which was used


@pytest.mark.parametrize("method", BY_LOOP)
def test_every_method_goes_on_from_the_checkpoint_before(method, tmp_path, caplog):
    path = copy_of(method, tmp_path)
    newest = points(path)[-1]
    harm(newest / "tensors.safetensors", "flipped")
    resume(method, tmp_path)
    assert f"{newest.name} is not usable" in caplog.text
    assert [p.name for p in (path / "checkpoints" / "bad").iterdir()] == [newest.name]
    assert same_end(path, made(method))


def test_no_flipped_bit_of_a_manifest_is_believed(tmp_path):
    path = copy_of("sac", tmp_path)
    newest, rng = points(path)[-1], np.random.default_rng(0)
    file = newest / "manifest.json"
    text = file.read_bytes()
    visible = [i for i, c in enumerate(text) if chr(c) not in " \n"]
    for at in rng.choice(visible, 150, replace=False):
        file.write_bytes(flip(text, at, int(rng.integers(8))))
        found = checkpoint.load(path / "checkpoints", path / "buffer")
        assert found.step == 60, (at, text[at - 5 : at + 5])
    file.write_bytes(text)
    assert checkpoint.load(path / "checkpoints", path / "buffer").step == 120


def drop(*keys):
    def change(tree):
        for key in keys[:-1]:
            tree = tree[key]
        del tree[keys[-1]]

    return change


def put(value, *keys):
    def change(tree):
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        drop("run"), drop("stores"), drop("facts"), drop("facts", "config"),
        drop("facts", "method"),
        put(3, "run", "nothing"), put("x", "run", "step"), put({"a": "x"}, "run", "phases"),
        put(3, "run"), put([], "stores"), put({"$tensor": "no such"}, "agent"),
        put({"$pairs": 3}, "agent"), put({"$array": []}, "env"), put(1.5, "run", "previous"),
    ],
)  # fmt: skip
def test_a_state_of_the_wrong_shape_is_a_bad_checkpoint(change, tmp_path, caplog):
    path = copy_of("sac", tmp_path)
    newest = points(path)[-1]
    tree = json.loads((newest / "state.json").read_text())
    change(tree)
    (newest / "state.json").write_text(json.dumps(tree))
    reseal(newest)
    resume("sac", tmp_path, steps=120)
    assert f"{newest.name} is not usable" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        drop("files"), drop("stores"), drop("metrics"), drop("step"), put("x", "step"),
        put([], "metrics"), put({"size": "1"}, "metrics"), put([3], "stores", "replay"),
        put({"../../x": []}, "stores"), put({"..": []}, "stores"), put({"/etc": []}, "stores"),
        put("x", "stores", "replay", 0, "name"),
        put("../0-0-20.safetensors", "stores", "replay", 0, "name"),
        put(7, "stores", "replay", 0, "first"), put(7, "files", "state.json"),
    ],
)  # fmt: skip
def test_a_manifest_of_the_wrong_shape_is_a_bad_checkpoint(change, tmp_path, caplog):
    path = copy_of("sac", tmp_path)
    newest = points(path)[-1]
    reseal(newest, change)
    resume("sac", tmp_path, steps=120)
    assert f"{newest.name} is not usable" in caplog.text
    assert [p.name for p in (path / "checkpoints" / "bad").iterdir()] == [newest.name]


def test_tensors_that_are_no_safetensors_are_a_bad_checkpoint(tmp_path, caplog):
    path = copy_of("sac", tmp_path)
    newest = points(path)[-1]
    (newest / "tensors.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    reseal(newest)
    resume("sac", tmp_path, steps=120)
    assert f"{newest.name} is not usable" in caplog.text and "SafetensorError" in caplog.text


@pytest.mark.parametrize("method", BY_LOOP)
def test_a_checkpoint_that_does_not_fit_is_named_and_nothing_is_changed(method, tmp_path):
    """Whole, and of another inside: the loop's own state lacks something."""
    path = copy_of(method, tmp_path)
    newest = points(path)[-1]
    tree = json.loads((newest / "state.json").read_text())
    tree["agent"] = {}
    (newest / "state.json").write_text(json.dumps(tree))
    reseal(newest)
    before = files(path)
    with pytest.raises(ValueError, match=rf"{newest.name} is whole and does not fit this run"):
        resume(method, tmp_path)
    assert files(path) == before


def test_rows_that_do_not_make_up_the_buffer_are_refused(tmp_path):
    path = copy_of("sac", tmp_path)
    reseal(points(path)[-1], drop("stores", "replay", -1))
    with pytest.raises(ValueError, match=r"do not make up the rows up to step 40"):
        resume("sac", tmp_path)


# -- none is usable


@pytest.mark.parametrize("method", BY_LOOP)
def test_where_no_checkpoint_is_usable_the_run_is_refused_and_each_named(
    method, tmp_path, monkeypatch, capsys
):
    path = copy_of(method, tmp_path)
    for point, name in zip(points(path), ("state.json", "manifest.json"), strict=True):
        harm(point / name, "flipped")
    before = files(path)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"none of the checkpoints in .* can be used") as told:
            resume(method, tmp_path)
        text = str(told.value)
        for point, name in zip(points(path), ("state.json", "manifest.json"), strict=True):
            assert f"{point.name}: {point}/{name}" in text or f"{point.name}: {point}: " in text
        script = METHODS[method][0].__name__.rpartition(".")[2]
        assert f"`reverie {script} --restart {path}` sets aside what is there" in text
        assert files(path) == before
    monkeypatch.setattr(module_of(method), "PRESETS", {"default": config(method, tmp_path, "run")})
    assert cli.main([script, "--resume", str(path)]) == 2
    assert "--restart" in capsys.readouterr().err
    assert files(path) == before


def test_one_flipped_bit_in_an_old_shard_stops_the_resume_and_not_the_policy(tmp_path, capsys):
    path = copy_of("sac", tmp_path)
    shards = [checkpoint.manifest_stores(p)["replay"] for p in points(path)]
    assert shards[0][0] == shards[1][0]  # both need it
    file = path / "buffer" / "replay" / shards[0][0].name
    harm(file, "flipped")
    before = files(path)
    with pytest.raises(ValueError, match=rf"(?s)step-0+120: .*{file.name}.*step-0+60: .*sha256"):
        resume("sac", tmp_path)
    obs = np.ones(10, np.float32)
    left, right = load_policy(path), load_policy(copy_of("sac", (tmp_path / "b").absolute()))
    assert (left.act(obs) == right.act(obs)).all()
    assert cli.main(["eval", str(path), "--episodes", "1"]) == 0
    with pytest.raises(ValueError, match=rf"cannot be used: .*{file.name} does not match"):
        collect_dataset(CollectOptions(env="reverie/Reacher-v5", replay=path, transitions=50))
    assert files(path) == before
    shutil.rmtree(path / "buffer")
    assert (load_policy(path).act(obs) == right.act(obs)).all()


def test_the_policy_of_a_run_without_a_whole_agent_is_refused(tmp_path):
    path = copy_of("sac", tmp_path)
    for point in points(path):
        harm(point / "tensors.safetensors", "flipped")
    before = files(path)
    with pytest.raises(ValueError, match="none of the checkpoints"):
        load_policy(path)
    assert files(path) == before


@pytest.mark.parametrize("kind", ["deleted", "all bad"])
def test_checkpoints_that_are_gone_do_not_begin_the_run_again(kind, tmp_path):
    path = copy_of("sac", tmp_path)
    if kind == "deleted":
        shutil.rmtree(path / "checkpoints")
    else:
        (path / "checkpoints" / "bad").mkdir()
        for point in points(path):
            point.rename(point.parent / "bad" / point.name)
    before = files(path)
    with pytest.raises(ValueError, match=r"had saved up to step 180, and in .* no checkpoint now"):
        resume("sac", tmp_path)
    assert files(path) == before


def test_a_checkpoint_of_the_former_format_is_refused_by_name_and_its_policy_read(tmp_path):
    path = copy_of("sac", tmp_path)
    obs = np.ones(10, np.float32)
    action = load_policy(path).act(obs)
    for point in points(path):
        manifest = json.loads((point / "manifest.json").read_text())
        old = {"step": manifest["step"], "files": manifest["files"]}
        (point / "manifest.json").write_text(json.dumps({**old, "shards": []}))
    before = files(path)
    with pytest.raises(
        ValueError, match=r"(?s)step-0+120 was made by an earlier version .* --restart"
    ):
        resume("sac", tmp_path)
    assert (load_policy(path).act(obs) == action).all()
    assert files(path) == before
    for point in points(path):
        manifest = {"format": 3, "step": 1}
        sealed = {**manifest, checkpoint.SEAL: checkpoint._seal(manifest)}
        (point / "manifest.json").write_text(json.dumps(sealed))
    with pytest.raises(ValueError, match="of format 3, this version of Reverie reads 2"):
        resume("sac", tmp_path)
    with pytest.raises(ValueError, match="of format 3, this version of Reverie reads 2"):
        load_policy(path)


def test_a_file_that_may_not_be_read_is_not_taken_for_damaged(tmp_path, monkeypatch):
    path = copy_of("sac", tmp_path)
    real = checkpoint.sh.file_digest

    def refuse(file):
        if file.parent == points(path)[-1]:
            raise PermissionError(13, "Permission denied", str(file))
        return real(file)

    monkeypatch.setattr(checkpoint.sh, "file_digest", refuse)
    before = files(path)
    with pytest.raises(RuntimeError, match=r"step-0+120 cannot be read: .*Permission denied"):
        resume("sac", tmp_path)
    assert files(path) == before


# -- damage while a run goes on


@pytest.mark.parametrize("how", ["flipped", "gone", "deep", "empty"])
def test_a_damaged_manifest_does_not_stop_the_next_save(how, tmp_path, monkeypatch, caplog):
    """It is not counted in `keep`, and while it cannot be read no shard is taken from it."""
    path, real, shards = copy_of("sac", tmp_path), checkpoint.save, {}

    def save(folder, at, *args, **kwargs):
        point = real(folder, at, *args, **kwargs)
        if at[0] == 180:
            shards.update(checkpoint.manifest_stores(point))
            harm(point / "manifest.json", how)
        return point

    monkeypatch.setattr(checkpoint, "save", save)
    resume("sac", tmp_path, steps=300)
    assert [checkpoint.step_of(p) for p in points(path)] == [180, 240, 300]
    assert all((path / "buffer" / "replay" / s.name).exists() for s in shards["replay"])
    assert caplog.text.count("are not cleared away") == 1 and "step-000000000180" in caplog.text
    monkeypatch.undo()
    resume("sac", tmp_path, steps=360)
    assert [checkpoint.step_of(p) for p in points(path)] == [300, 360]
    assert [p.name for p in (path / "checkpoints" / "bad").iterdir()] == ["step-000000000180"]


def test_what_lies_in_bad_keeps_its_shards(tmp_path):
    path = copy_of("sac", tmp_path)
    newest = points(path)[-1]
    needed = checkpoint.manifest_stores(newest)["replay"]
    harm(newest / "tensors.safetensors", "flipped")
    resume("sac", tmp_path, steps=420)  # the ring of 80 steps has wrapped
    bad = path / "checkpoints" / "bad" / newest.name
    assert checkpoint.manifest_stores(bad)["replay"] == needed
    assert all((path / "buffer" / "replay" / s.name).exists() for s in needed)
    copy = copy_of("sac", tmp_path / "b")
    shutil.copy(copy / "checkpoints" / newest.name / "tensors.safetensors", bad)
    assert checkpoint.problem(bad, path / "buffer") is None  # mended by hand


def test_two_bad_checkpoints_of_one_step_both_stay(tmp_path):
    path = copy_of("sac", tmp_path)
    for _ in range(2):
        harm(points(path)[-1] / "state.json", "flipped")
        resume("sac", tmp_path, steps=120)
    names = sorted(p.name for p in (path / "checkpoints" / "bad").iterdir())
    assert names == ["step-000000000120", "step-000000000120.1"]


def test_a_kill_while_a_checkpoint_is_replaced_leaves_one(tmp_path):
    """The same step is saved twice where a run was stopped in an evaluation of it."""
    folder = tmp_path / "checkpoints"
    pid = os.fork()
    if pid == 0:
        try:
            checkpoint.save(folder, (60, 0), {"x": torch.zeros(2), "n": 1})
            checkpoint.Path.replace = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
            checkpoint.save(folder, (60, 0), {"x": torch.zeros(2), "n": 2})
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    assert checkpoint.load(folder, tmp_path).state["n"] == 1
    checkpoint.save(folder, (60, 0), {"x": torch.zeros(2), "n": 3})
    assert checkpoint.load(folder, tmp_path).state["n"] == 3
    checkpoint.save(folder, (60, 0), {"x": torch.zeros(2), "n": 4})
    assert checkpoint.load(folder, tmp_path).state["n"] == 4
    assert checkpoint.prune(folder, tmp_path / "buffer", 1) is None
    assert [p.name for p in points(tmp_path)] == ["step-000000000060"]


def test_files_of_others_among_the_checkpoints_are_left_alone(tmp_path):
    path = copy_of("sac", tmp_path)
    (path / "checkpoints" / "step-x").mkdir()
    (path / "checkpoints" / "step-000000000150").write_text("a file")
    resume("sac", tmp_path)
    assert (path / "checkpoints" / "step-x").is_dir()
    assert (path / "checkpoints" / "bad" / "step-000000000150").read_text() == "a file"
    assert same_end(path, made("sac"))


# -- rows


@pytest.mark.parametrize("how", ["cut", "gone", "empty", "flipped"])
@pytest.mark.parametrize("method", BY_LOOP)
def test_rows_that_are_lost_or_changed_are_named(method, how, tmp_path):
    path = copy_of(method, tmp_path)
    file = path / "metrics.jsonl"
    data = file.read_bytes()
    size = json.loads((points(path)[-1] / "manifest.json").read_text())["metrics"]["size"]
    assert 0 < size < len(data)  # rows after the checkpoint may be anything
    if how == "gone":
        file.unlink()
    else:
        harmed = {"cut": data[: size - 1], "empty": b"", "flipped": flip(data, size - 4)}
        file.write_bytes(harmed[how])
    told = r"metrics.jsonl is not as it was written" if how == "flipped" else rf"of the {size:,} th"
    before = files(path)
    with pytest.raises(ValueError, match=rf"{told}.*step-0+120.*--restart"):
        resume(method, tmp_path)
    assert files(path) == before
    file.write_bytes(data[:size] + b'{"step": 121, "kind": "tr')
    resume(method, tmp_path)
    assert same_end(path, made(method))


def test_the_checkpoint_before_goes_on_where_rows_are_lost(tmp_path):
    """What the refusal advises."""
    path = copy_of("sac", tmp_path)
    file, newest = path / "metrics.jsonl", points(path)[-1]
    size = json.loads((points(path)[0] / "manifest.json").read_text())["metrics"]["size"]
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=f"move {newest} away, to go on from the one before"):
        resume("sac", tmp_path)
    newest.rename(tmp_path / "away")
    resume("sac", tmp_path)
    assert same_end(path, made("sac"))


def test_broken_rows_are_left_out_by_file_and_line(tmp_path, caplog, capsys):
    path = copy_of("sac", tmp_path)
    good = load_run(path).rows
    lines = (path / "metrics.jsonl").read_bytes().splitlines()
    bad = [
           b"\0" * 40, lines[0][:-9] + lines[1], DEEP, b"[1]", b'{"kind": "eval"}', b"\xff\xfe",
           b'{"step": "7", "kind": "eval"}', b'{"step": true, "kind": "eval"}', b'{"step": 7}',
           b'{"step": 7, "kind": "eval", "return": "high"}', b'{"step": -1, "kind": "eval"}',
           b'{"step": 7, "kind": ["eval"]}', b'{"step": 1' + b"0" * 30 + b', "kind": "eval"}'
    ]  # fmt: skip
    (path / "metrics.jsonl").write_bytes(b"\n".join([lines[0], *bad, *lines[1:-1], lines[-1][:-5]]))
    caplog.clear()
    assert load_run(path).rows == good[:-1]
    assert len(caplog.records) == 1
    told = f"{path / 'metrics.jsonl'}: line 2, 3, 4, 5, 6 and {len(bad) - 4} more left out"
    assert caplog.records[0].getMessage().startswith(told)
    assert cli.main(["plot", str(path), "--out", str(tmp_path / "a.png")]) == 0
    assert cli.main(["list", "runs", str(tmp_path)]) == 0
    assert "finished" in capsys.readouterr().out
    (path / "metrics.jsonl").unlink()
    assert load_run(path).rows == [] and "metrics.jsonl is not there" in caplog.text
    assert read_rows(made("sac") / "metrics.jsonl")[0]["step"] == 60


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("stamp.json", b""), ("stamp.json", DEEP), ("stamp.json", b"[]"), ("stamp.json", b"\xff"),
        ("stamp.json", b'{"status": 3, "step": 5}'),
        ("stamp.json", b'{"status": "x", "step": "5"}'),
        ("stamp.json", None), ("config.json", b"{"), ("config.json", None), ("config.json", b"[]"),
        ("config.json", b'{"method": "sac"}'),
    ],
)  # fmt: skip
def test_one_bad_directory_hides_no_other(file, data, tmp_path, capsys):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        copy_of("sac", tmp_path / name)
    (tmp_path / "b" / "run" / file).unlink()
    if data is not None:
        (tmp_path / "b" / "run" / file).write_bytes(data)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "lock").write_text("")  # killed at its start
    capsys.readouterr()
    assert cli.main(["list", "runs", str(tmp_path)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [r.split()[0] for r in rows] == ["finished", "unreadable", "finished", "unreadable"]
    assert f"  {tmp_path}/b/run: " in rows[1] and (file != "stamp.json" or file in rows[1])
    assert re.fullmatch(rf"finished +180 steps +-?\d+\.\d  {tmp_path}/c/run", rows[2])


def test_a_damaged_stamp_is_no_reason_to_stop(tmp_path, caplog):
    path = copy_of("sac", tmp_path)
    (path / "stamp.json").write_bytes(DEEP)
    resume("sac", tmp_path)
    assert "stamp.json cannot be read: was this the same machine?" in caplog.text
    assert load_run(path).stamp["status"] == "finished" and same_end(path, made("sac"))


def test_a_shard_of_other_rows_is_refused(tmp_path):
    path = copy_of("sac", tmp_path)
    newest = points(path)[-1]
    rows = checkpoint.manifest_stores(newest)["replay"]
    file = path / "buffer" / "replay" / rows[-1].name
    save_file({k: v[:-1].clone() for k, v in load_file(file).items()}, file)

    def change(manifest):
        manifest["stores"]["replay"][-1].update(size=file.stat().st_size, sha256=file_digest(file))

    reseal(newest, change)
    with pytest.raises(ValueError, match=rf"does not fit this run.*{file.name} holds 19 steps"):
        resume("sac", tmp_path)
