"""What an engine offers to the worlds that it steps."""

import os
from types import SimpleNamespace
from typing import Protocol

from .api import Array


class Physics(Protocol):
    """Steps N worlds and shows their MjData fields as live arrays [N, ...]."""

    fields: SimpleNamespace
    notes: dict[str, str]  # what the run's stamp should say of the engine

    def step(self, ctrl: Array, substeps: int) -> None:
        """Advance every world by `substeps` under `ctrl` [N, nu]."""
        ...

    def reset(self, ids: Array | None, qpos: Array, qvel: Array) -> None:
        """Put worlds `ids` (None: all) into a fresh state with these positions and velocities."""
        ...

    def get_state(self) -> Array:
        """Return a copy of the state rows [N, nstate], in mjSTATE_INTEGRATION order."""
        ...

    def set_state(self, rows: Array, ids: Array | None = None) -> None:
        """Write state rows; derived fields are stale until the next step."""
        ...

    def bad(self) -> Array | None:
        """Return a mask [N] of worlds that went bad since the last call, None if there is none."""
        ...


def affinity_threads() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
