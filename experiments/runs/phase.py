"""Work inside a step: a fit, a distillation, a generation of synthetic rows."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from .directory import Stores


class Phase:
    """Counts its own steps while the run's stand still; a checkpoint inside it says how far it is.

    `while fit.step < fit.steps:` do the work, then `fit.advance(row, state)`.
    """

    def __init__(self, run: Any, name: str, steps: int, begun: int) -> None:
        self.run, self.name, self.steps = run, name, steps
        self.step = self.previous = begun
        self.text = ""

    def tick(self, steps: int) -> None:
        """Count steps of the phase."""
        self.previous, self.step = self.step, self.step + steps
        self.run.inner += steps
        self.run.inside[self.name] = self.step

    def due(self, every: int) -> bool:
        """Return whether the last step crossed a multiple of `every`, or ended the phase."""
        if self.step >= self.steps:
            return True
        return bool(every) and self.step // every > self.previous // every

    def advance(
        self,
        row: Mapping[str, float | Tensor],
        state: Callable[[], dict[str, Any]],
        stores: Stores | None = None,
        *,
        write: bool = False,
    ) -> None:
        """Count a step; write its row and save, each when due. `write`: the row is due anyway.

        Raises Diverged after a dump for a written row that is not finite, and what `Run.keep` does.
        """
        self.tick(1)
        if write or self.due(self.run.options.log_every):
            self.run.require_finite(row, state)
            self.log(row)
        self.run.keep(state, stores)

    def log(self, values: Mapping[str, float | Tensor]) -> None:
        """Write a row of the phase's own kind and step; `run_step` says inside which step it is."""
        self.run.log({"run_step": self.run.step, **values}, kind=self.name, step=self.step)
