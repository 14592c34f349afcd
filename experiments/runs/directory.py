"""The directory of one run: who may write to it, what it says of the run, when it says so."""

import fcntl
import json
import logging
import os
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple

import torch

from ...buffers import ReplayBuffer, shards
from . import checkpoint, stamp, stopping
from .config import read_config, save_config, to_dict

log = logging.getLogger("reverie")
Stores = Mapping[str, ReplayBuffer]  # by name: buffers whose rows lie in shards of their own
LOCK = "lock"
TRACEBACK = "traceback.txt"  # of the error that ended a run
MAY_CHANGE = ("steps.", "run.")  # of a configuration, at a resume; but not the device
TOLD = ("python", "packages", "cpu", "threads")  # of a stamp: another one is told, not refused


def now() -> str:
    """Return the time as a stamp holds it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Counts(NamedTuple):
    """How far a run was at a checkpoint."""

    step: int = 0
    previous: int = 0  # before the last tick
    inner: int = 0  # steps of all phases
    owed: bool = False  # the step is made, what follows it is not
    phases: Mapping[str, int] = MappingProxyType({})  # how far each phase of the step was
    metrics: int = 0  # bytes of metrics.jsonl


class Directory:
    """Opened by one process at a time; nothing in it changes before `begin`.

    Raises FileExistsError for a new run where another lies, ValueError where a resume is of
    another configuration, RuntimeError while another process holds the directory.
    """

    def __init__(self, path: Path, method: str, config: Any, seed: int, resume: bool) -> None:
        self.path, self.method, self.config = path, method, config
        made = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(path)
        try:
            self.old = self._open(resume)
            self.found = checkpoint.load(path / "checkpoints", path / "buffer")
        except BaseException:
            self.close()
            if made:  # nothing of a run that cannot be is left behind
                (path / LOCK).unlink()
                path.rmdir()
            raise
        options = config.run
        self.stamp: dict[str, Any] = {
            "method": method,
            "seed": seed,
            "device": options.device,
            "threads": {"torch": torch.get_num_threads(), "asked": options.threads},
            **stamp.hardware(),
            "started": self.old.get("started", now()),
            "notes": {},
        }
        state = {} if self.found is None else self.found.state
        self.kept = Counts(**state.get("run", {}))
        self._shards = {} if self.found is None else dict(self.found.stores)
        self._facts: dict[str, str] = {}  # what a resumed run must share
        self.begun = False

    def note(self, **notes: str) -> None:
        """Put facts about this run (engine, routes taken) into its stamp."""
        self.stamp["notes"].update(notes)
        if self.begun:
            self.status("running", self.stamp["step"])

    def same(self, **facts: str) -> None:
        """Note what a resumed run must share, as digests of its data; ValueError if it does not."""
        before = {} if self.found is None else self.found.state["facts"]
        for name, value in facts.items():
            if (old := before.get(name, value)) != value:
                raise ValueError(
                    f"{self.path} was begun with {name} {old[:12]}, and this is {value[:12]}: it "
                    "cannot go on with other data"
                )
        self._facts |= facts
        self.note(**facts)

    def _open(self, resume: bool) -> dict[str, Any]:
        if not resume:
            if any(p.name != LOCK for p in self.path.iterdir()):
                raise FileExistsError(
                    f"{self.path} exists. Continue it with `reverie {self.method} --resume "
                    f"{self.path}`, or choose another --name or --out; nothing is overwritten."
                )
            return {}
        if not (self.path / "config.json").exists():
            return {}  # killed before anything was written
        require_same(self.path, to_dict(self.config))
        return read_json(self.path / "stamp.json")

    def refill(self, stores: Stores) -> dict[str, Any] | None:
        """Return the checkpoint's state, None if there is none, after refilling its stores."""
        if self.found is None:
            return None
        state: dict[str, Any] = self.found.state
        for name, buffer in stores.items():
            kept = state["stores"][name]
            folder = self.path / "buffer" / name
            shards.read_rows(buffer, folder, self._shards[name], int(kept["total"]))
            buffer.load_state_dict(kept)
        return state

    def save(self, counts: Counts, state: dict[str, Any], stores: Stores, keep: int) -> None:
        """Write a checkpoint: the stores' new rows, then the rest; OSError if the disk refuses."""
        points, folder = self.path / "checkpoints", self.path / "buffer"
        for name, buffer in stores.items():
            old = self._shards.get(name, [])
            self._shards[name] = shards.append_rows(buffer, folder / name, old)
        kept = {name: buffer.state_dict(rows=False) for name, buffer in stores.items()}
        whole = {**state, "run": counts._asdict(), "stores": kept, "facts": self._facts}
        checkpoint.save(points, (counts.step, counts.inner), whole, self._shards, keep)
        checkpoint.prune(points, folder)

    def dump(self, state: dict[str, Any], what: str) -> Path:
        """Write what led to a value that is not finite; return the folder."""
        checkpoint.save(self.path / "dump", (0, 0), {"what": what, **state})
        return self.path / "dump"

    def begin(self, step: int) -> None:
        """Write configuration and stamp: what was to be continued has been loaded."""
        if self.old:
            self._tell_what_differs()
        save_config(self.path / "config.json", self.method, self.config)
        (self.path / TRACEBACK).unlink(missing_ok=True)  # of a run that failed and goes on now
        self.begun = True
        self.status("running", step)

    def _tell_what_differs(self) -> None:
        new = {k: self.stamp[k] for k in TOLD}
        differs = {k: f"{self.old.get(k)} -> {v}" for k, v in new.items() if self.old.get(k) != v}
        if differs:
            text = "; ".join(f"{k}: {v}" for k, v in differs.items())
            log.warning("resumed on another machine or setting, so not bit for bit: %s", text)
            self.stamp["notes"]["resumed with"] = text

    def status(self, status: str, step: int, **more: str) -> None:
        """Say in the stamp how the run is; a disk that refuses it is told."""
        self.stamp.update(status=status, step=step, updated=now(), **more)
        try:
            stamp.write(self.path / "stamp.json", self.stamp)
        except OSError as error:
            log.warning("stamp.json not written: %s", error)

    def end(self, error: BaseException | None, step: int) -> None:
        """Say how the run ended, and let others in; an error before `begin` leaves no word."""
        if self.begun:
            more = {} if error is None else {"error": f"{type(error).__name__}: {error}"}
            self.status(stopping.STATUS.get(type(error), "failed"), step, **more)
            if error is not None and type(error) not in stopping.STATUS:
                self._keep_traceback(error)
        self.close()

    def _keep_traceback(self, error: BaseException) -> None:
        try:
            (self.path / TRACEBACK).write_text("".join(traceback.format_exception(error)))
        except OSError as refused:
            log.warning("%s not written: %s", TRACEBACK, refused)

    def close(self) -> None:
        """Let others in."""
        if self._lock is not None:
            self._lock.close()


