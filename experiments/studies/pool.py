"""Many runs at once, each in a process of its own: one engine for seeds and for suites."""

import dataclasses
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..runs import stopping
from ..runs.config import from_dict, read_config, save_config
from ..runs.lock import in_use
from ..runs.progress import Watch
from ..runs.sameness import changes, lasting
from .flight import Flight
from .jobs import Job, beside

log = logging.getLogger("reverie")


class Engine(Protocol):
    """Runs jobs somewhere."""

    def submit(self, job: Job) -> None:
        """Queue a job."""
        ...

    def poll(self) -> list[tuple[Job, int]]:
        """Start what can start; return what ended since, with exit status."""
        ...

    def begun(self) -> list[Job]:
        """Return what has started and not ended."""
        ...

    def cancel(self) -> list[Job]:
        """Ask what runs to save and stop, and wait for it; return what had not begun."""
        ...


def launch(job: Job, threads: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start a run as a child of this process, or go on with one that was cut.

    Its output goes beside its directory; where it has none its configuration lies in `folder`.
    """
    command = [sys.executable, "-m", "reverie", job.method]
    path = job.path
    if path is not None and job.resumable and (path / "config.json").exists():
        command += ["--resume", str(path), "--steps", str(job.config.steps)]
    else:
        if path is None:
            file = folder / f"{len(os.listdir(folder))}.json"
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():  # a run that cannot be continued starts again
                shutil.rmtree(path)
            file = beside(path, ".config.json")
        save_config(file, job.method, job.config)
        command += ["--config", str(file)]
    command += ["--threads", str(threads)]
    own: dict[str, Any] = {"env": stopping.as_child(os.environ), "start_new_session": True}
    if path is None:
        return subprocess.Popen(command, **own)
    assert job.log is not None
    with job.log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, **own)


class LocalEngine:
    """At most `parallel` processes on this machine, of `threads` threads each."""

    def __init__(self, parallel: int, threads: int) -> None:
        if parallel < 1 or threads < 1:
            raise ValueError(f"jobs and threads must be at least 1, got {parallel} and {threads}")
        self.parallel, self.threads = parallel, threads
        self.waiting: list[Job] = []
        self.running: list[tuple[Job, subprocess.Popen[bytes]]] = []
        self._told: set[Path] = set()
        self._folder = tempfile.TemporaryDirectory(prefix="reverie-")

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self.waiting.append(job)

    def poll(self) -> list[tuple[Job, int]]:
        """Start what can start; return what ended."""
        ended = [(job, p.returncode) for job, p in self.running if p.poll() is not None]
        self.running = [(job, p) for job, p in self.running if p.returncode is None]
        for job in list(self.waiting):
            if len(self.running) >= self.parallel:
                break
            if not self._held(job):
                self.waiting.remove(job)
                self.running.append((job, self._start(job)))
        return ended

    def begun(self) -> list[Job]:
        """Return what has started and not ended."""
        return [job for job, _ in self.running]

    def _held(self, job: Job) -> bool:
        """Return whether another process holds the directory, as the orphan of a killed study."""
        holder = None if job.path is None else in_use(job.path)
        if holder is not None and job.path is not None and job.path not in self._told:
            self._told.add(job.path)
            log.warning("waiting for %s, which is in use by %s", job.path, holder)
        return holder is not None

    def cancel(self) -> list[Job]:
        """Pass one SIGTERM on to every child, wait until all have saved; return who had not begun.

        A second signal meanwhile is passed on too, and stops them at once.
        """
        self._pass_on()
        try:
            self._wait()
        except KeyboardInterrupt:
            self._pass_on()
            self._wait(seconds=5)
            raise
        early = [job for job, p in self.running if p.returncode == -signal.SIGTERM]
        left, self.waiting = [*early, *self.waiting], []
        return left

    def _pass_on(self) -> None:
        for _, process in self.running:
            process.send_signal(signal.SIGTERM)

    def _wait(self, seconds: float | None = None) -> None:
        for _, process in self.running:
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()

    def _start(self, job: Job) -> subprocess.Popen[bytes]:
        return launch(job, self.threads, Path(self._folder.name))


def run_jobs(
    jobs: Sequence[Job],
    engine: Engine,
    told: Callable[[Job, int, int], None] | None = None,
    bar: bool | Flight = True,
) -> list[tuple[Job, int]]:
    """Run jobs to their end, in order; return them with their exit status as they ended.

    `told(job, status, left)` is called after each; `bar`: of all together, on a terminal, or a
    count of one's own, which elsewhere is a line now and then. Raises Interrupted, with what had
    ended, after every child has saved and stopped, when this process was asked to stop.
    """
    for job in jobs:
        engine.submit(job)
    done: list[tuple[Job, int]] = []
    flight = bar if isinstance(bar, Flight) else Flight(jobs, engine.begun)
    apart = all(job.path is not None for job in jobs)  # else they show it themselves
    seen = flight is bar or (bool(bar) and apart and sys.stderr.isatty())
    watch = Watch(flight, f"{len(jobs)} runs", seen, flight.unit)
    try:
        while len(done) < len(jobs):
            for job, status in engine.poll():
                done.append((job, status))
                flight.end(job)
                if told is not None:
                    told(job, status, len(jobs) - len(done))
            if stopping.stop_asked:
                raise stopping.Interrupted(f"{len(done)} of {len(jobs)} runs had ended")
            time.sleep(0.05)
    except BaseException as error:
        left = engine.cancel()
        if isinstance(error, stopping.Interrupted):
            raise stopping.Interrupted(f"{error}; {_how_on(jobs, left)}") from None
        raise
    finally:
        watch.close()
    return done


def train_all(sources: Sequence[tuple[str, Any, Path]], engine: Engine) -> None:
    """Train sources, each a method, a configuration and a run directory, to their end.

    Raises Interrupted where that was asked for, RuntimeError for one that failed.
    """
    done = run_jobs([Job(*source) for source in sources], engine, bar=False)
    for job, status in done:
        if status == stopping.INTERRUPTED:
            raise stopping.Interrupted(job.path)
        if status:
            raise RuntimeError(f"{job.path} ended with status {status}: see {job.log}")


def _how_on(jobs: Sequence[Job], left: Sequence[Job]) -> str:
    if all(job.path is not None for job in jobs):
        return "the same command goes on with the others"
    seeds = ",".join(str(job.config.seed) for job in left)
    begun = ["those that had begun say above how they go on"] if len(left) < len(jobs) else []
    return "; ".join([*begun, *([f"give --seeds {seeds} for the others"] if left else [])])


def require_same(job: Job) -> None:
    """Raise ValueError where another run than this one lies in the job's directory."""
    if job.path is None or not (job.path / "config.json").exists():
        return
    method, values = read_config(job.path)
    if method != job.method:
        raise ValueError(f"{job.path} is a run of {method!r}: choose another --name")
    begun = lasting(from_dict(type(job.config), values))
    if told := changes(begun, job.config):
        raise ValueError(f"{job.path} has other settings: {'; '.join(told)}; choose another --name")


def run_seeds(
    method: str, config: Any, seeds: Sequence[int], engine: Engine, named: bool = False
) -> int:
    """Run one configuration with each seed; return the exit status.

    A `run.name` gets the seed behind it. `named`: its directory is known before the run, so that
    it can go on elsewhere and the same command goes on with all. Raises Interrupted as `run_jobs`:
    every child has said how it goes on.
    """
    jobs = []
    for seed in seeds:
        name = config.run.name
        if name is None and named:
            name = f"{method}-{getattr(config, 'env', '').rpartition('/')[2]}".rstrip("-")
        name = None if name is None else f"{name}-s{seed}"
        run = dataclasses.replace(config.run, name=name)
        path = Path(run.out, str(name)) if named else None
        jobs.append(Job(method, dataclasses.replace(config, seed=seed, run=run), path))
        require_same(jobs[-1])
    done = run_jobs(jobs, engine)
    cut = [job.config.seed for job, status in done if status == stopping.INTERRUPTED]
    failed = [job.config.seed for job, status in done if status not in (0, stopping.INTERRUPTED)]
    text = f"{len(seeds) - len(failed) - len(cut)} of {len(seeds)} seeds finished"
    text += f"; stopped and saved: {sorted(cut)}" if cut else ""
    print(text + (f"; failed: {sorted(failed)}" if failed else ""))
    return 1 if failed else stopping.INTERRUPTED if cut else 0
