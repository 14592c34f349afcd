"""What a run may use of the machine: threads, devices, memory."""

import os
from pathlib import Path

import torch

from ...envs.physics import affinity_threads


def check_device(name: str) -> None:
    """Raise ValueError, saying what there is, unless torch can use this device."""
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if name not in (*there, "cuda") or (name == "cuda" and len(there) == 1):
        raise ValueError(f"device {name!r} is not there; torch sees {', '.join(there)}")


def use_threads(threads: int | None) -> int:
    """Set torch's threads and return the number for the physics; one place for both.

    Networks of this size gain nothing beyond four threads.
    """
    n = threads or affinity_threads()
    torch.set_num_threads(min(n, 4) if threads is None else n)
    os.environ.setdefault("OMP_NUM_THREADS", str(n))  # for child processes
    return n


CGROUPS = (  # a container's limit, its use, and the line of the use that is no cache
    ("memory.max", "memory.stat", "anon"),
    ("memory/memory.limit_in_bytes", "memory/memory.stat", "total_rss"),
)


def free_memory(device: str = "cpu") -> int | None:
    """Return the bytes that may still be taken on a device; None where nobody says.

    On the host the kernel's estimate, or what a container's limit leaves if that is less.
    """
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    kernel = _numbers(Path("/proc/meminfo")).get("MemAvailable:")
    free = [] if kernel is None else [1024 * kernel]
    for limit, use, name in CGROUPS:
        most = _numbers(Path("/sys/fs/cgroup") / limit).get("")
        used = _numbers(Path("/sys/fs/cgroup") / use).get(name)
        if most is not None and used is not None:
            free.append(max(0, most - used))
    return min(free, default=None)


def _numbers(path: Path) -> dict[str, int]:
    """Return the numbers in a file of the kernel's by the words before them, {} without it."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    pairs = [(["", *words] if len(words) == 1 else words)[:2] for words in lines if words]
    return {name: int(number) for name, number in pairs if number.isdecimal()}


def require_memory(rows: int, row_bytes: int, option: str, device: str = "cpu") -> None:
    """Raise ValueError unless `rows`, as many as `option` says, fit into a device's memory."""
    free = free_memory(device)
    if free is None or rows * row_bytes <= free:
        return
    fits = int(0.8 * free / row_bytes)
    fits -= fits % 10 ** max(0, len(str(fits)) - 2)  # two digits are enough
    raise ValueError(
        f"{option}={rows:,} rows of {row_bytes:,} bytes need {rows * row_bytes / 1e9:,.1f} GB, and "
        f"{free / 1e9:,.1f} GB are free on {device}: give --{option.replace('_', '-')} {fits}"
    )
