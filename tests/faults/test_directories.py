"""A run directory belongs to one run and one process, and says one thing."""

import dataclasses
import json
import os
import signal
import subprocess
import time

import pytest
import torch
from made import copy_of, files, made, resume, same_end
from tiny import BY_LOOP, METHODS, config, module_of, offline_data

from reverie.buffers import load_dataset
from reverie.experiments import bc, cli, load_run, sac, td3
from reverie.experiments.runs import checkpoint, lock
from reverie.experiments.runs.directory import Directory, in_use
from reverie.experiments.runs.sameness import changes, lasting

# -- a resume is of the same run


@pytest.mark.parametrize("method", BY_LOOP)
def test_a_refused_resume_changes_nothing_and_the_next_one_goes_on(method, tmp_path):
    path = copy_of(method, tmp_path)
    before = files(path)
    with pytest.raises(ValueError, match=r"another configuration: seed: 0 -> 7\. A resume may"):
        resume(method, tmp_path, seed=7)
    assert files(path) == before
    resume(method, tmp_path)
    assert same_end(path, made(method))


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_is_compared_and_named(method, tmp_path):
    """Of each part of a configuration one number is changed; `steps` and `run.*` are free."""
    options = config(method, tmp_path, "run")
    begun = lasting(options)
    assert changes(begun, options) == []
    assert changes(begun, dataclasses.replace(options, steps=9_999)) == []
    for field in dataclasses.fields(options.run):
        other = {int: 99, bool: True, str: "x"}.get(type(getattr(options.run, field.name)), "x")
        run = dataclasses.replace(options.run, **{field.name: other})
        told = changes(begun, dataclasses.replace(options, run=run))
        assert told == (["run.device: 'cpu' -> 'x'"] if field.name == "device" else [])
    for field in dataclasses.fields(options):
        old = getattr(options, field.name)
        if field.name in ("run", "steps", "data", "data_folder"):
            continue
        new = ("other",) if isinstance(old, tuple) else {"x": 1} if isinstance(old, dict) else 77
        told = changes(begun, dataclasses.replace(options, **{field.name: new}))
        assert any(text.startswith(field.name) and " -> " in text for text in told), field.name


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (("dataset:a",), ("dataset:b/c:1",), []),  # where it lies is nothing: its digest counts
        (("dataset:a:0.5",), ("dataset:a:0.25",), ["data: ['dataset:0.5'] -> ['dataset:0.25']"]),
        (("dataset:a",), ("dataset:a", "dataset:b"),
         ["data: ['dataset:1.0'] -> ['dataset:1.0', 'dataset:1.0']"]),
        (("dataset:minari:x",), ("dataset:minari:y",), []),
    ],
)  # fmt: skip
def test_data_is_compared_by_share_and_digest(old, new, told):
    assert changes(lasting(bc.Config(data=old)), bc.Config(data=new)) == told


def test_a_setting_that_came_later_is_no_change_where_nobody_gave_it():
    begun = lasting(sac.Config())
    del begun["utd"]
    assert changes(begun, sac.Config()) == []
    assert changes(begun, sac.Config(utd=2.0)) == ["utd: not there -> 2.0"]
    gone = {**lasting(sac.Config()), "gone": 3}
    assert changes(gone, sac.Config()) == ["gone: 3 -> not there"]


