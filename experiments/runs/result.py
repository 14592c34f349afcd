"""What a run returns, and what a run directory gives back."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...agents.playing import Evaluation
from .config import read_config
from .rows import read_rows


@dataclass(frozen=True)
class Result:
    """A finished run: its directory, its transitions, its last evaluation."""

    path: Path
    steps: int
    evaluation: Evaluation

    @property
    def eval_return(self) -> float:
        """Mean return of the last evaluation."""
        return self.evaluation.mean


@dataclass(frozen=True)
class LoadedRun:
    """A run directory read back."""

    path: Path
    method: str
    config: dict[str, Any]
    stamp: dict[str, Any]
    rows: list[dict[str, Any]]

    def frame(self, kind: str = "eval") -> dict[str, np.ndarray[Any, Any]]:
        """Return the metrics of one kind (train, eval) as columns; `pandas.DataFrame` takes it."""
        rows = [r for r in self.rows if r["kind"] == kind]
        names = dict.fromkeys(k for r in rows for k in r if k != "kind")
        return {k: np.array([r.get(k, np.nan) for r in rows]) for k in names}


def load_run(path: str | Path) -> LoadedRun:
    """Read a run directory: configuration, stamp and metrics.

    A broken row is named in a warning, and left out. Raises ValueError for a stamp that is broken.
    """
    path = Path(path)
    method, config = read_config(path)
    return LoadedRun(path, method, config, read_stamp(path), read_rows(path / "metrics.jsonl"))


def read_stamp(path: Path) -> dict[str, Any]:
    """Return a run directory's stamp; ValueError, naming the file, where it is none."""
    file = path / "stamp.json"
    try:
        stamp = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    parts = {"status": str, "step": int}
    if not isinstance(stamp, dict) or not all(
        isinstance(stamp.get(k), t) for k, t in parts.items()
    ):
        raise ValueError(f"{file} is damaged: it does not say {', '.join(parts)}")
    return stamp
