"""One process at a time in a run directory: a lock that the kernel drops with its process.

Where it may not reach other machines that see the directory, a renewed record beside it.
"""

import fcntl
import logging
import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from . import lease
from .lease import Lease

log = logging.getLogger("reverie")
LOCK = "lock"  # a file of the run directory: who holds it, empty when nobody does
_TRIES, _PAUSE = 4, 0.05  # seconds: `in_use` holds a lock for an instant


def now() -> str:
    """Return the time as a stamp holds it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def is_lock(name: str) -> bool:
    """Return whether a file of a run directory says who holds it, and nothing of the run."""
    return name == LOCK or name.startswith(f"{LOCK}.")


@dataclass
class Held:
    """A directory that this process holds."""

    file: IO[bytes] | None  # locked, where the file system has locks
    lease: Lease | None  # where these may not reach other machines

    @property
    def how(self) -> str:
        """By what it is held, in words."""
        return "flock" if self.lease is None else f"lease {self.lease.number}"

    @property
    def lost(self) -> str:
        """Who took it over meanwhile, in words; empty while it is held."""
        return "" if self.lease is None else self.lease.lost

    def look(self) -> str:
        """Return as `lost`, as it is now: a paused process has seen nothing meanwhile."""
        if self.lease is not None:
            self.lease.renew()
        return self.lost

    def release(self) -> None:
        """Let others in."""
        if self.lease is not None:
            self.lease.release()
        if self.file is not None:
            with suppress(OSError):
                self.file.truncate(0)
            self.file.close()


def take(path: Path) -> Held:
    """Make the directory and hold it until `release`, or the process is gone.

    Raises RuntimeError while another process holds the directory, and where it cannot be written
    to.
    """
    file = _lock(path)
    who = f"process {os.getpid()} on {platform.node()}, since {now()}"
    if file is not None:
        with suppress(OSError):  # a full disk: the lock holds, its text does not say by whom
            file.truncate(0)
            file.write(f"{who}\n".encode())
    kind = lease.unlocked(path)
    if file is not None and kind is None:
        return Held(file, None)
    try:
        return Held(file, lease.take(path, who))
    except OSError as error:
        log.warning("%s cannot be held (%s): let no two processes write to it", path, error)
        return Held(file, None)
    except RuntimeError:
        Held(file, None).release()
        raise


def _lock(path: Path) -> IO[bytes] | None:
    """Return the locked file of a directory, made if it is not there; None where there are none."""
    busy = 0
    while True:
        file = _open(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(file)
            file.close()
            busy += 1
            if busy == _TRIES:
                raise RuntimeError(
                    f"{path} is in use by {holder}: one run directory, one process"
                ) from None
            time.sleep(_PAUSE)
            continue
        except OSError as error:
            file.close()
            log.info("%s cannot be locked (%s)", path, error)
            return None
        if _is_still(file, path / LOCK):
            break
        file.close()  # a refused run took it away between our open and our lock
    return file


def in_use(path: Path) -> str | None:
    """Return which process holds a run directory, in words; None if none does."""
    try:
        file = (path / LOCK).open("rb", buffering=0)
    except OSError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(file)
        except OSError:
            pass
    return lease.holder(path)


def _open(path: Path) -> IO[bytes]:
    left = 100
    while True:
        left -= 1
        try:
            path.mkdir(parents=True, exist_ok=True)
            return (path / LOCK).open("a+b", buffering=0)
        except (FileExistsError, NotADirectoryError) as error:
            what = (
                "a link to nowhere" if path.is_symlink() and not path.exists() else "no directory"
            )
            raise RuntimeError(f"{path} is {what}: choose another --name or --out") from error
        except OSError as error:
            if left and isinstance(error, FileNotFoundError):
                continue  # a refused run took the directory away between the two lines
            raise RuntimeError(
                f"{path} cannot be written to ({error.strerror}): a run needs a directory of its "
                "own; give another --out"
            ) from error


def _holder(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").strip() or "another process"


def _is_still(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