def test_an_environment_of_the_same_shapes_is_another_run(tmp_path):
    options = config("td3", tmp_path, "run", env="reverie/HalfCheetah-v5", steps=60)
    path = td3.main(options).path
    before = files(path)
    with pytest.raises(ValueError, match="env: 'reverie/HalfCheetah-v5' -> 'reverie/Walker2d-v5'"):
        td3.main(dataclasses.replace(options, env="reverie/Walker2d-v5"), resume=True)
    with pytest.raises(ValueError, match=r"env_options\.ctrl_cost_weight: not there -> 0\.5"):
        more = {"ctrl_cost_weight": 0.5}
        td3.main(dataclasses.replace(options, env_options=more), resume=True)
    with pytest.raises(ValueError, match="is a run of 'td3', not of 'sac'"):
        sac.main(config("sac", tmp_path, "run"), resume=True)
    # The checkpoint knows it too: config.json is not the only witness.
    text = (path / "config.json").read_text()
    (path / "config.json").write_text(text.replace("HalfCheetah", "Walker2d"))
    with pytest.raises(ValueError, match="env: 'reverie/HalfCheetah-v5' -> 'reverie/Walker2d-v5'"):
        td3.main(dataclasses.replace(options, env="reverie/Walker2d-v5"), resume=True)
    (path / "config.json").unlink()
    with pytest.raises(ValueError, match="env: 'reverie/HalfCheetah-v5' -> 'reverie/Walker2d-v5'"):
        td3.main(dataclasses.replace(options, env="reverie/Walker2d-v5"), resume=True)
    (path / "config.json").write_text(text)
    assert files(path) == before
    (path / "config.json").write_text('{"method": "td3", "conf')  # the checkpoint is enough
    td3.main(dataclasses.replace(options, steps=90), resume=True)
    assert json.loads((path / "config.json").read_text())["config"]["steps"] == 90


def test_other_data_is_refused_each_time_and_the_same_data_may_lie_elsewhere(tmp_path):
    path = copy_of("bc", tmp_path)
    data = load_dataset(offline_data())
    data.head(500).save(tmp_path / "other")
    data.save(tmp_path / "moved")
    before = files(path)
    for _ in range(2):  # the first refusal does not take the digest away
        with pytest.raises(ValueError, match="begun with other data: the digest of data 0 was"):
            resume("bc", tmp_path, data=(f"dataset:{tmp_path / 'other'}",))
        assert files(path) == before
    resume("bc", tmp_path, data=(f"dataset:{tmp_path / 'moved'}",))
    assert same_end(path, made("bc"))


def test_another_machine_is_told_once_and_noted_for_good(tmp_path, caplog):
    path = copy_of("sac", tmp_path)
    stamp = json.loads((path / "stamp.json").read_text())
    stamp["threads"] = {"torch": 7, "asked": 7}
    stamp["packages"]["torch"] = "1.0"
    (path / "stamp.json").write_text(json.dumps(stamp))
    resume("sac", tmp_path)
    told = [r.getMessage() for r in caplog.records if "not bit for bit" in r.getMessage()]
    assert len(told) == 1 and told[0].endswith(
        f"bit for bit: packages.torch: '1.0' -> '{torch.__version__}'; "
        "threads.torch: 7 -> 1; threads.asked: 7 -> 1"
    )
    noted = load_run(path).stamp["notes"]["resumed with"]
    assert "threads.torch: 7 -> 1" in noted
    caplog.clear()
    resume("sac", tmp_path, steps=240)
    assert "not bit for bit" not in caplog.text
    assert load_run(path).stamp["notes"]["resumed with"] == noted


# -- one process


def fork(work):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = work() or 0
        finally:
            os._exit(status)
    return pid


def opened(tmp_path, resume=False, name="run"):
    options = config("sac", tmp_path, name, steps=180)
    return Directory(tmp_path / name, "sac", options, 0, resume)


@pytest.mark.parametrize("method", BY_LOOP)
def test_a_second_process_is_refused_by_name_and_a_killed_one_lets_go(method, tmp_path):
    path = copy_of(method, tmp_path)
    read, write = os.pipe()

    def hold():
        options = config(method, tmp_path, "run")
        home = Directory(path, method.partition("-")[0], options, 0, True)
        os.write(write, b"x")
        time.sleep(60)
        home.close()

    pid = fork(hold)
    os.read(read, 1)
    before = files(path)
    assert f"process {pid} on " in in_use(path)
    for again in (True, False):
        with pytest.raises(RuntimeError, match=rf"in use by process {pid} on .*, since 20\d\d-"):
            module_of(method).main(config(method, tmp_path, "run"), resume=again)
    assert files(path) == before
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert in_use(path) is None
    resume(method, tmp_path)
    assert same_end(path, made(method))
    assert in_use(path) is None and (path / "lock").read_bytes() == b""


