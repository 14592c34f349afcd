"""Telling a person how far a run is: a thread that reads its counters now and then."""

import sys
import threading
import time
from contextlib import suppress
from typing import Any, Protocol


class Counter(Protocol):
    """What a bar reads: a run, or a phase of one."""

    @property
    def step(self) -> int:
        """Steps that are done."""
        ...

    @property
    def steps(self) -> int:
        """Steps in all."""
        ...

    @property
    def text(self) -> str:
        """What else there is to say."""
        ...


class Line:
    """How far one counter is, and how fast."""

    def __init__(self, counter: Counter, label: str, unit: str) -> None:
        self.counter, self.label, self.unit = counter, label, unit
        self._first, self._start = time.monotonic(), counter.step
        self.task: Any = None  # of a rich bar

    @property
    def rate(self) -> float:
        """Steps per second since the start."""
        return (self.counter.step - self._start) / max(time.monotonic() - self._first, 1e-9)

    @property
    def pace(self) -> str:
        """How fast, and by that how long it takes still; nothing before a step is done."""
        c, rate = self.counter, self.rate
        left = f", {(c.steps - c.step) / rate:,.0f} s left" if rate > 0 else ""
        return f"{rate:,.{1 if rate < 10 else 0}f}/s{left}"

    def __str__(self) -> str:
        """Return the line of a log."""
        c = self.counter
        return f"{self.label} {c.step:,}/{c.steps:,} {self.unit}, {self.pace}, {c.text}"


class Watch:
    """A rich bar on a terminal, a line every few seconds elsewhere, nothing when not wanted.

    Phases lie on top of the run: `push` and `pop`.
    """

    def __init__(self, counter: Counter, label: str, show: bool, unit: str = "steps") -> None:
        stream: Any = sys.stderr
        self._unit, self._bar = unit, _bar(unit) if show and stream.isatty() else None
        self._lines: list[Line] = []
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.push(counter, label)
        if show:
            every = 10.0 if self._bar is None else 0.25
            self._thread = threading.Thread(target=self._go, args=(every,), daemon=True)
            self._thread.start()

    def push(self, counter: Counter, label: str) -> None:
        """Watch this counter until `pop`."""
        line = Line(counter, label, self._unit)
        if self._bar is not None:
            line.task = self._bar.add_task(
                label, total=counter.steps, completed=counter.step, text="", pace=""
            )
        self._lines.append(line)

    def pop(self) -> None:
        """Go back to the counter before."""
        line = self._lines.pop()
        if self._bar is not None:
            self._bar.remove_task(line.task)

    def _go(self, every: float) -> None:
        while not self._ended.wait(every):
            self._show()

    def _show(self) -> None:
        line = self._lines[-1]
        if self._bar is None:
            with suppress(OSError):  # nobody reads it any more, or a full disk: the run goes on
                print(line, file=sys.stderr, flush=True)
        else:
            c = line.counter
            self._bar.update(line.task, completed=c.step, text=c.text, pace=line.pace)

    def close(self) -> None:
        """Show the end, and leave the terminal in order."""
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._show()
        if self._bar is not None:
            self._bar.stop()


def _bar(unit: str) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=16),
        TextColumn("{task.completed:,}/{task.total:,} " + unit),
        TextColumn("{task.fields[pace]}"),
        TextColumn("{task.fields[text]}"),
        console=Console(stderr=True),
        refresh_per_second=4,
        redirect_stdout=sys.stdout.isatty(),  # what goes into a file stays there
    )
    bar.start()
    return bar
