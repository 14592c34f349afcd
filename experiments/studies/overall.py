"""One bar for many runs: an engine that tells how far all its jobs are together."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runs.rows import last_step
from .jobs import Job
from .pool import LocalEngine

LEAST = 0.02  # share that has to be done before what is left is guessed


class Overall:
    """Passes all on to an engine, and shows one bar of what its jobs cost together.

    `cost`: what each job's run directory counts, in any unit; `done` of `total` before it began. On
    a terminal a bar; a line every ten seconds elsewhere.
    """

    def __init__(self, inner: LocalEngine, cost: Mapping[Path, float], done: float) -> None:
        self.inner, self.cost = inner, cost
        self.ended = self.first = done
        self.total = done + sum(cost.values())
        self.start = self.told = time.monotonic()
        self.bar: Any = None

    def __enter__(self) -> "Overall":
        if sys.stderr.isatty():
            self.bar = _bar(self.total)
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.show(0.0)
            self.bar.stop()

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self.inner.submit(job)

    def poll(self) -> list[tuple[Job, int]]:
        """Start what can start; return what ended; tell how far all are."""
        ended = self.inner.poll()
        self.ended += sum(self.cost[job.path] for job, _ in ended if job.path is not None)
        self.show(10.0 if self.bar is None else 0.25)
        return ended

    def begun(self) -> list[Job]:
        """Return what has started and not ended."""
        return [job for job, _ in self.inner.running]

    def cancel(self) -> list[Job]:
        """Stop the bar, and ask what runs to save and stop."""
        if self.bar is not None:
            self.bar.stop()
        return self.inner.cancel()

    def now(self) -> float:
        """Return what was done so far, runs that go on by their last rows."""
        now = self.ended
        for job, _ in self.inner.running:
            if job.path is not None:
                share: float = last_step(job.path) / job.config.steps
                now += self.cost[job.path] * min(1.0, share)
        return now

    def show(self, every: float) -> None:
        """Tell how far all jobs are, unless less than `every` seconds ago."""
        at = time.monotonic()
        if at - self.told < every:
            return
        self.told, now = at, self.now()
        done = now - self.first
        known = done > LEAST * self.total
        left = _minutes((at - self.start) * (self.total - now) / done) if known else ""
        doing = ", ".join(_name(job) for job, _ in self.inner.running)
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=now, left=left, doing=doing)
        else:
            share = now / self.total if self.total else 1.0
            print(f"{share:4.0%}  {left:>11}  {doing}", file=sys.stderr, flush=True)


def _name(job: Job) -> str:
    """Return what a bar calls a job: suite, arm and run of its directory."""
    return "" if job.path is None else "/".join(job.path.parts[-3:])


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s left" if seconds < 100 else f"{seconds / 60:.0f} min left"


def _bar(total: float) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    bar = Progress(
        BarColumn(bar_width=32),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]:>11}"),
        TextColumn("[dim]{task.fields[doing]}"),
        console=Console(stderr=True),
        refresh_per_second=4,
        redirect_stdout=sys.stdout.isatty(),  # what goes into a file stays there
    )
    bar.add_task("", total=total, left="", doing="")
    bar.start()
    return bar
