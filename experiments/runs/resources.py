"""What a run may use of the machine: threads and devices."""

import os

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
