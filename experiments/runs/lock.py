"""One process at a time in a run directory: a lock that the kernel drops with its process."""

import fcntl
import logging
import os
import platform
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

log = logging.getLogger("reverie")
LOCK = "lock"  # a file of the run directory: who holds it, empty when nobody does
_TRIES, _PAUSE = 4, 0.05  # seconds: `in_use` holds a lock for an instant


def now() -> str:
    """Return the time as a stamp holds it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def take(path: Path) -> IO[bytes] | None:
    """Make the directory and hold it until `release`, or the process is gone.

    None where the file system has no locks, after a warning. Raises RuntimeError while another
    process holds the directory, and where it cannot be written to.
    """
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
            log.warning("%s cannot be locked (%s): let no two processes write to it", path, error)
            return None
        if _is_still(file, path / LOCK):
            break
        file.close()  # a refused run took it away between our open and our lock
    with suppress(OSError):  # a full disk: the lock holds, its text does not say by whom
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}, since {now()}\n".encode())
    return file


def release(file: IO[bytes] | None) -> None:
    """Let others in."""
    if file is not None:
        with suppress(OSError):
            file.truncate(0)
        file.close()


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
            return None
    return None


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
