"""One directory, one run: configuration, stamp, metrics, timing, checkpoints."""

import json
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import torch
from torch import Tensor

from ...buffers import ReplayBuffer, shards
from . import checkpoint, stamp, stopping
from .config import RunOptions, save_config
from .progress import choose
from .writers import Writers

log = logging.getLogger("reverie")


class Run:
    """The directory of one run and everything that is written to it.

    Use as a context manager. Raises FileExistsError unless `resume` when the directory exists.
    """

    def __init__(
        self, method: str, config: Any, *, label: str, steps: int, seed: int, resume: bool = False
    ) -> None:
        options: RunOptions = config.run
        self.options, self.steps, self.label = options, steps, label
        self.path = Path(options.out) / (options.name or label)
        if self.path.exists() and not resume and any(self.path.iterdir()):
            raise FileExistsError(
                f"{self.path} exists. Continue it with `reverie {method} --resume {self.path}`, or "
                f"choose another --name or --out; nothing is overwritten."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        save_config(self.path / "config.json", method, config)
        self.step = self.previous = 0
        self._stamp: dict[str, Any] = {
            "method": method,
            "seed": seed,
            "device": options.device,
            "threads": {"torch": torch.get_num_threads(), "asked": options.threads},
            **stamp.hardware(),
            "started": _now(),
            "generation": 0,
            "notes": {},
        }
        self._shards: list[shards.Shard] = []
        self._saved_at = -1
        self._text = ""
        self._clock = time.perf_counter()
        self._clock_step = 0

    def __enter__(self) -> "Run":
        self._found = checkpoint.load(self.path / "checkpoints", self.path / "buffer")
        old = _read_json(self.path / "stamp.json")
        self._stamp["generation"] = old.get("generation", -1) + 1
        self.noted: dict[str, str] = old.get("notes", {})  # by the run before a resume
        if "started" in old:
            self._stamp["started"] = old["started"]
        self.step = self.previous = self._clock_step = self._found.step if self._found else 0
        offset = self._found.state["run"]["metrics"] if self._found else 0
        self._writers = Writers(self.path, self.options, offset, self.step if self._found else None)
        self._progress = choose(self.label, self.steps, self.step, self.options.progress)
        self._status("running")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.close()
        self._writers.close()
        if kind is None:
            self._status("finished")
        elif kind is stopping.Interrupted:
            self._status("interrupted")
        elif kind is stopping.Diverged:
            self._status("diverged", error=str(error))
        else:
            self._status("failed", error=f"{kind.__name__}: {error}")

    def note(self, **notes: str) -> None:
        """Put facts about this run (engine, routes taken) into its stamp."""
        self._stamp["notes"].update(notes)
        self._status("running")

    def _status(self, status: str, **more: str) -> None:
        self._stamp.update(status=status, step=self.step, updated=_now(), **more)
        try:
            stamp.write(self.path / "stamp.json", self._stamp)
        except OSError as error:
            log.warning("stamp.json not written: %s", error)

    @property
    def stopping(self) -> bool:
        """Whether somebody asked the run to stop."""
        return stopping.stop_asked

    def due(self, every: int) -> bool:
        """Return whether the last step crossed a multiple of `every`, or ended the run."""
        if self.step >= self.steps:
            return True
        return bool(every) and self.step // every > self.previous // every

    def tick(self, transitions: int) -> None:
        """Count environment transitions."""
        self.previous, self.step = self.step, self.step + transitions
        self._progress.update(self.step, self._text)

    def log(self, values: Mapping[str, float | Tensor], kind: str = "train") -> None:
        """Write one row of metrics.jsonl, TensorBoard and W&B: deterministic content only."""
        row = {k: float(v) for k, v in values.items()}
        self._writers.metrics(self.step, kind, row)
        if "return" in row:
            self._text = f"{kind} return {row['return']:,.1f}"

    def log_time(self) -> None:
        """Write one row of timing.jsonl: when, how fast."""
        now = time.perf_counter()
        rate = (self.step - self._clock_step) / max(now - self._clock, 1e-9)
        self._writers.timing(self.step, _now(), rate)
        self._clock, self._clock_step = now, self.step

    def restore(self, buffer: ReplayBuffer | None = None) -> dict[str, Any] | None:
        """Return the newest good checkpoint's state, None if there is none; refill `buffer`."""
        if self._found is None:
            return None
        state: dict[str, Any] = self._found.state
        self._shards, self._saved_at = self._found.shards, self._found.step
        if buffer is not None:
            total = int(state["buffer"]["total"])
            shards.read_rows(buffer, self.path / "buffer", self._shards, total)
            buffer.load_state_dict(state["buffer"])
        self._found = None
        return state

    def dump(self, state: dict[str, Any], what: str) -> NoReturn:
        """Write what led to a value that is not finite, and stop the run with `Diverged`.

        `reverie watch RUN --dump` shows the last states. Checkpoints from before are kept.
        """
        folder = self.path / "dump"
        checkpoint.save(folder, self.step, {"what": what, **state})
        raise stopping.Diverged(f"{what} at step {self.step}; dumped to {folder}")

    def save(self, state: dict[str, Any], buffer: ReplayBuffer | None = None) -> bool:
        """Write a checkpoint; return False, after one warning, when the disk refuses it."""
        if self.step == self._saved_at:
            return True
        folder = self.path / "buffer"
        state = {**state, "run": {"metrics": self._writers.metrics_size()}}
        try:
            if buffer is not None:
                generation = int(self._stamp["generation"])
                self._shards = shards.append_rows(buffer, folder, self._shards, generation)
                state["buffer"] = buffer.state_dict(rows=False)
            points = self.path / "checkpoints"
            checkpoint.save(points, self.step, state, self._shards, self.options.keep)
        except OSError as error:
            log.warning("checkpoint at step %d not written: %s; training goes on", self.step, error)
            return False
        kept = [
            s for p in checkpoint.list_checkpoints(points) for s in checkpoint.manifest_shards(p)
        ]
        shards.prune(folder, {s.name for s in kept})
        self._saved_at = self.step
        return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return data
