"""Files of strangers: names, kinds and sizes are looked at before anything is allocated or read."""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

SMALL = 64 << 20  # bytes that any file may ask for
RATIO = 1100  # deflate, HDF5's usual filter, makes 1,032 bytes of one at the very most
TEXT = 16 << 20  # bytes of a card

# What reading a file of a stranger may raise, and is told in one line: wrong types, missing keys,
# nested too deeply, numbers too large.
READING = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    RuntimeError,
    OverflowError,
    MemoryError,
    SafetensorError,
)


def told(error: Exception) -> str:
    """Return an error of READING as a part of one line."""
    if isinstance(error, KeyError) and error.args:
        return f"there is no {error.args[0]!r} in it"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 400 else f"{text[:400]}..."


def small_text(path: Path) -> str:
    """Return the text of a small file, a card; ValueError for a large one."""
    if (size := path.stat().st_size) > TEXT:
        raise ValueError(f"{path.name} has {size_text(size)}, a card has {size_text(TEXT)} at most")
    return path.read_text()


def size_text(size: float) -> str:
    """Return a number of bytes as people write it."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def free_memory() -> int:
    """Return the bytes that may still be allocated here, as far as the machine says."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = min(free, int(line.split()[1]) * 1024)
    limit, used = (_lines(f"/sys/fs/cgroup/memory.{x}") for x in ("max", "current"))
    if limit and used and limit[0] != "max":
        free = min(free, int(limit[0]) - int(used[0]))
    return free


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def require_room(size: int, stored: int) -> None:
    """Raise ValueError where `size` bytes cannot come of `stored` ones, or fit no memory."""
    if size > max(SMALL, RATIO * stored):
        raise ValueError(
            f"it declares {size_text(size)} of numbers in {size_text(stored)}: that is no data, "
            "and nothing was read"
        )
    if size > (free := free_memory()):
        raise ValueError(
            f"it needs {size_text(size)} of memory, and {size_text(free)} are free: take a part"
        )


def tensors_in(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return name -> (dtype, shape) of the tensors in a safetensors file, from its header alone."""
    with safe_open(path, "pt") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {k: (str(s.get_dtype()), tuple(s.get_shape())) for k, s in parts.items()}


def hdf5_text(file: Any, name: str) -> str | None:
    """Return a text attribute of an open HDF5 file, None where it has none of that name."""
    if name not in file.attrs:
        return None
    at = file.attrs.get_id(name)
    if at.shape != () or at.get_storage_size() > TEXT:
        raise ValueError(f"attribute {name!r} of shape {at.shape} is no text")
    value = file.attrs[name]
    value = value.decode() if isinstance(value, bytes) else value
    if not isinstance(value, str):
        raise ValueError(f"attribute {name!r} is no text: {type(value).__name__}")
    return value


def hdf5_arrays(group: Any, names: Iterable[str], path: Path) -> dict[str, Any]:
    """Return the arrays of these names that a group of an HDF5 file has, checked and not yet read.

    Raises ValueError for a name that leads elsewhere (a link, storage in another file), for
    anything but an array of numbers, and for sizes that the file cannot hold.
    """
    import h5py

    found, size = {}, 0
    for name in names:
        if name not in group.keys():  # noqa: SIM118  `in group` follows links
            continue
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name!r} is a link, which is not followed: copy its array here")
        part = group[name]
        if not isinstance(part, h5py.Dataset):
            raise ValueError(f"{name!r} is a {type(part).__name__.lower()}, expected an array")
        if part.external or part.is_virtual:
            raise ValueError(f"{name!r} is stored in another file: copy its array here")
        if part.shape is None or part.dtype.kind not in "fiub":
            raise ValueError(f"{name!r} holds {part.dtype}, expected numbers")
        item = part.dtype.itemsize
        chunk = (
            math.prod(part.chunks or (0,)) * item
        )  # which is read whole, however little is in it
        if chunk > max(SMALL, 2 * item * part.size):
            raise ValueError(
                f"{name!r} keeps {size_text(item * part.size)} in blocks of {size_text(chunk)}: "
                "copy it to an array of its own size"
            )
        size += part.size * (item + 8) + chunk  # as it is, as float32, packed
        found[name] = part
    require_room(size, path.stat().st_size)
    return found
