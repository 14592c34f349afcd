"""The process that a run lives in: its threads, its signals."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..envs.physics import affinity_threads

INTERRUPTED = 75  # exit status of a run that was told to stop and saved: EX_TEMPFAIL, try again


stop_asked = False  # set by the signal handlers that the command line installs


DIVERGED = 65  # exit status of a run that met a value that is not finite: EX_DATAERR


class Diverged(Exception):
    """A loss, parameter or observation is not finite; its text says which and where the dump is."""


class Interrupted(Exception):
    """The run was asked to stop and has saved; its text is the run directory."""


def check_device(name: str) -> None:
    """Raise ValueError, saying what there is, unless torch can use this device."""
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if name not in (*there, "cuda") or (name == "cuda" and len(there) == 1):
        raise ValueError(f"device {name!r} is not there; torch sees {', '.join(there)}")


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGINT ask the run to save and stop; a second one stops at once."""
    global stop_asked
    stop_asked = False

    def ask(number: int, frame: object) -> None:
        global stop_asked
        if stop_asked:
            raise KeyboardInterrupt
        stop_asked = True

    before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def use_threads(threads: int | None) -> int:
    """Set torch's threads and return the number for the physics; one place for both.

    Networks of this size gain nothing beyond four threads.
    """
    n = threads or affinity_threads()
    torch.set_num_threads(min(n, 4) if threads is None else n)
    os.environ.setdefault("OMP_NUM_THREADS", str(n))  # for child processes
    return n
