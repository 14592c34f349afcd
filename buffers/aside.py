"""Files that are whole at every instant: written aside, then renamed over the old one."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it replaces `path` when the block ends well.

    A block that fails, as on a full disk, leaves the old file and nothing else. Folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # a rename may reach the disk before what it renames
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(partial)):
            error.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file in one replace."""
    with aside(path) as partial:
        partial.write_text(text, newline="")


def overwrite(path: Path, text: str) -> None:
    """Write a small text file over itself: where a full disk has no room for a second one.

    One write into the blocks that the file has; OSError, and the old text, if it does not fit them.
    """
    data = text.encode()
    with path.open("r+b", buffering=0) as file:
        if os.fstat(file.fileno()).st_blocks * 512 < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        old = file.read()
        file.seek(0)
        try:
            write_all(file, data)
        except OSError:
            file.seek(0)
            file.write(old)
            file.truncate(len(old))
            raise
        file.truncate()


def write_all(file: IO[bytes], data: bytes) -> None:
    """Write all of it to an unbuffered file: a disk that is nearly full takes a part at first."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
