"""Run directories in a store that machines share where they share no folder: any URL of fsspec.

A run has a key, its path as the store has it. Files beside it (`KEY.log`) belong to it.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..runs.lock import is_lock

_BESIDE = (".log", ".config.json")
POINTS = "checkpoints/"


def _open(url: str) -> tuple[Any, str]:
    import fsspec

    system, root = fsspec.core.url_to_fs(url)
    return system, root.rstrip("/")


def _files(run: Path) -> Iterator[tuple[str, Path]]:
    """Give each whole file of a run directory with its name in it, those beside it first."""
    for end in _BESIDE:
        if (path := run.with_name(run.name + end)).is_file():
            yield end, path
    for path in run.rglob("*"):
        name = path.relative_to(run).as_posix()
        whole = ".tmp" not in name and not name.endswith(".partial")
        if whole and not is_lock(name) and path.is_file():
            yield f"/{name}", path


class Mirror:
    """Copies a run directory into a store, again and again, what has changed alone.

    Whatever instant it is cut at, the store holds a checkpoint with its rows and metrics: what a
    checkpoint speaks of is copied before it, and what it replaces is deleted after.
    """

    def __init__(self, url: str, key: str) -> None:
        self.system, self.root = _open(url)
        self.key = key
        self.local = "file" in self.system.protocol or self.system.protocol == "file"
        # Size and time of each file in the store; of what was there before, that it is.
        self.copied = dict.fromkeys(_found(self.system, self.root, key), (-1, -1))

    def newest(self) -> str:
        """Return the name of the newest checkpoint in the store, empty where it has none."""
        names = [n.split("/") for n in self.copied if n.startswith(f"/{POINTS}")]
        return max((parts[2] for parts in names), default="")

    def push(self, run: Path) -> None:
        """Copy what has changed since the last push, and delete what is gone."""
        whole = {p.name for p in (run / POINTS).glob("*")}  # before the files that they speak of
        there = {}
        for name, path in _files(run):
            parts = name.split("/")
            if parts[1:2] == [POINTS[:-1]] and parts[2] not in whole:
                continue
            with suppress(FileNotFoundError):  # pruned meanwhile
                stat = path.stat()
                there[name] = (stat.st_size, stat.st_mtime_ns)
        for name in sorted(there, key=lambda n: (n.startswith(f"/{POINTS}"), n)):
            if self.copied.get(name) != there[name]:
                try:
                    self._put(Path(f"{run}{name}"), name)
                except FileNotFoundError:  # pruned meanwhile: what replaces it is not copied yet
                    return
                self.copied[name] = there[name]
        for name in self.copied.keys() - there.keys():
            with suppress(FileNotFoundError):
                self.system.rm_file(f"{self.root}/{self.key}{name}")
            del self.copied[name]

    def _put(self, path: Path, name: str) -> None:
        target = f"{self.root}/{self.key}{name}"
        self.system.makedirs(target.rpartition("/")[0], exist_ok=True)
        if self.local:  # a copy that is cut leaves the old file; other stores see to it themselves
            self.system.put_file(str(path), f"{target}.tmp")
            self.system.mv(f"{target}.tmp", target)
        else:
            self.system.put_file(str(path), target)


def _found(system: Any, root: str, key: str) -> dict[str, str]:
    """Return the files of a run in the store, by their names in it."""
    base, there = f"{root}/{key}", {}
    for end in ("", *_BESIDE):
        if system.exists(base + end):
            there.update({str(f)[len(base) :]: f for f in system.find(base + end)})
    return {name: f for name, f in there.items() if not name.endswith(".tmp")}


def fetch(url: str, key: str, run: Path) -> None:
    """Make a run directory, and the files beside it, what they are in the store.

    Nothing happens where the store has no such run.
    """
    system, root = _open(url)
    there = _found(system, root, key)
    for name, found in sorted(there.items()):
        path = Path(f"{run}{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        system.get_file(found, str(path))
    for name, path in list(_files(run)):
        if there and name not in there:
            path.unlink()
