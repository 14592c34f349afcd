"""Checkpoints that are whole or not there: written aside, digested, renamed once."""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file

from ...buffers import shards as sh
from .codec import decode, encode

log = logging.getLogger("reverie")
_NAME = re.compile(r"step-(\d+)(?:-(\d+))?(\.old)?")
_STORE = re.compile(r"\w[\w.-]*")
FORMAT = 2  # of what a checkpoint holds
FILES = ("tensors.safetensors", "state.json")
BAD = "bad"  # the folder beside them where unusable ones go
SEAL = "sha256"  # of the manifest's own content, in it
# What reading a damaged file may raise. EIO is a bad sector; other OSErrors say nothing of a file.
_DAMAGED = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError)
_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)
_NONE: Mapping[str, Any] = MappingProxyType({})


class Unusable(ValueError):
    """There are checkpoints, and not one can be used; the text names each, and why."""


class OtherVersion(ValueError):
    """A checkpoint is whole, and of a version that is not read here."""


class Checkpoint(NamedTuple):
    """A checkpoint that was read back and verified."""

    path: Path
    step: int
    state: Any
    stores: dict[str, list[sh.Shard]]
    manifest: dict[str, Any]
    bad: list[Path]  # newer ones that cannot be used


def save(
    folder: Path,
    at: tuple[int, int],
    state: Any,
    stores: Mapping[str, Sequence[sh.Shard]] = _NONE,
    beside: Mapping[str, Any] = _NONE,
) -> Path:
    """Write `folder/step-<step>` with a manifest of sizes and digests.

    `at`: the step, and steps of phases, which are named too once there are any. `beside`: what the
    manifest says of files that lie elsewhere.

    Raises OSError when the disk is full, after removing what was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    step, inner = at
    final = folder / (f"step-{step:012d}" + (f"-{inner:012d}" if inner else ""))
    aside, older = (folder / f"{final.name}{end}" for end in (f".tmp-{os.getpid()}", ".old"))
    placed = False
    sweep(aside)
    tensors, tree = encode(state)
    try:
        aside.mkdir()
        sh.write_tensors(aside / FILES[0], tensors)
        (aside / FILES[1]).write_text(json.dumps(tree))
        files = {
            f: {"size": (aside / f).stat().st_size, "sha256": sh.file_digest(aside / f)}
            for f in FILES
        }
        kept = {name: sh.to_json(shards) for name, shards in stores.items()}
        manifest = {"format": FORMAT, "step": step, "files": files, "stores": kept, **beside}
        sealed = {**manifest, SEAL: _seal(manifest)}
        (aside / "manifest.json").write_text(json.dumps(sealed, indent=1))
        for name in (*FILES, "manifest.json"):
            sh.sync_file(aside / name)
        sh.sync_file(aside)
        if final.exists():  # the same step again, after a resume: the older one stays until then
            sweep(older)
            final.rename(older)
        aside.replace(final)
        placed = True
        sh.sync_file(folder)
    except BaseException:
        sweep(aside)
        with suppress(OSError):
            if placed:
                _discard(final)
            if older.exists() and not final.exists():
                older.rename(final)
        raise
    if older.exists():
        with suppress(OSError):  # it is as good as the new one
            _discard(older)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints' folders, oldest first."""

    def age(path: Path) -> tuple[int, int, bool]:
        match = _NAME.fullmatch(path.name)
        assert match is not None
        return int(match[1]), int(match[2] or 0), not match[3]

    return sorted((p for p in folder.glob("step-*") if _NAME.fullmatch(p.name)), key=age)


def step_of(path: Path) -> int:
    """Return the step that a checkpoint's folder is named after."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def manifest_stores(path: Path) -> dict[str, list[sh.Shard]]:
    """Return the shards that a checkpoint's manifest lists, by the name of their store.

    Raises ValueError for a manifest that is damaged, or of another version.
    """
    return _stores(_manifest(path, former=False))


def prune(folder: Path, buffers: Path, keep: int) -> str | None:
    """Delete all but the newest `keep` that look whole, and the shards that no checkpoint needs.

    What looks damaged is not counted and stays, for a resume to move aside. While a manifest cannot
    be read no shard is deleted: return why, else None.
    """
    for path in [p for p in list_checkpoints(folder) if looks_whole(p, buffers)][: -max(1, keep)]:
        _discard(path)
    needed: dict[str, set[str]] = {p.name: set() for p in buffers.glob("*/")}
    listed = [*list_checkpoints(folder), *(folder / BAD).glob("*/")]
    for path in listed:
        try:
            stores = manifest_stores(path)
        except (*_DAMAGED, OSError) as error:
            if path.parent == folder:
                return f"{path}: {_text(error)}"
            continue
        for name, rows in stores.items():
            needed.setdefault(name, set()).update(s.name for s in rows)
    for name, names in needed.items():
        sh.prune(buffers / name, names)
    return None


def problem(path: Path, buffers: Path, *, stores: bool = True, digests: bool = True) -> str | None:
    """Return why a checkpoint cannot be used, None if it can.

    Without `stores` its shards do not count, without `digests` only names and sizes do. Raises
    OtherVersion for a checkpoint that this version does not read.
    """
    try:
        manifest = _manifest(path, former=not stores)
        for name in FILES:
            want, file = manifest["files"][name], path / name
            if file.stat().st_size != want["size"]:
                return f"{file} has {file.stat().st_size} bytes, expected {want['size']}"
            if digests and sh.file_digest(file) != want["sha256"]:
                return f"{file} does not match its sha256"
        for store, rows in _stores(manifest).items() if stores else ():
            if bad := sh.verify(buffers / store, rows, digests):
                return bad
        return None
    except OtherVersion:
        raise
    except (*_DAMAGED, OSError) as error:
        return _damage(path, error)


def looks_whole(path: Path, buffers: Path) -> bool:
    """Return whether a checkpoint's files are there in their sizes: a look that costs nothing."""
    try:
        return problem(path, buffers, digests=False) is None
    except ValueError:
        return False


