"""The directory of one run: who may write to it, what it says of the run, when it says so."""

import json
import logging
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from ...buffers import ReplayBuffer, shards
from ...buffers.aside import overwrite, write_text
from . import checkpoint, lock, stamp, stopping
from .config import save_config
from .lock import in_use, is_lock, now
from .opening import POPULATION, SET_ASIDE, Counts, There, is_aside, require_empty, to_continue
from .rows import Growing
from .sameness import differs, lasting

__all__ = ["Counts", "Directory", "Stores", "in_use", "restarting"]

log = logging.getLogger("reverie")
Stores = Mapping[str, ReplayBuffer]  # by name: buffers whose rows lie in shards of their own
TRACEBACK = "traceback.txt"  # of the error that ended a run
# What a kill leaves of a file that was being written.
_LEFTOVERS = (".*.tmp", "checkpoints/*.tmp-*", "dump/*.tmp-*", "buffer/*/*.partial")

_restart: Path | None = None  # the directory that the command line was told to begin anew


@contextmanager
def restarting(path: Path) -> Iterator[None]:
    """Let a new run in this directory set aside what is there, once it is ready to begin."""
    global _restart
    _restart = path.resolve()
    try:
        yield
    finally:
        _restart = None


class Directory:
    """Opened by one process at a time; nothing in it changes before `begin`.

    Raises FileExistsError for a new run where another lies, FileNotFoundError for a resume where
    something else does, ValueError where a resume is of another configuration or its files are
    damaged, RuntimeError while another process holds the directory.
    """

    def __init__(
        self,
        path: Path,
        method: str,
        config: Any,
        seed: int,
        resume: bool,
        *,
        group: Path | None = None,
        there: There | None = None,
    ) -> None:
        """`group`: of a member of a population, which knows what is `there` to go on from."""
        self.path, self.method, self.config = path, method, config
        self.begun = False
        self._anew = not resume and (group or path).resolve() == _restart
        self._made = not path.exists()
        self._lock = lock.take(path)
        try:
            if there is None and resume:
                there = to_continue(path, method, config)
            elif there is None and not self._anew:
                require_empty(path, method)
        except BaseException:
            self.close()
            raise
        there = there or There()
        self.found, self.old, self._rows = there.found, there.stamp, there.rows
        options = config.run
        self.stamp: dict[str, Any] = {
            "method": method,
            "seed": seed,
            "device": options.device,
            "threads": {"torch": torch.get_num_threads(), "asked": options.threads},
            **stamp.hardware(),
            "lock": self._lock.how,
            "started": self.old.get("started", now()),
            "notes": dict(self.old.get("notes", {})),
        }
        state = {} if self.found is None else self.found.state
        self.kept = Counts(**state.get("run", {}))
        self.stamp["saved"] = self.kept.step
        if group is not None:
            self.stamp[POPULATION] = str(group)
        self._shards = {} if self.found is None else dict(self.found.stores)
        self._facts = {"method": method, "config": lasting(config)}  # what a resume must share
        self._refused: dict[str, int] = {}  # how often the disk did not take what
        self._reasons: set[int | None] = set()  # why, since the last checkpoint
        self._unsaved = False  # whether the last one was refused
        self._untidy: str | None = None  # what was told of files that could not be cleared away

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
                    f"{self.path} was begun with other data: the digest of {name} was {old[:12]} "
                    f"and is {value[:12]}"
                )
        self._facts |= facts
        self.note(**facts)

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

    def save(
        self,
        counts: Counts,
        state: dict[str, Any],
        stores: Stores,
        keep: int,
        metrics: Mapping[str, Any],
    ) -> None:
        """Write a checkpoint: the stores' new rows, then the rest; OSError if the disk refuses.

        `metrics`: size and digest of metrics.jsonl.
        """
        self.require_held(look=True)
        points, folder, before = self.path / "checkpoints", self.path / "buffer", self._shards
        self._shards = dict(before)
        try:
            for name, buffer in stores.items():
                old = before.get(name, [])
                self._shards[name] = shards.append_rows(buffer, folder / name, old)
            kept = {name: buffer.state_dict(rows=False) for name, buffer in stores.items()}
            whole = {**state, "run": counts._asdict(), "stores": kept, "facts": self._facts}
            at, beside = (counts.step, counts.inner), {"metrics": dict(metrics)}
            checkpoint.save(points, at, whole, self._shards, beside)
        except OSError:
            for name, rows in self._shards.items():  # the room that they took, for what comes next
                new = [s for s in rows if s not in before.get(name, [])]
                with suppress(OSError):
                    shards.remove(folder / name, new)
            self._shards = before
            raise
        if self._unsaved:
            log.info("checkpoint at step %d written: the disk takes them again", counts.step)
        self._reasons, self._unsaved = set(), False
        self.stamp["saved"] = counts.step
        self.status("running", counts.step)
        self._tidy(points, folder, keep)

    def _tidy(self, points: Path, folder: Path, keep: int) -> None:
        try:
            why = checkpoint.prune(points, folder, keep)
        except OSError as error:
            why = str(error)
        if why is not None and why != self._untidy:
            log.warning("old checkpoints or shards are not cleared away: %s", why)
        self._untidy = why

    def dump(self, state: dict[str, Any], what: str) -> Path:
        """Write what led to a value that is not finite; return the folder."""
        checkpoint.save(self.path / "dump", (0, 0), {"what": what, **state})
        return self.path / "dump"

    def require_held(self, look: bool = False) -> None:
        """Raise RuntimeError where another process took the directory over: nothing is written.

        `look`: as it is now, not as it was seen some seconds ago.
        """
        if lost := self._lock.look() if look else self._lock.lost:
            raise RuntimeError(f"{self.path} is no longer this process's, but of {lost}")

    def begin(self, step: int) -> Growing:
        """Write configuration and stamp, now that what was to be continued has been loaded.

        What kills and damage left is cleared away or moved aside. Returns metrics.jsonl, cut to
        where the run goes on. Raises RuntimeError where a new run cannot even write these.
        """
        self.require_held(look=True)
        if self._anew:
            set_aside(self.path)
        for pattern in _LEFTOVERS:
            for path in self.path.glob(pattern):
                checkpoint.sweep(path)
        self._move_bad()
        self._tell_what_differs()
        try:
            save_config(self.path / "config.json", self.method, self.config)
            if self.found is None:
                self.stamp.update(status="running", step=step, updated=now())
                stamp.write(self.path / "stamp.json", self.stamp)
        except OSError as error:
            if self.found is None:
                raise RuntimeError(f"{self.path} takes no new run: {error}") from error
            self.refused("config.json", step, error)
        (self.path / TRACEBACK).unlink(missing_ok=True)  # of a run that failed and goes on now
        self.begun = True
        self.status("running", step)
        return Growing(self.path / "metrics.jsonl", *self._rows)

    def _move_bad(self) -> None:
        """Put checkpoints that cannot be used where they are not counted."""
        if self.found is None:
            return
        points, buffers = self.path / "checkpoints", self.path / "buffer"
        bad = [p for p in checkpoint.list_checkpoints(points) if p != self.found.path]
        bad = [p for p in bad if p in self.found.bad or not checkpoint.looks_whole(p, buffers)]
        for path in bad:
            names = (f"{path.name}{end}" for end in ("", *(f".{i}" for i in range(1, 1000))))
            try:
                (points / checkpoint.BAD).mkdir(exist_ok=True)
                taken = {p.name for p in (points / checkpoint.BAD).iterdir()}
                target = points / checkpoint.BAD / next(n for n in names if n not in taken)
                path.rename(target)
                log.warning("%s is damaged and lies in %s now", path.name, target.parent)
            except OSError as error:
                log.warning("%s is damaged and could not be moved aside: %s", path, error)

    def _tell_what_differs(self) -> None:
        if self.found is None:
            return
        if not self.old:
            log.warning("%s/stamp.json cannot be read: was this the same machine?", self.path)
        elif text := differs(self.old, json.loads(json.dumps(self.stamp))):
            log.warning("resumed on another machine or setting, so not bit for bit: %s", text)
            before = self.stamp["notes"].get("resumed with")
            self.stamp["notes"]["resumed with"] = text if before is None else f"{before} | {text}"

    def refused(self, what: str, step: int, error: Exception) -> None:
        """Tell once what the disk does not take, a checkpoint again after one that it took; count.

        What is refused for a reason that was told since the last checkpoint is counted alone: a
        full disk refuses everything.
        """
        why = getattr(error, "errno", None)
        known = why in self._reasons or (what in self._refused and what != "checkpoint")
        if not known:
            text = "%s at step %d not written: %s; training goes on, stamp.json counts what else"
            log.warning(text, what, step, error)
        self._reasons.add(why)
        self._unsaved |= what == "checkpoint"
        self._refused[what] = self._refused.get(what, 0) + 1
        counts = ", ".join(f"{name} {n} times" for name, n in self._refused.items())
        self.stamp["notes"]["not written"] = counts

    def status(self, status: str, step: int, **more: str) -> None:
        """Say in the stamp how the run is."""
        self.require_held(look=True)
        self.stamp.update(status=status, step=step, updated=now(), **more)
        path = self.path / "stamp.json"
        try:
            stamp.write(path, self.stamp)
        except OSError as error:
            try:
                overwrite(path, json.dumps(self.stamp, indent=2) + "\n")
            except OSError:
                self.refused("stamp.json", step, error)

    def end(self, error: BaseException | None, step: int) -> None:
        """Say how the run ended; an error before `begin` leaves no word."""
        if self.begun and not self._lock.lost:
            more = {} if error is None else {"error": f"{type(error).__name__}: {error}"}
            self.status(stopping.STATUS.get(type(error), "failed"), step, **more)
            if error is not None and type(error) not in stopping.STATUS:
                self._keep_traceback(error)

    def _keep_traceback(self, error: BaseException) -> None:
        try:
            write_text(self.path / TRACEBACK, "".join(traceback.format_exception(error)))
        except OSError as refused:
            log.warning("%s not written: %s", TRACEBACK, refused)

    def close(self) -> None:
        """Let others in; of a run that did not begin nothing is left."""
        if self._made and not self.begun:
            with suppress(OSError):
                for path in list(self.path.iterdir()):
                    if path.name == "config.json" or is_lock(path.name):
                        path.unlink(missing_ok=True)
                self.path.rmdir()
        self._lock.release()


def set_aside(path: Path) -> Path:
    """Move all that lies in a run directory to a new folder in it; return that."""
    number = next(i for i in range(1, 10**6) if not (path / f"{SET_ASIDE}-{i}").exists())
    target = path / f"{SET_ASIDE}-{number}"
    target.mkdir()
    last = {"stamp.json": 1, "config.json": 2}  # a kill in the middle leaves what can be told
    for old in sorted(path.iterdir(), key=lambda p: last.get(p.name, 0)):
        if not is_lock(old.name) and not is_aside(old):
            old.rename(target / old.name)
    log.warning("what lay in %s is in %s now", path, target)
    return target
