"""Where a run's rows go: JSON lines always, TensorBoard by default, Weights & Biases on demand."""

import json
import logging
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from .config import RunOptions

log = logging.getLogger("reverie")


class Writers:
    """The open files of a run. A disk that refuses a row is told, and the run goes on."""

    def __init__(self, path: Path, options: RunOptions, offset: int, step: int) -> None:
        self._last, self._last_step = time.perf_counter(), step
        self._metrics = (path / "metrics.jsonl").open("ab", buffering=0)
        os.truncate(self._metrics.fileno(), offset)  # rows after the checkpoint come again
        self._timing = (path / "timing.jsonl").open("ab", buffering=0)
        self._board: Any = None
        if options.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(path / "tensorboard"), purge_step=step or None)
        self._wandb: Any = None
        if options.wandb is not None:
            try:
                import wandb
            except ImportError as error:
                raise ValueError("--wandb needs `pip install reverie[wandb]`") from error
            self._wandb = wandb.init(
                project=options.wandb, name=path.name, dir=str(path), resume="allow"
            )

    def metrics(self, step: int, kind: str, row: Mapping[str, float]) -> None:
        """Write one row of what was learned or judged."""
        self._append(self._metrics, {"step": step, "kind": kind, **row})
        if self._board is not None:
            for key, value in row.items():
                self._board.add_scalar(f"{kind}/{key}", value, step)
        if self._wandb is not None:
            self._wandb.log({f"{kind}/{k}": v for k, v in row.items()}, step=step)

    def timing(self, step: int) -> None:
        """Write one row of when, and how fast since the last."""
        now = time.perf_counter()
        rate = (step - self._last_step) / max(now - self._last, 1e-9)
        self._last, self._last_step = now, step
        when = datetime.now(UTC).isoformat(timespec="seconds")
        self._append(self._timing, {"step": step, "time": when, "steps_per_second": round(rate, 1)})
        if self._board is not None:
            self._board.add_scalar("time/steps_per_second", rate, step)

    def _append(self, file: IO[bytes], row: Mapping[str, Any]) -> None:
        try:
            file.write(json.dumps(row).encode() + b"\n")
        except OSError as error:
            log.warning("%s at step %s not written: %s", file.name, row["step"], error)

    def metrics_size(self) -> int:
        """Return the bytes of metrics.jsonl, after flushing them to the disk."""
        os.fsync(self._metrics.fileno())
        return os.fstat(self._metrics.fileno()).st_size

    def close(self) -> None:
        """Close everything."""
        for file in (self._metrics, self._timing):
            file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()