def load(
    folder: Path,
    buffers: Path,
    *,
    stores: bool = True,
    check: Callable[[Any, Mapping[str, Any]], None] = lambda state, manifest: None,
) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, None if there are none; tell of the others.

    Without `stores` the agent alone counts: shards may be damaged, and an earlier version's
    checkpoint is read too. `check(state, manifest)` raises where something is missing.

    Raises Unusable when there are some and none can be used, OtherVersion for one of another
    version. Nothing is moved or changed.
    """
    bad: list[tuple[Path, str]] = []
    for path in reversed(list_checkpoints(folder)):
        told = problem(path, buffers, stores=stores)
        if told is None:
            try:
                manifest = _manifest(path, former=not stores)
                state = decode(load_file(path / FILES[0]), _json(path / FILES[1]))
                check(state, manifest)
                rows = _stores(manifest) if stores else {}
                step, newer = int(manifest["step"]), [p for p, _ in bad]
                return Checkpoint(path, step, state, rows, manifest, newer)
            except (*_DAMAGED, SafetensorError, OSError) as error:
                told = _damage(path, error)
        bad.append((path, told))
        log.warning("checkpoint %s is not usable (%s); trying the one before", path.name, told)
    if not bad:
        return None
    why = "".join(f"\n  {path.name}: {told}" for path, told in bad)
    raise Unusable(f"none of the checkpoints in {folder} can be used:{why}")


def read(path: Path) -> Any:
    """Return the state in one checkpoint, its shards aside; Unusable where it is damaged."""
    if told := problem(path, path, stores=False):
        raise Unusable(f"{path} cannot be used: {told}")
    return decode(load_file(path / FILES[0]), _json(path / FILES[1]))


def sweep(path: Path) -> None:
    """Delete a file or a folder, as far as that goes."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _discard(path: Path) -> None:
    """Delete a checkpoint; a kill in the middle leaves nothing that looks like one."""
    gone = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    sweep(gone)
    path.rename(gone)
    sweep(gone)


def _seal(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no JSON: {error}") from error


def _manifest(path: Path, former: bool) -> dict[str, Any]:
    """Return a manifest in which nothing was changed; one of the former format where asked for."""
    manifest = _json(path / "manifest.json")
    if not isinstance(manifest, dict):
        raise ValueError(f"{path}/manifest.json is no object")
    if "format" not in manifest and SEAL not in manifest:
        if former:
            return manifest
        raise OtherVersion(
            f"{path} was made by an earlier version of Reverie, whose runs this one cannot go on "
            "with. `reverie eval` and load_policy still read its policy"
        )
    if manifest.pop(SEAL, None) != _seal(manifest):
        raise ValueError(f"{path}/manifest.json does not match its own sha256")
    if manifest["format"] != FORMAT:
        raise OtherVersion(
            f"{path} is of format {manifest['format']}, this version of Reverie reads {FORMAT}: "
            "update it"
        )
    return manifest


def _stores(manifest: Mapping[str, Any]) -> dict[str, list[sh.Shard]]:
    stores = {name: sh.from_json(rows) for name, rows in manifest["stores"].items()}
    for name in stores:
        if not _STORE.fullmatch(name):
            raise ValueError(f"{name!r} is not a store's name")
    return stores


def _damage(path: Path, error: Exception) -> str:
    """Return what is damaged; RuntimeError for an error that says nothing of the file."""
    if isinstance(error, OSError) and error.errno not in _DAMAGE:
        raise RuntimeError(f"{path} cannot be read: {error}") from error
    return f"{path}: {_text(error)}"


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
