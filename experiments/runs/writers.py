"""Where a run's rows go: JSON lines always, TensorBoard by default, Weights & Biases on demand."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from .board import Board
from .config import RunOptions
from .lock import now
from .rows import Growing, line, whole_size

log = logging.getLogger("reverie")


class Begun(NamedTuple):
    """The first steps of a run, and of its phases, that are still to be made."""

    step: int = 0
    inner: int = 0


def require(options: RunOptions) -> None:
    """Raise ValueError where a writer that was asked for is not installed."""
    if options.wandb is not None:
        try:
            import wandb  # noqa: F401
        except ImportError as error:
            raise ValueError("--wandb needs `pip install reverie[wandb]`") from error


class Writers:
    """The open files of a run. `refused` is told what one of them refuses; the run goes on.

    `metrics`: metrics.jsonl as the checkpoint left it; the rows after it come again.
    """

    def __init__(
        self,
        path: Path,
        options: RunOptions,
        metrics: Growing,
        begun: Begun,
        refused: Callable[[str, Exception], None],
    ) -> None:
        self._path, self._begun, self._refused = path, begun, refused
        self._metrics = metrics
        self._timing = Growing(path / "timing.jsonl", whole_size(path / "timing.jsonl"))
        self._last, self._last_step = time.perf_counter(), max(0, begun.step - 1)
        self._tensorboard = options.tensorboard
        self._boards: dict[str, Board] = {}
        self._wandb: Any = None
        if options.wandb is not None:
            import wandb

            try:
                self._wandb = wandb.init(
                    project=options.wandb, name=path.name, dir=str(path), resume="allow"
                )
            except Exception as error:
                raise RuntimeError(f"--wandb {options.wandb}: {error}") from error

    def metrics(
        self, step: int, kind: str, row: Mapping[str, float], at: tuple[int, int] | None = None
    ) -> None:
        """Write one row of what was learned or judged.

        `at`: for a row of a phase, whose `step` begins anew with each, the run's step and the steps
        of all phases: what only looks forward counts by these.
        """
        self._grow(self._metrics, {"step": step, "kind": kind, **row})
        named = {f"{kind}/{k}": v for k, v in row.items()}
        self._draw(named, step if at is None else at[1], "" if at is None else "phases")
        if self._wandb is not None:
            more = {} if at is None else {f"{kind}/step": step}
            try:
                self._wandb.log({**named, **more}, step=step if at is None else at[0])
            except Exception as error:
                self._wandb = None
                log.warning("Weights & Biases is left out from here on: %s", error)

    def timing(self, step: int) -> None:
        """Write one row of when, and how fast since the last."""
        clock = time.perf_counter()
        rate = (step - self._last_step) / max(clock - self._last, 1e-9)
        self._last, self._last_step = clock, step
        row = {"step": step, "time": now(), "steps_per_second": round(rate, 1)}
        self._grow(self._timing, row)
        self._draw({"time/steps_per_second": rate}, step)

    def _grow(self, file: Growing, row: Mapping[str, Any]) -> None:
        try:
            file.append(line(row))
        except OSError as error:
            self._refused(file.path.name, error)

    def _draw(self, values: Mapping[str, float], step: int, part: str = "") -> None:
        """Write to TensorBoard, phases in a folder of their own: their steps are others."""
        if not self._tensorboard:
            return
        try:
            if part not in self._boards:
                first = self._begun.inner if part else self._begun.step
                self._boards[part] = Board(self._path / "tensorboard" / part, first)
            self._boards[part].add(values, step)
        except OSError as error:
            self._refused("TensorBoard", error)

    def metrics_state(self, flush: bool = True) -> dict[str, Any]:
        """Return size and digest of metrics.jsonl, after flushing it to the disk."""
        if flush:
            self._metrics.sync()
        return {"size": self._metrics.size, "sha256": self._metrics.digest.hexdigest()}

    def close(self) -> None:
        """Close everything."""
        closing = [self._metrics.close, self._timing.close]
        for close in [*closing, *(board.close for board in self._boards.values())]:
            with suppress(OSError):
                close()
        if self._wandb is not None:
            try:
                self._wandb.finish()
            except Exception as error:
                log.warning("Weights & Biases did not end well: %s", error)
