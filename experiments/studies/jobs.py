"""One run to be made, as an engine takes it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


def beside(path: Path, end: str) -> Path:
    """Return a file beside a run directory: its name and `.config.json`, what it was asked to be.

    Its output is in `.log`. The name may have dots: what follows one is no suffix.
    """
    return path.with_name(path.name + end)


@dataclass(frozen=True)
class Job:
    """One run to be made: its method, its resolved configuration, its directory.

    `path` None leaves the directory's name to the run, and its output on this terminal.
    """

    method: str
    config: Any
    path: Path | None = None
    resumable: bool = True

    @property
    def log(self) -> Path | None:
        """Where its output goes; None for this terminal."""
        return None if self.path is None else beside(self.path, ".log")
