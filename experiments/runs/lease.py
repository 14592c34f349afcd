"""Holding a directory where the kernel's locks do not reach other machines: a renewed record.

The holder is the record with the greatest number, `lock.1`, `lock.2` and so on, unless it says
that it is free. To hold is to create the next number, which the file system grants to one alone;
who is overtaken sees a greater number. No clock is compared with another's: a record is stale when
whoever looks has seen it stand still for long enough.
"""

import json
import logging
import os
import platform
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger("reverie")
RENEW = 5.0  # seconds between renewals
STALE = 60.0  # seconds without one after which another may take over
_COUNT = 20  # digits of how often a record was renewed, in front of it
_FREE = "free"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PIDS = Path("/proc/self/ns/pid")


class Record(NamedTuple):
    """What one number's file says, which is empty for the instant in which it is taken."""

    number: int
    text: str

    @property
    def who(self) -> str:
        """Return the holder in words."""
        with suppress(ValueError, KeyError, TypeError):
            return str(json.loads(self.text[_COUNT:])["who"])
        return "another process"

    @property
    def free(self) -> bool:
        """Whether nobody holds it: let go, or by a process of this machine that is gone."""
        if self.text == _FREE:
            return True
        with suppress(ValueError, KeyError, TypeError, PermissionError):
            said = json.loads(self.text[_COUNT:])
            if said["machine"] == _machine():
                try:
                    os.kill(int(said["pid"]), 0)
                except ProcessLookupError:
                    return True
        return False


def _machine() -> list[str]:
    """Return what process ids are of: a boot of a machine, and a container in it."""
    with suppress(OSError):
        return [_BOOT.read_text().strip(), os.readlink(_PIDS)]
    return [platform.node()]


def newest(path: Path) -> Record | None:
    """Return the record with the greatest number; None where there is none."""
    while numbers := _numbers(path):
        with suppress(FileNotFoundError):  # its holder was overtaken between the two lines
            return Record(numbers[-1], _file(path, numbers[-1]).read_text(errors="replace"))
    return None


def _numbers(path: Path) -> list[int]:
    found = (p.name.partition(".")[2] for p in path.glob("lock.*"))
    return sorted(int(n) for n in found if n.isdecimal())


def _file(path: Path, number: int) -> Path:
    return path / f"lock.{number}"


class Lease:
    """Holds a directory from `take` to `release`; `lost` says by what it was overtaken."""

    def __init__(self, path: Path, number: int, who: str) -> None:
        self.path, self.number, self.lost = path, number, ""
        self._renewed, self._last = 0, time.monotonic()
        self.said = json.dumps({"who": who, "machine": _machine(), "pid": os.getpid()})
        with _file(path, number).open("r+") as file:
            file.write(f"{0:0{_COUNT}d}{self.said}")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._ended.wait(RENEW) and not self.lost:
            self.renew()

    def renew(self) -> None:
        """Say once more that this process is there, or see that another holds the directory."""
        try:
            record = newest(self.path)
            if record is None or record.number != self.number:
                self.lost = record.who if record else "nobody: its record is gone"
                return
            self._renewed += 1
            with _file(self.path, self.number).open("r+") as file:
                file.write(f"{self._renewed:0{_COUNT}d}")
            self._last = time.monotonic()
        except OSError as error:
            if time.monotonic() - self._last > STALE / 2:
                self.lost = f"nobody: it could not be renewed ({error})"

    def release(self) -> None:
        """Let others in."""
        self._ended.set()
        self._thread.join()
        with suppress(OSError):
            record = newest(self.path)
            if record is not None and record.text[_COUNT:] == self.said:
                _file(self.path, self.number).write_text(_FREE)


def take(path: Path, who: str) -> Lease:
    """Hold a directory; RuntimeError while another process does. Waits for a stale record."""
    while True:
        record = newest(path)
        if record is not None and not record.free:
            _wait(path, record)
        number = 1 if record is None else record.number + 1
        try:
            os.close(os.open(_file(path, number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            continue  # another was first
        if _numbers(path)[-1] == number:
            break
        _file(path, number).unlink(missing_ok=True)  # a number that was in use before
    for old in _numbers(path)[:-1]:
        with suppress(OSError):
            _file(path, old).unlink()
    return Lease(path, number, who)


def _wait(path: Path, record: Record) -> None:
    """Return once a record has stood still for long enough; RuntimeError where it moves."""
    log.info("%s was held by %s: waiting to see whether it still is", path, record.who)
    until = time.monotonic() + STALE
    while time.monotonic() < until:
        time.sleep(min(RENEW / 10, 0.5))
        now = newest(path)
        if now is None or now.free:
            return
        if now != record:
            raise RuntimeError(f"{path} is in use by {now.who}: one run directory, one process")
    log.warning("%s: %s has not been heard of for %g s, and is overtaken", path, record.who, STALE)


_seen: dict[Path, tuple[Record, float]] = {}  # what `holder` saw, and since when


def holder(path: Path) -> str | None:
    """Return who holds a directory, in words; None if nobody does, or not any more.

    Does not wait: that a record stands still is seen by calls that lie apart.
    """
    record = newest(path)
    if record is None or record.free:
        return None
    before, since = _seen.get(path, (None, 0.0))
    if before != record:
        _seen[path] = record, time.monotonic()
        return record.who
    return record.who if time.monotonic() - since < STALE else None


# File systems of one machine, and those whose locks its kernel asks the others for.
_LOCAL = {
    *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "bcachefs", "tmpfs", "ramfs"),
    *("overlay", "rootfs", "aufs", "vfat", "exfat", "ntfs3", "fuseblk", "apfs", "hfs"),
}
_ASKED = {"nfs", "nfs4", "ceph", "gpfs", "gfs2", "ocfs2", "lustre"}
_UNASKED = {"nolock", "local_lock=all", "local_lock=flock", "localflock"}


def unlocked(path: Path, mounts: str | None = None) -> str | None:
    """Return the file system of a path whose locks may not reach other machines; None if they do.

    `mounts`: as /proc/self/mountinfo has it; None reads that, and None where there is none.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(errors="replace")
        except OSError:
            return None
    best, kind, options = -1, "", set[str]()
    for line in mounts.splitlines():
        own, _, rest = line.partition(" - ")
        fields, more = own.split(" "), rest.split(" ")
        place = fields[4].replace("\\040", " ")
        if len(place) >= best and path.resolve().is_relative_to(place):
            best, kind = len(place), more[0]
            options = {*fields[5].split(","), *more[-1].split(",")}
    asked = kind in _ASKED and not options & _UNASKED
    asked &= kind != "lustre" or "flock" in options
    return None if kind in _LOCAL or asked else kind or None