@pytest.mark.parametrize("again", [pytest.param(False, marks=pytest.mark.slow), True])
def test_of_two_that_start_at_the_same_instant_one_gets_in(again, tmp_path):
    for i in range(12):
        place = tmp_path / str(i)
        place.mkdir()
        if again:
            copy_of("sac", place)
        tried, go = os.pipe(), os.pipe()
        at = time.monotonic() + 0.05

        def start(place=place, at=at, tried=tried, go=go):
            while time.monotonic() < at:
                pass
            try:
                home = opened(place, again)
            except (RuntimeError, FileExistsError):
                os.write(tried[1], b"n")
                return 3
            home.begin(0)
            os.write(tried[1], b"y")
            os.read(go[0], 1)  # in it until the other has tried
            return 0

        pids = [fork(start) for _ in range(2)]
        got = os.read(tried[0], 1) + os.read(tried[0], 1)
        os.write(go[1], b"xx")
        ends = sorted(os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in pids)
        for end in (*tried, *go):
            os.close(end)
        assert sorted(got) == sorted(b"ny") and ends == [0, 3]


def test_a_refused_new_run_that_tidies_up_lets_nobody_in_twice(tmp_path):
    """The lock that one holds is that of the file that the next one finds."""
    path = tmp_path / "run"
    first = lock._open(path)  # opened, not yet locked, when the directory's maker takes it away
    (path / "lock").unlink()
    path.rmdir()
    real, files_ = lock._open, [first]
    lock._open = lambda p: files_.pop() if files_ else real(p)
    try:
        held = lock.take(path)
    finally:
        lock._open = real
    assert first.closed and in_use(path) is not None
    with pytest.raises(RuntimeError, match="in use"):
        lock.take(path)
    held.release()
    assert in_use(path) is None


def test_looking_whether_it_is_in_use_keeps_nobody_out(tmp_path):
    path = copy_of("sac", tmp_path)

    def look():
        while True:
            in_use(path)

    pids = [fork(look) for _ in range(2)]
    try:
        for _ in range(8):
            opened(tmp_path, resume=True).close()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert in_use(tmp_path / "nothing") is None and in_use(path) is None


def test_where_no_run_can_lie_it_is_said_in_a_line(tmp_path, capsys, monkeypatch):
    def train(*where):
        monkeypatch.setattr(sac, "PRESETS", {"default": config("sac", tmp_path, "run")})
        assert cli.main(["sac", *where]) == 2
        return capsys.readouterr().err.strip()

    (tmp_path / "file").write_text("x")
    assert "file is no directory: choose another" in train("--name", "file")
    assert "file/x is no directory" in train("--out", str(tmp_path / "file"), "--name", "x")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    assert "is a link to nowhere" in train("--name", "nowhere")
    (tmp_path / "ro").mkdir()
    told = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "none", tmp_path / "ro"], capture_output=True
    )
    if told.returncode:
        (tmp_path / "ro").chmod(0o500)
        if os.getuid() == 0:
            pytest.skip("nothing is read-only for root, and mounting is not allowed")
    try:
        err = train("--out", str(tmp_path / "ro"))
    finally:
        subprocess.run(["umount", tmp_path / "ro"], capture_output=True, check=not told.returncode)
    assert "ro/run cannot be written to (" in err and "another --out" in err
    assert "\n" not in err.replace("\nreverie: ", "")


def test_what_a_killed_save_left_is_cleared(tmp_path):
    path = copy_of("sac", tmp_path)
    left = ["checkpoints/step-000000000180.tmp-9/x", "dump/step-000000000000.tmp-9/x",
            "buffer/replay/0-40-60.partial", ".stamp.json.9.tmp"]  # fmt: skip
    mine = ["notes.tmp", "checkpoints/mine.txt", "buffer/replay/mine.txt"]
    for name in [*left, *mine]:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("x")
    home = opened(tmp_path, resume=True)
    assert all((path / name).exists() for name in left)
    home.begin(120)
    home.close()
    assert not any((path / name).exists() for name in left)
    assert not list(path.glob("*/*.tmp-*"))
    assert all((path / name).exists() for name in mine)


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path, caplog):
    options = config("sac", tmp_path, "run", steps=180)
    run = dataclasses.replace(options.run, checkpoint_every=0, log_every=30)

    def die():
        def save(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGKILL)

        checkpoint.save = save
        sac.main(dataclasses.replace(options, run=run))

    os.waitpid(fork(die), 0)
    path = tmp_path / "run"
    assert len((path / "metrics.jsonl").read_text().splitlines()) > 4
    with pytest.raises(FileExistsError, match="--restart"):
        sac.main(options)
    with pytest.raises(ValueError, match="seed: 0 -> 3"):
        sac.main(dataclasses.replace(options, seed=3), resume=True)
    sac.main(options, resume=True)
    assert "cut before its first checkpoint" in caplog.text
    assert same_end(path, made("sac"))


