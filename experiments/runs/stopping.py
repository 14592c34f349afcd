"""How a process is asked to stop, and what it says when it does."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

INTERRUPTED = 75  # exit status of a run that was told to stop and saved: EX_TEMPFAIL, try again
DIVERGED = 65  # exit status of a run that met a value that is not finite: EX_DATAERR
AT_ONCE = 130  # exit status after a second signal, 128 + SIGINT: nothing was saved
_PARENT = "REVERIE_PARENT"  # a child's environment: the process that started it
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_ORPHANED = signal.SIGUSR1  # of its own: a SIGTERM before it must not make it the second signal

stop_asked = False  # set by the signal handlers that the command line installs


def asked() -> bool:
    """Return whether somebody asked this process to stop."""
    return stop_asked


class Diverged(Exception):
    """A loss, parameter or observation is not finite; its text says which and where the dump is."""


class Interrupted(Exception):
    """The run was asked to stop and has saved; its text is the run directory, or what had ended.

    `saved`: False where the disk refused that.
    """

    def __init__(self, text: object, saved: bool = True) -> None:
        super().__init__(text)
        self.saved = saved


STATUS = {
    type(None): "finished",
    Interrupted: "interrupted",
    KeyboardInterrupt: "interrupted",  # the second signal: it goes on from an older checkpoint
    Diverged: "diverged",
}


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGINT ask the run to save and stop; a second one stops at once.

    The end of a parent that `stop_with_parent` follows asks too, however often it did before.
    """
    global stop_asked
    stop_asked = False

    def ask(number: int, frame: object) -> None:
        global stop_asked
        if stop_asked and number != _ORPHANED:
            raise KeyboardInterrupt
        stop_asked = True

    before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT, _ORPHANED)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def as_child(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child that is to stop when this process is gone."""
    return {**environment, _PARENT: str(os.getpid())}


def stop_with_parent() -> None:
    """Let the end of the process that started this one, also by SIGKILL, ask this one to stop.

    Before `stop_on_signals` it ends this process, which has begun nothing.
    """
    parent = os.environ.pop(_PARENT, None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _ORPHANED)
    if os.getppid() != int(parent):  # it was gone before this line
        os.kill(os.getpid(), _ORPHANED)
