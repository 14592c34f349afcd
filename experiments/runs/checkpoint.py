"""Checkpoints that are whole or not there: written aside, digested, renamed once."""

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from safetensors.torch import load_file

from ...buffers import shards as sh
from .codec import decode, encode

log = logging.getLogger("reverie")
_NAME = re.compile(r"step-(\d+)(?:-(\d+))?")
FORMAT = 2  # of what a checkpoint holds
FILES = ("tensors.safetensors", "state.json")


class Checkpoint(NamedTuple):
    """A checkpoint that was read back and verified."""

    path: Path
    step: int
    state: Any
    stores: dict[str, list[sh.Shard]]


def save(
    folder: Path,
    at: tuple[int, int],
    state: Any,
    stores: Mapping[str, Sequence[sh.Shard]] = MappingProxyType({}),
    keep: int = 2,
) -> Path:
    """Write `folder/step-<step>` with a manifest of sizes and digests; keep the newest `keep`.

    `at`: the step, and steps of phases, which are named too once there are any.

    Raises OSError when the disk is full, after removing what was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    step, inner = at
    final = folder / (f"step-{step:012d}" + (f"-{inner:012d}" if inner else ""))
    aside = folder / f"{final.name}.tmp-{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
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
        manifest = {"format": FORMAT, "step": step, "files": files, "stores": kept}
        (aside / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for name in (*FILES, "manifest.json"):
            sh.sync_file(aside / name)
        sh.sync_file(aside)
        if final.exists():  # the same step again, after a resume: replace the older one
            shutil.rmtree(final)
        aside.replace(final)
        sh.sync_file(folder)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints' folders, oldest first."""
    return sorted(p for p in folder.glob("step-*") if _NAME.fullmatch(p.name))


def step_of(path: Path) -> int:
    """Return the step that a checkpoint's folder is named after."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def manifest_stores(path: Path) -> dict[str, list[sh.Shard]]:
    """Return the shards that a checkpoint's manifest lists, by the name of their store."""
    stores = json.loads((path / "manifest.json").read_text())["stores"]
    return {name: sh.from_json(rows) for name, rows in stores.items()}


def prune(folder: Path, buffers: Path) -> None:
    """Delete the shards that no checkpoint in `folder` needs."""
    needed: dict[str, set[str]] = {p.name: set() for p in buffers.glob("*/")}
    for path in list_checkpoints(folder):
        for name, rows in manifest_stores(path).items():
            needed[name] |= {s.name for s in rows}
    for name, names in needed.items():
        sh.prune(buffers / name, names)


def _problem(path: Path, buffer_folder: Path, shards: bool) -> str | None:
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest.get("format") != FORMAT:
            return f"{path} is of format {manifest.get('format', 1)}, this version reads {FORMAT}"
        for name in FILES:
            want, file = manifest["files"][name], path / name
            if file.stat().st_size != want["size"]:
                return f"{file} has {file.stat().st_size} bytes, expected {want['size']}"
            if sh.file_digest(file) != want["sha256"]:
                return f"{file} does not match its sha256"
        for store, rows in manifest_stores(path).items() if shards else ():
            if problem := sh.verify(buffer_folder / store, rows):
                return problem
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{path}: {type(error).__name__}: {error}"


def load(folder: Path, buffer_folder: Path, *, shards: bool = True) -> Checkpoint | None:
    """Return the newest checkpoint whose digests hold; report and skip the others.

    `shards=False`: for who needs the agent alone, whatever became of the buffer's rows.
    """
    for path in reversed(list_checkpoints(folder)):
        problem = _problem(path, buffer_folder, shards)
        if problem is not None:
            log.warning(
                "checkpoint %s is not usable (%s); trying the one before", path.name, problem
            )
            continue
        manifest = json.loads((path / "manifest.json").read_text())
        tree = json.loads((path / FILES[1]).read_text())
        state = decode(load_file(path / FILES[0]), tree)
        return Checkpoint(path, int(manifest["step"]), state, manifest_stores(path))
    return None
