"""Where the runs of a study go: a pool on this machine, or a Ray cluster."""

from dataclasses import dataclass
from typing import Literal

from .pool import Engine, LocalEngine

_OF_RAY = ("address", "cpus", "gpus", "store")


@dataclass(frozen=True)
class EngineOptions:
    """Where runs go."""

    jobs: int | None = None
    """runs at a time; None is 1 here, and as many as there is room for on a cluster"""
    engine: Literal["local", "ray"] = "local"
    """processes of this machine, or a Ray cluster that is there already"""
    address: str | None = None
    """of the cluster, as Ray has it: auto (the default), HOST:PORT, ray://HOST:PORT, or local to
    start one of this machine alone"""
    cpus: float | None = None
    """CPUs that a run keeps on its node; None is as many as it has threads"""
    gpus: float | None = None
    """GPUs that a run keeps on its node, 0.25 for a quarter of one"""
    store: str | None = None
    """URL through which run directories reach the nodes and come back, where they share no folder:
    s3://bucket/runs, file:///mnt/runs, or what else fsspec knows"""


def engine_of(o: EngineOptions, threads: int) -> Engine:
    """Return the engine that is asked for; ValueError for an option of the other."""
    given = [f"--{name}" for name in _OF_RAY if getattr(o, name) is not None]
    if o.engine == "local":
        if given:
            raise ValueError(f"{given[0]} is of a cluster: give --engine ray with it")
        return LocalEngine(o.jobs or 1, threads)
    if o.jobs is not None and o.jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {o.jobs}")
    from .cluster import RayEngine

    return RayEngine(
        o.address or "auto",
        threads,
        cpus=o.cpus,
        gpus=o.gpus or 0.0,
        parallel=o.jobs,
        store=o.store,
    )
