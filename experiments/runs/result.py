"""What a run returns, and what a run directory gives back."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...agents.playing import Evaluation
from .config import read_config


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
    """Read a run directory: configuration, stamp and metrics."""
    path = Path(path)
    method, config = read_config(path)
    stamp = json.loads((path / "stamp.json").read_text())
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return LoadedRun(path, method, config, stamp, [json.loads(line) for line in lines])
