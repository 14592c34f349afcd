"""Generated rows as sources: a store of them beside real ones, or made as they are asked for."""

from collections.abc import Mapping
from typing import Any

import torch

from ...buffers import ReplayBuffer, Source, Transitions
from ...buffers.source import Mixture
from .diffusion import Diffusion


class Rehearsed(Mixture):
    """Real rows alone until there are synthetic ones, then both (Lu et al. 2023, online)."""

    def __init__(self, real: Source, synthetic: ReplayBuffer, share: float) -> None:
        super().__init__([(real, 1 - share), (synthetic, share)])
        self.synthetic = synthetic

    def counts(self, n: int) -> list[int]:
        """Rows of each in a batch of n."""
        return super().counts(n) if len(self.synthetic) else [n, 0]


class Generated:
    """Fresh rows of a fitted generator, each handed out once; a `Source`.

    `ahead` rows are generated at a time, `batch` of them together (as published offline: 100
    batches of 256). `about`: what the generator was fit on.
    """

    def __init__(
        self,
        model: Diffusion,
        *,
        ahead: int = 25_600,
        batch: int = 2048,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        if ahead < 1 or batch < 1:
            raise ValueError(f"ahead and batch must be at least 1, got {ahead} and {batch}")
        self.model, self.ahead, self.batch = model, ahead, batch
        self.about = {**model.about, **(about or {})}
        self._pool = torch.zeros(0, model.codec.out.width)
        self._at = 0
        self._drawn = model.generator.get_state()  # from which the pool was generated

    def sample(self, n: int) -> Transitions:
        """Return the next n generated transitions."""
        if self._at + n > len(self._pool):
            self._fill(max(n, self.ahead))
        rows = self._pool[self._at : self._at + n].clone()
        self._at += n
        return self.model.codec.out.unpack(rows)

    def _fill(self, n: int) -> None:
        self._drawn = self.model.generator.get_state()
        self._pool, self._at = self.model.generate(n, self.batch), 0

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's place; the weights are their file's."""
        return {"drawn": self._drawn, "size": len(self._pool), "at": self._at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`: generate its pool again."""
        self.model.generator.set_state(state["drawn"])
        self._fill(int(state["size"]))
        self._at = int(state["at"])


class Frozen:
    """A generator that is not fitted any more, small enough to lie in a checkpoint; a `Source`.

    Its state is what it samples from: weights, statistics and its place in the draws.
    """

    def __init__(self, model: Diffusion) -> None:
        self.model = model
        self.rows = Generated(model, ahead=4096)

    def sample(self, n: int) -> Transitions:
        """Return the next n generated transitions."""
        return self.rows.sample(n)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, the statistics and the place."""
        m = self.model
        return {
            "net": m.average.state_dict(),
            "codec": m.codec.state_dict(),
            "about": m.about,
            "rows": self.rows.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what was saved, in a model of the same layout and settings."""
        self.model.average.load_state_dict(state["net"])
        self.model.codec.load_state_dict(state["codec"])
        self.model.recall(state["about"])
        self.rows.load_state_dict(state["rows"])
