"""Ray as an engine: each job of a pool on a node that has room, and on another when that is lost.

A job is what the local pool runs: `launch` starts it on the node as a process of its own, which
writes into its run directory. A node that is gone takes nothing with it but the steps since the
newest checkpoint: the same job, submitted again, goes on from that.
"""

import dataclasses
import logging
import math
import os
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..runs import stopping
from ..runs.lock import in_use
from . import stores
from .jobs import Job
from .pool import launch

log = logging.getLogger("reverie")
LOST_AT_MOST = 20  # times that a job is submitted again: beyond that it is the job
PUSH_EVERY = 10.0  # seconds between copies of a run directory into a store
PUSHES = 6  # tries to copy what a run ended with
_LOOK = 0.1  # seconds between looks at a child
_TAIL = 2_000  # characters of a failed job's output that come back


class Seat:
    """An actor on a node, for a job at a time: it starts the process, waits, passes stops on."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.stops = 0

    def node(self) -> str:
        """Return the name of the machine; who hears it knows that the seat is taken."""
        return socket.gethostname()

    def run(self, job: Job, threads: int, place: "Place") -> tuple[int, str]:
        """Run the job to its end; return its exit status and the end of its output."""
        while in_use(place.path(job)) is not None and not self.stops:
            time.sleep(_LOOK)  # what is left of the job on a lost node saves and stops
        if self.stops:
            return stopping.INTERRUPTED, ""
        job, mirror = place.settle(job)
        assert job.path is not None and job.log is not None
        begun = job.log.stat().st_size if job.log.exists() else 0
        with tempfile.TemporaryDirectory(prefix="reverie-") as folder:
            self.process = launch(job, threads, Path(folder))
            if self.stops:  # while it was started
                self.process.terminate()
            status = self._wait(job, mirror)
        with job.log.open("rb") as output:
            output.seek(max(begun, job.log.stat().st_size - _TAIL))
            return status, output.read().decode(errors="replace")

    def _wait(self, job: Job, mirror: stores.Mirror | None) -> int:
        assert self.process is not None and job.path is not None
        pushed = time.monotonic()
        while self.process.poll() is None:
            time.sleep(_LOOK)
            if mirror is not None and time.monotonic() - pushed >= PUSH_EVERY:
                try:
                    mirror.push(job.path)
                except Exception as error:  # of the store: the run goes on, the next copy has it
                    log.warning("%s was not copied: %s", job.path, error)
                pushed = time.monotonic()
        for left in range(PUSHES, 0, -1) if mirror is not None else ():
            try:
                mirror.push(job.path)  # type: ignore[union-attr]
                break
            except Exception:
                if left == 1:
                    raise
                time.sleep(PUSH_EVERY)
        return int(self.process.returncode)

    def stop(self) -> None:
        """Ask the run to save and stop; a second time, to stop at once."""
        self.stops += 1
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()


@dataclass(frozen=True)
class Place:
    """Where a job's files lie: the folder of who asked for it, or a store."""

    cwd: str
    store: str | None

    def key(self, job: Job) -> str:
        """Return what a run is called in the store: its path from where one stood."""
        assert job.path is not None
        return os.path.relpath(job.path.absolute(), self.cwd).replace("../", "")

    def path(self, job: Job) -> Path:
        """Return where a run lies on this node."""
        assert job.path is not None
        if self.store is None:
            return job.path
        return Path(tempfile.gettempdir(), "reverie-runs", self.key(job))

    def settle(self, job: Job) -> tuple[Job, stores.Mirror | None]:
        """Return the job as this node runs it, its files fetched, and what copies them back."""
        assert job.path is not None
        if self.store is None:
            if not Path(self.cwd).is_dir():
                told = "machines that share no folder need --store"
                raise FileNotFoundError(f"{socket.gethostname()} has no {self.cwd}: {told}")
            os.chdir(self.cwd)
            return job, None
        key = self.key(job)
        path = self.path(job)
        stores.fetch(self.store, key, path)
        run = dataclasses.replace(job.config.run, out=str(path.parent), name=path.name)
        config = dataclasses.replace(job.config, run=run)
        return Job(job.method, config, path, job.resumable), stores.Mirror(self.store, key)


class Taken(NamedTuple):
    """A job that is on the cluster: its actor, and what is still to come from it."""

    job: Job
    actor: Any
    node: Any
    result: Any


