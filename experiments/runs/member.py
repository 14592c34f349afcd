"""The run directory of one member of a population: rows, stamp and policy; it saves nothing."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from . import checkpoint
from .directory import Directory
from .opening import There, read_object
from .rows import digest_of
from .writers import Begun, Writers


class Member:
    """What one learner of a population writes, as a run of its method alone would.

    What it goes on from lies in the checkpoints of its group, a run of its own.
    """

    def __init__(
        self, method: str, config: Any, group: Path, kept: Mapping[str, Any] | None = None
    ) -> None:
        """Open the directory; nothing in it changes before `begin`.

        `kept`: its `state_dict` in the group's checkpoint; None begins it. Errors as `Directory`,
        and ValueError where its rows are not those of that checkpoint.
        """
        self.config, self.path = config, Path(config.run.out, config.run.name)
        there = None
        if kept is not None:
            there = There(None, read_object(self.path / "stamp.json"), self._rows(kept))
        self.home = Directory(
            self.path, method, config, config.seed, kept is not None, group=group, there=there
        )
        self.what = None if kept is None else kept["diverged"]  # why it was stopped
        self.bad = 0 if kept is None else int(kept["bad"])  # vector steps of its bad worlds
        self.recent = [] if kept is None else [tuple(x) for x in kept["recent"]]
        self.step = 0  # of the last that it wrote
        self._writers: Writers | None = None

    def _rows(self, kept: Mapping[str, Any]) -> tuple[int, Any]:
        file, want = self.path / "metrics.jsonl", kept["rows"]
        digest = digest_of(file, int(want["size"]))
        if digest.hexdigest() != want["sha256"]:
            raise ValueError(f"a row of {file} is not as it was written; put the file back")
        return int(want["size"]), digest

    @property
    def alive(self) -> bool:
        """Whether it learns: it did not meet a value that is not finite."""
        return self.what is None

    def begin(self, step: int) -> None:
        """Write configuration and stamp, and open the files of its rows."""
        metrics, self.step = self.home.begin(step), step
        begun = Begun(step + 1) if step else Begun()
        options = self.config.run
        self._writers = Writers(self.path, options, metrics, begun, self._refuse)
        if self.what is not None:
            self.home.status("diverged", step, error=self.what)
        for path in checkpoint.list_checkpoints(self.path / "checkpoints"):
            if checkpoint.step_of(path) > step:  # of a policy that the group had not saved
                checkpoint.sweep(path)

    def _refuse(self, what: str, error: Exception) -> None:
        self.home.refused(what, self.step, error)

    def log(self, step: int, kind: str, values: Mapping[str, float | Tensor]) -> None:
        """Write one row of metrics.jsonl and TensorBoard: deterministic content only."""
        assert self._writers is not None, "the member has not begun"
        self.step = step
        self._writers.metrics(step, kind, {k: float(v) for k, v in values.items()})
        if kind == "train":
            self._writers.timing(step)

    def diverged(self, step: int, what: str, state: Mapping[str, Any]) -> None:
        """Stop the member: write what led to it, and say so in its stamp."""
        try:
            where = f"dumped to {self.home.dump(dict(state), what)}"
        except OSError as error:
            where = f"the dump was not written: {error}"
        self.what = f"Diverged: {what} at step {step}; {where}"
        self.home.status("diverged", step, error=self.what)

    def save_policy(self, step: int, agent: Mapping[str, Any]) -> None:
        """Write what `load_policy` reads; the group's checkpoint of this step is there already."""
        points = self.path / "checkpoints"
        try:
            checkpoint.save(points, (step, 0), {"agent": dict(agent)})
            checkpoint.prune(points, self.path / "buffer", 1)
        except OSError as error:
            self._refuse("checkpoint", error)
        self.home.stamp["saved"] = step
        if self.alive:
            self.home.status("running", step)

    def state_dict(self) -> dict[str, Any]:
        """Return what the group's checkpoint keeps of it."""
        assert self._writers is not None, "the member has not begun"
        try:
            rows = self._writers.metrics_state()
        except OSError as error:  # a full disk: what was written of them still counts
            self._refuse("metrics.jsonl", error)
            rows = self._writers.metrics_state(flush=False)
        return {
            "rows": rows,
            "diverged": self.what,
            "bad": self.bad,
            "recent": list(self.recent),
        }

    def close(self, error: BaseException | None, step: int) -> None:
        """Say how it ended, and let others in."""
        try:
            if self.alive:
                self.home.end(error, step)
            with suppress(OSError):
                if self._writers is not None:
                    self._writers.close()
        finally:
            self.home.close()
