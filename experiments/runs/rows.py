"""Files that only grow, of records that are whole: rows as JSON lines, events of TensorBoard."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ...buffers.aside import write_all

log = logging.getLogger("reverie")
_BLOCK = 1 << 20
_TAIL = 4096  # bytes at a file's end that hold its last whole row


class Growing:
    """A file to append to; what a full disk cuts in the middle of a record is taken back.

    `size`: the bytes that stay of what was there. `digest`: the sha256 of these, which is kept up.
    A file that cannot be opened is tried again with every record.
    """

    def __init__(self, path: Path, size: int = 0, digest: Any = None) -> None:
        self.path, self.size = path, size
        self.digest = hashlib.sha256() if digest is None else digest
        self._file: IO[bytes] | None = None
        with suppress(OSError):
            self._open()

    def append(self, record: bytes) -> None:
        """Write a record; OSError, and the file as before, where the disk refuses it."""
        file = self._file or self._open()
        try:
            write_all(file, record)
        except OSError:
            try:
                file.truncate(self.size)
            except OSError:  # once more before the next record
                self.close()
            raise
        self.size += len(record)
        self.digest.update(record)

    def sync(self) -> None:
        """Flush what was written to the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _open(self) -> IO[bytes]:
        file = self.path.open("ab", buffering=0)
        try:
            file.truncate(self.size)
        except OSError:
            file.close()
            raise
        self._file = file
        return file


def line(row: Mapping[str, Any]) -> bytes:
    """Return a row as it lies in the file."""
    return json.dumps(row).encode() + b"\n"


def whole_size(path: Path) -> int:
    """Return the bytes of a file up to its last line's end; 0 where there is none."""
    try:
        with path.open("rb") as file:
            return file.read().rfind(b"\n") + 1
    except FileNotFoundError:
        return 0


def digest_of(path: Path, size: int) -> Any:
    """Return the running sha256 of a file's first `size` bytes; ValueError if it has fewer."""
    digest, left = hashlib.sha256(), size
    have = path.stat().st_size if path.exists() else 0
    if have < size:
        raise ValueError(f"{path} has {have:,} bytes of the {size:,} that it had")
    with path.open("rb") as file:
        while left and (block := file.read(min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
    return digest


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl; broken ones are named, by file and line, and left out."""
    if not path.exists():
        log.warning("%s is not there: no rows", path)
        return []
    rows, broken = [], []
    for number, text in enumerate(path.read_bytes().split(b"\n"), 1):
        if not text:
            continue  # after the last line's end
        try:
            row = json.loads(text)
            whole = _is_row(row)
        except (ValueError, RecursionError):
            whole = False
        if whole:
            rows.append(row)
        else:
            broken.append(number)
    if broken:
        more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
        lines = ", ".join(str(n) for n in broken[:5])
        log.warning("%s: line %s%s left out, being no whole row", path, lines, more)
    return rows


def _is_row(row: Any) -> bool:
    """Return whether this is `{"step": 100, "kind": "train", NAME: number, ...}`."""
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        return False
    numbers = {k: v for k, v in row.items() if k != "kind"}
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in numbers.values()):
        return False
    step = numbers.get("step")
    return isinstance(step, int) and 0 <= step < 1 << 63


def last_step(path: Path) -> int:
    """Return the last step that a run has told of, 0 for one that has not."""
    try:
        with (path / "timing.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            rows = file.read().split(b"\n")[:-1]
        return int(json.loads(rows[-1])["step"])
    except (OSError, ValueError, IndexError, KeyError, TypeError):
        return 0
