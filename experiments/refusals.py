"""What a person is told of an error: a line of ours, or the traceback of somebody else's."""

import dis
import errno
import io
import os
import select
import site
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from ..envs.errors import how_to_get

OURS = __name__.partition(".")[0]  # the package
LIBRARIES = (  # where Python's own lines and those of installed packages lie
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    *site.getsitepackages(),
    site.getusersitepackages(),
)
UNREAD = (
    128 + 13
)  # exit status where nobody reads what is printed, as of a process that SIGPIPE ends
ADVICE = {  # what to do about an error of the system, by its number
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is a file: choose another",
    errno.EISDIR: "give a file, not a folder",
    errno.EEXIST: "choose another name",
    errno.EACCES: "choose a place that you may use, or change its permissions",
    errno.EPERM: "choose a place that you may use, or change its permissions",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "free some space, or choose another place",
    errno.EDQUOT: "free some space, or choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def refusal(error: Exception) -> str | None:
    """Return the line for an error that is ours to tell; None where its traceback is wanted.

    Ours are errors that a `raise` statement of this package made, and files and modules that our
    own lines, straight or through a library, asked for in vain. A fault in our lines, and all that
    an environment, a task or a script of somebody else's raises, is not.
    """
    trace = list(_entries(error.__traceback__))
    mine = [i for i, entry in enumerate(trace) if _ours(entry.tb_frame)]
    if not mine:
        return None
    last, beyond = trace[mine[-1]], trace[mine[-1] + 1 :]
    doors = [i for i in mine if _module(trace[i].tb_frame).startswith(f"{OURS}.envs.")]
    called = trace[doors[0] :] if doors else beyond  # by us, or through our door to simulators
    if not all(_ours(e.tb_frame) or _of_library(e.tb_frame) for e in called):
        return None
    if not beyond and _at_raise(last) and not isinstance(error, OSError):
        told = error.args[0] if isinstance(error, KeyError) and error.args else error
        return str(told)
    if doors and beyond:  # an installed simulator
        return None
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        return f"not enough memory: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        return f"{error}: {how_to_get(error.name)}"
    return None


def _entries(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _ours(frame: FrameType) -> bool:
    return _module(frame).startswith(f"{OURS}.")


def _at_raise(entry: TracebackType) -> bool:
    """Whether a `raise` statement stands where the traceback points, not a call that failed."""
    code = entry.tb_frame.f_code.co_code
    return dis.opname[code[entry.tb_lasti]] == "RAISE_VARARGS"


def _of_library(frame: FrameType) -> bool:
    """Whether a line is Python's own or an installed package's."""
    file = frame.f_code.co_filename
    return file.startswith("<frozen") or file.startswith(LIBRARIES)


def _of_system(error: OSError) -> str:
    """Return the file, what the system said, and what to do."""
    if error.errno is None or error.strerror is None:
        return str(error)
    files = [str(f) for f in (error.filename, error.filename2) if f is not None]
    advice = ADVICE.get(error.errno)
    said = f"{error.strerror}: {advice}" if advice else error.strerror
    return ": ".join([" -> ".join(files), said] if files else [said])


@contextmanager
def printing() -> Iterator[None]:
    """End without a word where nobody reads what is printed, as in `reverie list | head -1`.

    What cannot be printed for another reason is told, with status 2.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:  # it was closed before we began
                sys.stdout.flush()
    except OSError as error:
        gone = unwritable()
        for stream in gone:  # what Python prints when the process ends goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not gone:
            raise
        if isinstance(error, BrokenPipeError):
            raise SystemExit(UNREAD) from None
        print(f"reverie: standard output: {_of_system(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def unwritable() -> list[Any]:
    """Return those of standard output and error that take nothing more."""
    gone = []
    for stream in (sys.stdout, sys.stderr):
        try:
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            unread = any(event & select.POLLERR for _, event in poll.poll(0))
            stream.flush()
        except io.UnsupportedOperation:  # a notebook's, a test's: no file is behind it
            unread = False
        except OSError:
            unread = True
        except (AttributeError, ValueError):  # no stream, or a closed one
            unread = False
        if unread:
            gone.append(stream)
    return gone
