"""Telling a person how far a run is."""

import sys
import time
from typing import Any, Protocol


class Progress(Protocol):
    """Shows a run's progress."""

    def update(self, step: int, text: str) -> None:
        """Show the step and a few words."""
        ...

    def close(self) -> None:
        """Leave the terminal in order."""
        ...


class Lines:
    """A line every few seconds, for logs and pipes."""

    def __init__(self, label: str, total: int, start: int, every: float = 10.0) -> None:
        self.label, self.total, self.every = label, total, every
        self._first = self._last = time.monotonic()
        self._start = start

    def update(self, step: int, text: str) -> None:
        """Print a line when the last one is old enough."""
        now = time.monotonic()
        if now - self._last < self.every and step < self.total:
            return
        self._last = now
        rate = (step - self._start) / max(now - self._first, 1e-9)
        left = (self.total - step) / max(rate, 1e-9)
        done = f"{step:,}/{self.total:,} steps, {rate:,.0f}/s, {left:,.0f} s left"
        print(f"{self.label} {done}, {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing to tidy."""


class Bar:
    """A rich progress bar with time left, rate and last return."""

    def __init__(self, label: str, total: int, start: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.completed:,}/{task.total:,}"),
            TextColumn("{task.fields[rate]:,.0f} steps/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self._task = self._bar.add_task(label, total=total, completed=start, text="", rate=0.0)
        self._start, self._total, self._first, self._last = start, total, time.monotonic(), 0.0
        self._bar.start()

    def update(self, step: int, text: str) -> None:
        """Move the bar, at most ten times a second."""
        now = time.monotonic()
        if now - self._last < 0.1 and step < self._total:
            return
        self._last = now
        rate = (step - self._start) / max(now - self._first, 1e-9)
        self._bar.update(self._task, completed=step, text=text, rate=rate)

    def close(self) -> None:
        """Leave the finished bar on the screen."""
        self._bar.update(self._task, refresh=True)
        self._bar.stop()


class Silent:
    """Shows nothing."""

    def update(self, step: int, text: str) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing to tidy."""


def choose(label: str, total: int, start: int, show: bool) -> Progress:
    """Return a bar on a terminal, lines elsewhere, nothing when not wanted."""
    if not show:
        return Silent()
    stream: Any = sys.stderr
    return Bar(label, total, start) if stream.isatty() else Lines(label, total, start)
