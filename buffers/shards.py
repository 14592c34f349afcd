"""A replay buffer on disk: append-only shards, so that a checkpoint costs the new rows only."""

import hashlib
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .replay import ReplayBuffer
from .untrusted import READING, tensors_in, told

_NAME = re.compile(r"(\d+)-(\d+)-(\d+)\.safetensors")
_SYSTEM = re.compile(r"\(os error (\d+)\)")  # of an error of safetensors


@dataclass(frozen=True)
class Shard:
    """Vector steps first..last-1 in one file, as a checkpoint's manifest lists it."""

    name: str
    first: int
    last: int
    size: int
    sha256: str


def file_digest(path: Path) -> str:
    """Return the file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Flush a file or directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; raises OSError, as other files do, when the disk refuses it."""
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        if number := _SYSTEM.search(str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise OSError(f"{path}: {error}") from error


def append_rows(buffer: ReplayBuffer, folder: Path, shards: Sequence[Shard]) -> list[Shard]:
    """Write the rows added since the last of `shards`; return the shards that the buffer needs.

    What a process before left under the same name is never written over: names are numbered. Raises
    OSError when the disk is full, after removing what was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    oldest = buffer.oldest
    kept = [s for s in shards if s.last > oldest]
    first = max(oldest, kept[-1].last if kept else 0)
    if first == buffer.total:
        return kept
    names = (f"{g}-{first}-{buffer.total}.safetensors" for g in itertools.count())
    path = next(folder / n for n in names if not (folder / n).exists())
    partial = path.with_suffix(".partial")
    try:
        write_tensors(partial, buffer.export_rows(first, buffer.total))
        sync_file(partial)
        size, digest = partial.stat().st_size, file_digest(partial)
        partial.replace(path)
        sync_file(folder)
    except BaseException:
        for written in (partial, path):
            written.unlink(missing_ok=True)
        raise
    return [*kept, Shard(path.name, first, buffer.total, size, digest)]


def verify(folder: Path, shards: Sequence[Shard], digests: bool = True) -> str | None:
    """Return what is wrong with the first bad shard, or None; without digests only the sizes."""
    for shard in shards:
        path = folder / shard.name
        if not path.exists():
            return f"{path} is missing"
        if path.stat().st_size != shard.size:
            return f"{path} has {path.stat().st_size} bytes, expected {shard.size}"
        if digests and file_digest(path) != shard.sha256:
            return f"{path} does not match its sha256"
    return None


def read_shard(path: Path, num_envs: int, width: int) -> dict[str, Tensor]:
    """Return what `ReplayBuffer.export_rows` wrote: rows [T, N, width], episode and invalid [T, N].

    Raises ValueError for a file that holds anything else, before it is read.
    """
    try:
        held = tensors_in(path)
        steps = held["rows"][1][0] if "rows" in held else 0
        want: dict[str, tuple[str, tuple[int, ...]]] = {
            "rows": ("F32", (steps, num_envs, width)),
            "episode": ("I64", (steps, num_envs)),
            "invalid": ("BOOL", (steps, num_envs)),
        }
        if held != want:
            raise ValueError(f"it holds {str(held)[:200]}, expected {want}")
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    except READING as error:
        raise ValueError(f"{path} is no shard of this buffer: {told(error)}") from error


def read_rows(buffer: ReplayBuffer, folder: Path, shards: Sequence[Shard], total: int) -> None:
    """Write the shards' rows back into a buffer that had seen `total` vector steps.

    Rows that were overwritten since are skipped. Raises ValueError as `read_shard`, where rows are
    missing, and for a shard with another number of steps than its manifest says.
    """
    oldest = max(0, total - buffer.capacity // buffer.num_envs)
    ends = [(a.last, b.first) for a, b in itertools.pairwise(shards)]
    if any(last != first for last, first in ends) or (shards and shards[-1].last != total):
        raise ValueError(f"the shards in {folder} do not make up the rows up to step {total}")
    for shard in shards:
        parts = read_shard(folder / shard.name, buffer.num_envs, buffer.layout.width)
        if len(parts["rows"]) != shard.last - shard.first:
            raise ValueError(
                f"{folder / shard.name} holds {len(parts['rows'])} steps, expected those from "
                f"{shard.first} to {shard.last}"
            )
        skip = max(0, oldest - shard.first)
        buffer.import_rows(shard.first + skip, {k: v[skip:] for k, v in parts.items()})


def prune(folder: Path, needed: set[str]) -> None:
    """Delete the shards, and partial files, that no kept checkpoint needs."""
    for path in folder.glob("*"):
        stale = path.suffix == ".partial" or _NAME.fullmatch(path.name)
        if stale and path.name not in needed:
            path.unlink()


def remove(folder: Path, shards: Sequence[Shard]) -> None:
    """Delete these shards: of a checkpoint that could not be finished."""
    for shard in shards:
        (folder / shard.name).unlink(missing_ok=True)


def to_json(shards: Sequence[Shard]) -> list[dict[str, Any]]:
    """Return the shards as a manifest holds them."""
    return [asdict(s) for s in shards]


def from_json(rows: Sequence[Mapping[str, Any]]) -> list[Shard]:
    """Read `to_json` back; ValueError for a name that is not a shard's, other rows, wrong types."""
    shards = []
    for row in rows:
        if not isinstance(row, Mapping) or row.keys() != {f.name for f in fields(Shard)}:
            raise ValueError(f"{str(row)[:80]!r} is not a shard's entry")
        shard = Shard(**row)
        match = _NAME.fullmatch(shard.name) if isinstance(shard.name, str) else None
        if match is None:
            raise ValueError(f"{shard.name!r} is not a shard's name")
        numbers = (shard.first, shard.last, shard.size)
        if not all(type(x) is int for x in numbers) or not 0 <= shard.first <= shard.last:
            raise ValueError(f"shard {shard.name}: steps and size are {numbers}")
        if (int(match[2]), int(match[3])) != (shard.first, shard.last):
            raise ValueError(f"{shard.name} is listed with rows {shard.first} to {shard.last}")
        shards.append(shard)
    return shards
