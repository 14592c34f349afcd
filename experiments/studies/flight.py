"""How far many jobs are together, read from the run directories of those that are begun."""

import time
from collections.abc import Callable, Sequence

from ..runs.rows import last_step
from .jobs import Job

_EVERY = 2.0  # seconds between looks: thousands of jobs may lie on a slow disk


class Flight:
    """The steps of all jobs as one count, for a bar: those that ended, those in flight so far."""

    def __init__(self, jobs: Sequence[Job], begun: Callable[[], Sequence[Job]]) -> None:
        self.jobs, self.begun = jobs, begun
        self.steps = sum(job.config.steps for job in jobs)
        self.ended = 0  # jobs
        self._done, self._seen, self._looked = 0, 0, -_EVERY

    def end(self, job: Job) -> None:
        """Count a job as over, however it ended: nothing of it is left to do."""
        self.ended += 1
        self._done += job.config.steps
        self._looked = -_EVERY

    @property
    def step(self) -> int:
        """Steps of all jobs that are done."""
        if time.monotonic() - self._looked >= _EVERY:
            paths = [(job.path, job.config.steps) for job in self.begun()]
            self._seen = sum(min(last_step(p), n) for p, n in paths if p is not None)
            self._looked = time.monotonic()
        return int(min(self._done + self._seen, self.steps))

    @property
    def text(self) -> str:
        """How many jobs are where."""
        return f"{self.ended} of {len(self.jobs)} runs ended, {len(self.begun())} in flight"