def _lock(path: Path) -> IO[str] | None:
    """Hold the directory until the file is closed, or the process gone; None where locks fail."""
    file = (path / LOCK).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise RuntimeError(f"{path} is in use by {holder}") from None
    except OSError as error:  # a file system without locks
        file.close()
        log.warning("%s cannot be locked (%s): let no two processes write to it", path, error)
        return None
    file.truncate(0)
    file.write(f"process {os.getpid()}, since {now()}\n")
    file.flush()
    return file


def require_same(path: Path, config: Mapping[str, Any]) -> None:
    """Raise ValueError, naming old and new values, where a resume changes more than it may."""
    _, old = read_config(path)
    before, after = flat(json.loads(json.dumps(old))), flat(json.loads(json.dumps(config)))
    changed = [
        f"{name}: {before.get(name, 'not there')!r} -> {after.get(name, 'not there')!r}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
        and (name == "run.device" or not f"{name}.".startswith(MAY_CHANGE))
    ]
    if changed:
        raise ValueError(
            f"{path} was begun with another configuration: {'; '.join(changed)}. A resume may "
            "change --steps and the run's own options; for another run choose another --name"
        )


def flat(tree: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted names."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        inner = isinstance(value, Mapping) and value
        out |= flat(value, f"{at}{name}.") if inner else {f"{at}{name}": value}
    return out


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's object, {} where there is none."""
    try:
        data: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return data
