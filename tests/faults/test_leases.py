"""A directory is held where locks do not reach other machines: records that are renewed."""

import json
import os
import subprocess
import sys
import time

import pytest
from made import copy_of, resume
from tiny import config

from reverie.experiments import load_run, sac
from reverie.experiments.runs import lease, lock
from reverie.experiments.runs.run import Run

ROOT = "21 1 8:1 / / rw - ext4 /dev/root rw"
MOUNTS = {
    "ext4": (ROOT, None),
    "nfs4": (f"{ROOT}\n99 21 0:50 / /net rw - nfs4 host:/x rw,vers=4.2,local_lock=none", None),
    "nfs, locks of this machine": (
        f"{ROOT}\n99 21 0:50 / /net rw - nfs host:/x rw,vers=3,local_lock=all",
        "nfs",
    ),
    "nfs, nolock": (f"{ROOT}\n99 21 0:50 / /net rw,nolock - nfs host:/x rw", "nfs"),
    "sshfs": (f"{ROOT}\n99 21 0:50 / /net rw - fuse.sshfs host: rw", "fuse.sshfs"),
    "lustre": (f"{ROOT}\n99 21 0:50 / /net rw - lustre host:/x rw", "lustre"),
    "lustre with locks": (f"{ROOT}\n99 21 0:50 / /net rw - lustre host:/x rw,flock", None),
    "over another": (
        f"{ROOT}\n9 1 0:5 / /net rw - 9p x rw\n9 1 0:5 / /net/runs rw - xfs x rw",
        None,
    ),
    "one upon the other": (
        f"{ROOT}\n9 1 0:5 / /net rw - xfs x rw\n9 1 0:6 / /net rw - 9p x rw",
        "9p",
    ),
    "a blank": (f"{ROOT}\n9 1 0:5 / /net\\040x rw - 9p x rw", None),
}


@pytest.mark.parametrize("name", MOUNTS)
def test_file_systems_whose_locks_reach_nobody(name):
    mounts, kind = MOUNTS[name]
    assert lease.unlocked(lock.Path("/net/runs/a"), mounts) == kind
    assert lease.unlocked(lock.Path("/home"), mounts) is None
    assert lease.unlocked(lock.Path("/net x/runs"), mounts) == ("9p" if name == "a blank" else None)


@pytest.fixture
def far(monkeypatch):
    """A file system whose locks reach nobody, and seconds that are short."""
    monkeypatch.setattr(lease, "unlocked", lambda path: "fuse.far")
    monkeypatch.setattr(lease, "STALE", 0.5)
    monkeypatch.setattr(lease, "RENEW", 0.05)


def elsewhere(path, number, machine=("another boot", "pid:[1]")):
    """Write a record as a process of another machine does."""
    said = {"who": "process 7 on far, since noon", "machine": list(machine), "pid": 2**22}
    (path / f"lock.{number}").write_text(f"{0:020d}{json.dumps(said)}")


def test_one_holds_it_and_lets_go(far, tmp_path):
    held = lock.take(tmp_path / "run")
    assert held.how == "lease 1" and held.lost == ""
    assert f"process {os.getpid()} on" in lock.in_use(tmp_path / "run")
    with pytest.raises(RuntimeError, match=f"in use by process {os.getpid()} on"):
        lease.take(tmp_path / "run", "another")  # past the lock, as another machine is
    held.release()
    assert lock.in_use(tmp_path / "run") is None
    again = lock.take(tmp_path / "run")
    assert again.how == "lease 2" and not (tmp_path / "run" / "lock.1").exists()
    again.release()


def test_a_record_that_moves_is_held_and_one_that_stands_still_is_overtaken(far, tmp_path, caplog):
    elsewhere(tmp_path, 3)
    assert lease.holder(tmp_path) == "process 7 on far, since noon"
    start = time.monotonic()
    taken = lease.take(tmp_path, "me")
    assert time.monotonic() - start >= 0.5
    assert taken.number == 4 and "process 7 on far, since noon has not been heard of" in caplog.text
    taken.release()
    elsewhere(tmp_path, 5)
    (tmp_path / "lock").touch()
    assert lock.in_use(tmp_path) == "process 7 on far, since noon"
    assert lease.holder(tmp_path) == "process 7 on far, since noon"
    time.sleep(0.6)
    assert lease.holder(tmp_path) is None  # it stood still between two looks


def test_what_a_killed_process_of_this_machine_leaves_is_free_at_once(far, tmp_path):
    code = "import os, sys; from reverie.experiments.runs import lease; from pathlib import Path;"
    code += "lease.take(Path(sys.argv[1]), 'killed'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert json.loads((tmp_path / "lock.1").read_text()[20:])["who"] == "killed"
    start = time.monotonic()
    assert lease.holder(tmp_path) is None and lease.take(tmp_path, "me").number == 2
    assert time.monotonic() - start < 0.4


def test_a_record_that_is_being_written_is_held(far, tmp_path):
    (tmp_path / "lock.1").touch()
    assert lease.holder(tmp_path) == "another process"


def test_two_at_once_get_two_numbers_and_one_holds(far, tmp_path, monkeypatch):
    """Between the look and the creation another was first: this one looks again, and waits."""
    real, calls = lease.newest, []

    def newest(path):
        found = real(path)
        if not calls:
            elsewhere(path, 1)
        calls.append(found)
        return found

    monkeypatch.setattr(lease, "newest", newest)
    taken = lease.take(tmp_path, "me")
    assert calls[0] is None and calls[1].number == 1 and taken.number == 2


def test_who_is_overtaken_writes_nothing_more(far, tmp_path):
    held = lock.take(tmp_path / "run")
    elsewhere(tmp_path / "run", 2)
    held.lease.renew()
    assert held.lost == "process 7 on far, since noon"
    (tmp_path / "run" / "lock.1").unlink()  # as who overtook it does
    held.release()
    assert not (tmp_path / "run" / "lock.1").exists()
    assert (tmp_path / "run" / "lock.2").read_text().endswith('"pid": 4194304}')
    run = config("sac", tmp_path, "overtaken", steps=600)
    seen = []
    real = Run.log

    def log(self, *args, **kwargs):
        if not seen:
            elsewhere(self.path, 9)
            self.home._lock.lease.renew()
        seen.append((self.path / "stamp.json").read_bytes())
        return real(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "log", log)
        with pytest.raises(
            RuntimeError, match=r"no longer this process's, but of process 7 on far"
        ):
            sac.main(run)
    path = tmp_path / "overtaken"
    assert (path / "stamp.json").read_bytes() == seen[0] and not (path / "checkpoints").exists()
    assert (path / "metrics.jsonl").read_bytes() == b""


@pytest.fixture
def begun(tmp_path):
    return copy_of("sac", tmp_path)


def test_a_run_goes_on_and_says_by_what_it_was_held(begun, far, tmp_path):
    resume("sac", tmp_path)
    assert load_run(begun).stamp["lock"] == "lease 1" and lock.in_use(begun) is None
    assert (begun / "lock.1").read_text() == "free"