def test_a_start_that_was_killed_at_once_is_no_run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").write_text("process 1 on x, since then\n")
    (tmp_path / "run" / ".config.json.9.tmp").write_text('{"meth')
    sac.main(config("sac", tmp_path, "run", steps=60))
    assert not (tmp_path / "run" / ".config.json.9.tmp").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    with pytest.raises(FileNotFoundError, match="is no run"):
        sac.main(config("sac", tmp_path, "photos"), resume=True)
    assert (tmp_path / "photos" / "a.jpg").exists()


# -- the command line


def command(monkeypatch, tmp_path, *args):
    monkeypatch.setattr(sac, "PRESETS", {"default": config("sac", tmp_path, "run")})
    return cli.main(["sac", *args])


def test_a_resume_from_within_goes_on_with_that_run(tmp_path, monkeypatch):
    path = copy_of("sac", tmp_path)
    monkeypatch.chdir(path)
    names = sorted(p.name for p in path.iterdir())
    assert command(monkeypatch, tmp_path, "--resume", ".", "--steps", "180") == 0
    assert sorted(p.name for p in path.iterdir()) == names
    assert same_end(path, made("sac"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(path)
    for place in ("./run/", "link", "run/config.json", f"{path}/../run", str(path)):
        assert command(monkeypatch, tmp_path, "--resume", place) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "run"]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--seeds", "0:2"], "without --seeds"),
        (["--config", "x.json"], "--config"),
        (["--preset", "default"], "--preset"),
        (["--name", "other"], "no --name with it"),
        (["--out", "other"], "no --out"),
        (["--restart", "run"], "--resume"),
    ],
)
def test_a_resume_names_the_run_and_nothing_else(args, text, tmp_path, monkeypatch, capsys):
    path = copy_of("sac", tmp_path)
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    assert command(monkeypatch, tmp_path, "--resume", "run", *args) == 2
    assert text in capsys.readouterr().err
    assert files(tmp_path) == before and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_restart_sets_all_aside_once_the_new_run_is_ready(tmp_path, monkeypatch, capsys):
    path = copy_of("sac", tmp_path)
    before = files(path)
    for args in (["--env", "reverie/Reachr-v5"], ["--seeds", "0:2"], ["--resume", str(path)]):
        assert command(monkeypatch, tmp_path, "--restart", str(path), *args) == 2
        assert files(path) == before
    assert command(monkeypatch, tmp_path, "--restart", str(tmp_path / "none")) == 2
    assert (
        command(monkeypatch, tmp_path, "--restart", str(path), "--seed", "3", "--steps", "60") == 0
    )
    assert files(path / "set-aside-1") == before
    run = load_run(path)
    assert (run.config["seed"], run.config["steps"], run.stamp["step"]) == (3, 60, 60)
    assert [row["step"] for row in run.rows] == [60, 60]
    second = {k: v for k, v in files(path).items() if not k.startswith("set-aside")}
    assert (
        command(
            monkeypatch, tmp_path, "--restart", str(path), "--preset", "default", "--steps", "60"
        )
        == 0
    )
    assert files(path / "set-aside-2") == second and files(path / "set-aside-1") == before
    capsys.readouterr()
    assert cli.main(["list", "runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("finished") == 1  # what is set aside is no run of its own
    assert cli.main(["eval", str(path / "set-aside-1"), "--episodes", "1"]) == 0


def test_a_restart_waits_for_nobody(tmp_path, monkeypatch, capsys):
    path = copy_of("sac", tmp_path)
    home = opened(tmp_path, resume=True)
    assert command(monkeypatch, tmp_path, "--restart", str(path)) == 2
    assert "in use by process" in capsys.readouterr().err
    home.close()
    assert not list(path.glob("set-aside*"))
