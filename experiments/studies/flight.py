"""How far many jobs are together, read from the run directories of those that are begun."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..runs.rows import last_step
from .jobs import Job

_EVERY = 2.0  # seconds between looks: thousands of jobs may lie on a slow disk


class Flight:
    """All jobs as one count, for a bar: those that ended, those in flight so far.

    They count by their steps, or by the CPU-seconds that each run directory costs, with `done` of
    them before they began.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        begun: Callable[[], Sequence[Job]],
        cost: Mapping[Path, float] | None = None,
        done: float = 0.0,
    ) -> None:
        self.jobs, self.begun, self.cost = jobs, begun, cost
        self.unit = "steps" if cost is None else "CPU-s"
        self.ended = 0  # jobs
        self._done, self._seen, self._looked = done, 0.0, -_EVERY
        self.steps = round(done + sum(map(self._of, jobs)))

    def _of(self, job: Job) -> float:
        """Return what a job counts."""
        return float(job.config.steps if self.cost is None else self.cost[job.path])  # type: ignore[index]

    def end(self, job: Job) -> None:
        """Count a job as over, however it ended: nothing of it is left to do."""
        self.ended += 1
        self._done += self._of(job)
        self._looked = -_EVERY

    @property
    def step(self) -> int:
        """What of all jobs is done; those in flight by their last rows."""
        if time.monotonic() - self._looked >= _EVERY:
            apart = [(job.path, job) for job in self.begun() if job.path is not None]
            self._seen = sum(
                min(self._of(job) * last_step(path) / job.config.steps, self._of(job))
                for path, job in apart
            )
            self._looked = time.monotonic()
        return min(round(self._done + self._seen), self.steps)

    @property
    def text(self) -> str:
        """How many jobs are where."""
        return f"{self.ended} of {len(self.jobs)} runs ended, {len(self.begun())} in flight"
