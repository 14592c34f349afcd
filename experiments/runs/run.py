"""One run: what its loop counts, writes, saves and gets back."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from torch import Tensor

from ...agents.playing import Evaluation, Stopped
from ...buffers import Transitions, columns
from . import stopping
from .config import RunOptions
from .directory import Counts, Directory, Stores
from .phase import Phase
from .progress import Watch
from .writers import Begun, Writers, require

T = TypeVar("T")


class Run:
    """The directory of one run and everything that is written to it.

    Use as a context manager, and load what was saved inside `restored`. Errors as `Directory`.
    """

    def __init__(
        self, method: str, config: Any, *, label: str, steps: int, seed: int, resume: bool = False
    ) -> None:
        options: RunOptions = config.run
        self.options, self.steps, self.label = options, steps, label
        self.path = Path(options.out) / (options.name or label)
        self._opening = (method, config, seed, resume)
        self.step = self.previous = 0
        self.inner = 0  # steps of all phases so far
        self.in_phase: Phase | None = None
        self.inside: dict[str, int] = {}  # how far each phase of this step is
        self.owed = False  # the step is made, what follows it is not: the run was stopped there
        self.text = ""  # a few words for the progress bar
        self.after_save: Callable[[], None] = lambda: None  # what else is written of a checkpoint
        self._opened = ExitStack()

    def __enter__(self) -> "Run":
        if self.stopping:  # nothing is touched: another process may be about to go on with it
            raise Stopped("told to stop before the run began")
        require(self.options)
        self.home = Directory(self.path, *self._opening)
        self.step, self.previous, self.inner, self.owed, phases = self.home.kept
        self.inside = dict(phases)
        self._saved_at = (self.step, self.inner, self.owed) if self.home.found else None
        return self

    @contextmanager
    def restored(self, stores: Stores | None = None) -> Iterator[dict[str, Any] | None]:
        """Give the newest good checkpoint's state, None if there is none, with `stores` refilled.

        Only when the block, which loads that state, has ended without an error is anything written.
        """
        found = self.home.found
        try:
            yield self.home.refill(stores or {})
        except Exception as error:
            if found is None or isinstance(error, MemoryError):
                raise
            raise ValueError(
                f"{found.path} is whole and does not fit this run, so nothing was changed: "
                f"{type(error).__name__}: {error}"
            ) from error
        metrics = self.home.begin(self.step)
        begun = Begun() if found is None else Begun(self.step + 1, self.inner + 1)
        refused = lambda what, error: self.home.refused(what, self.step, error)  # noqa: E731
        self._writers = Writers(self.path, self.options, metrics, begun, refused)
        self._opened.callback(self._writers.close)
        self._watch = Watch(self, self.label, self.options.progress)
        self._opened.callback(self._watch.close)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.home.end(error, self.step)  # before what may fail
            self._opened.close()
        finally:
            self.home.close()

    @property
    def stopping(self) -> bool:
        """Whether somebody asked the run to stop."""
        return stopping.stop_asked

    def crossed(self, every: int) -> bool:
        """Return whether the last step crossed a multiple of `every`; 0 has none."""
        return bool(every) and self.step // every > self.previous // every

    def due(self, every: int) -> bool:
        """Return whether the last step crossed a multiple of `every`, or ended the run."""
        return self.step >= self.steps or self.crossed(every)

    def tick(self, transitions: int) -> None:
        """Count environment transitions, or gradient steps: the script's STEP."""
        self.previous, self.step = self.step, self.step + transitions
        self.inside.clear()

    @contextmanager
    def phase(self, name: str, steps: int) -> Iterator[Phase]:
        """Count work inside a step: its own bar, rows and `due`, while `step` stands still.

        A checkpoint says how far each phase of the step was: `phase.step` goes on from there.
        """
        self.in_phase = Phase(self, name, steps, self.inside.get(name, 0))
        self._watch.push(self.in_phase, f"{self.label} {name}")
        try:
            yield self.in_phase
        finally:
            self._watch.pop()
            self.in_phase = None

    def log(
        self, values: Mapping[str, float | Tensor], kind: str = "train", step: int | None = None
    ) -> None:
        """Write one row of metrics.jsonl, TensorBoard and W&B: deterministic content only."""
        self.home.require_held()
        row = {k: float(v) for k, v in values.items()}
        at = None if step is None else (self.step, self.inner)
        self._writers.metrics(self.step if step is None else step, kind, row, at)
        if kind == "train":
            self._writers.timing(self.step)
        if "return" in row:
            self.text = f"{kind} return {row['return']:,.1f}"

    def after_step(
        self,
        judge: Callable[[], Any],
        row: Callable[[], Mapping[str, float | Tensor]],
        state: Callable[[], dict[str, Any]],
        stores: Stores | None = None,
        told: Callable[[Any], Mapping[str, float]] = Evaluation.row,
    ) -> Any:
        """Judge, write (as `told`) and save, each when due; return what `judge` gave, else None.

        A stop inside an evaluation leaves it to the resumed run: nothing is written before it.
        """
        judged = None
        if self.due(self.options.eval_every):
            with self.interruptible(state, stores):
                judged = judge()
        if self.due(self.options.log_every):
            self.log(row())
        if judged is not None:
            self.log(told(judged), kind="eval")
        self.keep(state, stores)
        return judged

    def final(self, judged: T | None, judge: Callable[[], T]) -> T:
        """Return the last evaluation, played again by a run that was resumed at its end."""
        if judged is None:
            with self.interruptible():
                judged = judge()
        return judged

    @contextmanager
    def interruptible(
        self,
        state: Callable[[], dict[str, Any]] | None = None,
        stores: Stores | None = None,
        *,
        owed: bool = True,
    ) -> Iterator[None]:
        """Save and stop where what is done inside was told to stop; it is done again then.

        `owed`: the step is made, and what is inside follows it; False where it is the step itself,
        whose `state` is from before it. None is for what leaves no trace: there is nothing to save.
        """
        try:
            yield
        except Stopped:
            saved = True
            if state is not None:
                self.owed = owed
                saved = self.save(state(), stores)
            raise stopping.Interrupted(self.path, saved) from None

    def keep(self, state: Callable[[], dict[str, Any]], stores: Stores | None = None) -> None:
        """Save when a checkpoint is due, or when asked to stop: Interrupted, after saving."""
        counter = self.in_phase or self
        self.owed = self.in_phase is not None
        if counter.due(self.options.checkpoint_every) or self.stopping:
            saved = self.save(state(), stores)
            if self.stopping and counter.step < counter.steps:
                raise stopping.Interrupted(self.path, saved)

    def save(self, state: dict[str, Any], stores: Stores | None = None) -> bool:
        """Write a checkpoint; return False, after one warning, when the disk refuses it."""
        at = (self.step, self.inner, self.owed)
        if at == self._saved_at:
            return True
        counts = Counts(self.step, self.previous, self.inner, self.owed, dict(self.inside))
        try:
            metrics = self._writers.metrics_state()
            self.home.save(counts, state, stores or {}, self.options.keep, metrics)
        except OSError as error:
            self.home.refused("checkpoint", self.step, error)
            return False
        self._saved_at = at
        self.after_save()
        return True

    def require_finite(
        self,
        metrics: Mapping[str, Tensor],
        state: Callable[[], dict[str, Any]],
        batch: Transitions | None = None,
    ) -> None:
        """Stop with a dump if a metric is not finite; reading one is a sync on a GPU."""
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            fields = {} if batch is None else columns(batch)
            self.dump({**state(), "batch": fields}, f"{', '.join(bad)} not finite")

    def dump(self, state: dict[str, Any], what: str) -> NoReturn:
        """Write what led to a value that is not finite, and stop the run with `Diverged`.

        `reverie watch RUN --dump` shows the last states. Checkpoints from before are kept.
        """
        try:
            where = f"dumped to {self.home.dump(state, what)}"
        except OSError as error:
            where = f"the dump was not written: {error}"
        raise stopping.Diverged(f"{what} at step {self.step}; {where}")