class RayEngine:
    """Jobs on a Ray cluster, of `cpus` and `gpus` each, as many at a time as have room.

    `address` as Ray has it: auto, HOST:PORT, or local for a cluster of this machine alone. With
    `store`, a URL of fsspec, run directories are copied to the nodes and back; without one, nodes
    see the folder of this process under its name. Raises ConnectionError where no cluster is,
    ModuleNotFoundError without Ray.
    """

    def __init__(
        self,
        address: str = "auto",
        threads: int = 1,
        *,
        cpus: float | None = None,
        gpus: float = 0.0,
        parallel: int | None = None,
        store: str | None = None,
    ) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            told = "ray is not installed: pip install 'reverie[cluster]'"
            raise ModuleNotFoundError(told) from None
        if threads < 1 or gpus < 0 or (cpus is not None and cpus <= 0):
            raise ValueError(f"threads={threads}, cpus={cpus}, gpus={gpus}: give numbers above 0")
        self.ray, self.threads, self.parallel = ray, threads, parallel
        self.place = Place(os.getcwd(), store)
        self.needs = {"num_cpus": float(threads) if cpus is None else cpus, "num_gpus": gpus}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        self.waiting: list[Job] = []
        self.taken: list[Taken] = []
        self.idle: list[Any] = []  # seats whose job has ended: the next starts no process
        self.lost: dict[Path, int] = {}  # how often each job was
        self._room, self._looked = 0, -math.inf

    def submit(self, job: Job) -> None:
        """Queue a job; ValueError where it has no directory, without which it could not go on."""
        if job.path is None:
            raise ValueError(f"a job of {job.method} needs a directory")
        if self.place.store is not None and job.path.exists():
            mirror = stores.Mirror(self.place.store, self.place.key(job))
            here = max((p.name for p in (job.path / stores.POINTS).glob("step-*")), default="")
            if here >= mirror.newest():  # else the store has what a node went on to
                mirror.push(job.path)
        self.waiting.append(job)

    def room(self) -> int:
        """Return how many jobs may be on the cluster: what has room, and one that waits for it."""
        if self.parallel is not None:
            return self.parallel
        if time.monotonic() - self._looked > 2:
            there = self.ray.cluster_resources()
            cpus, gpus = self.needs["num_cpus"], self.needs["num_gpus"]
            rooms = [there.get("CPU", 0.0) / cpus]
            rooms += [there.get("GPU", 0.0) / gpus] if gpus else []
            if min(rooms) < 1 and self._room != 1:
                log.warning("no node has room for %s CPUs and %s GPUs: waiting", cpus, gpus)
            self._room, self._looked = int(min(rooms)) + 1, time.monotonic()
        return self._room

    def poll(self) -> list[tuple[Job, int]]:
        """Hand out what has room; return what ended."""
        room, refs = self.room(), [t.result for t in self.taken]
        ready = self.ray.wait(refs, num_returns=len(refs), timeout=0)[0] if refs else []
        ended: list[tuple[Job, int]] = []
        for t in [t for t in self.taken if t.result in ready]:
            self.taken.remove(t)
            status = self._status(t)
            if status is None:
                self.waiting.insert(0, t.job)
            else:
                ended.append((t.job, status))
                self.idle.append(t.actor)
        while self.waiting and len(self.taken) < room:
            self._take(self.waiting.pop(0))
        self._give_back()
        return ended

    def _give_back(self) -> None:
        """Let go of seats that no job waits for."""
        for actor in self.idle:
            self.ray.kill(actor)
        self.idle = []

    def _seat(self) -> Any:
        return self.ray.remote(Seat).options(max_concurrency=3, **self.needs).remote()

    def begun(self) -> list[Job]:
        """Return what has started, or waits for room on the cluster, and has not ended."""
        return [t.job for t in self.taken]

    def _take(self, job: Job) -> None:
        assert job.path is not None
        actor = self.idle.pop() if self.idle else self._seat()
        absolute = Job(job.method, job.config, job.path.absolute(), job.resumable)
        result = actor.run.remote(absolute, self.threads, self.place)
        self.taken.append(Taken(job, actor, actor.node.remote(), result))

    def _status(self, t: Taken) -> int | None:
        """Return the exit status of what has ended; None where its node was lost meanwhile."""
        job, errors = t.job, self.ray.exceptions
        assert job.path is not None
        try:
            status, text = self.ray.get(t.result)
        except errors.RayTaskError as error:
            log.error("%s: %s", job.path, error.cause)
            return 1
        except errors.RayError as error:
            with suppress(Exception):  # where it was only out of reach
                self.ray.kill(t.actor)
            why = str(error).strip().partition("\n")[0]
            return self._again(job.path, f"on a node that is lost ({type(error).__name__}: {why})")
        self._fetch(job)
        if status == stopping.INTERRUPTED and not stopping.stop_asked:
            return self._again(job.path, "stopped where it ran, not by us")
        if status not in (0, stopping.INTERRUPTED):
            log.error("%s ended with status %d:\n%s", job.path, status, text)
        return int(status)

    def _again(self, path: Path, what: str) -> int | None:
        """Return None for a job to be handed out again, 1 for one that was too often."""
        self.lost[path] = self.lost.get(path, 0) + 1
        if self.lost[path] > LOST_AT_MOST:
            log.error(
                "%s was %s, the last of %d times: it is given up", path, what, self.lost[path]
            )
            return 1
        log.warning("%s was %s; it goes on elsewhere", path, what)
        return None

    def cancel(self) -> list[Job]:
        """Ask what runs to save and stop, and wait for it; return what had not begun.

        A second signal meanwhile is passed on too, and stops them at once.
        """
        begun = [t for t in self.taken if self.ray.wait([t.node], timeout=0)[0]]
        left = [t.job for t in self.taken if t not in begun]
        for t in self.taken:
            if t not in begun:
                self.ray.kill(t.actor)
        left, self.waiting, self.taken = [*left, *self.waiting], [], begun
        self._pass_on()
        try:
            self._wait(None)
        except KeyboardInterrupt:
            self._pass_on()
            self._wait(5.0)
            raise
        return left

    def _pass_on(self) -> None:
        for t in self.taken:
            t.actor.stop.remote()

    def _wait(self, seconds: float | None) -> None:
        refs = [t.result for t in self.taken]
        until = math.inf if seconds is None else time.monotonic() + seconds
        while refs and time.monotonic() < until:  # in pieces: a signal is heard between two
            refs = self.ray.wait(refs, num_returns=len(refs), timeout=0.2)[1]
        for t in self.taken:
            if t.result not in refs:
                self._fetch(t.job)
        self.taken = []

    def _fetch(self, job: Job) -> None:
        """Bring what a store has of a run to where it was asked for."""
        if self.place.store is not None:
            assert job.path is not None
            stores.fetch(self.place.store, self.place.key(job), job.path)
