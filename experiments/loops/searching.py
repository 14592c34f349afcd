"""Black-box searches, of one controller or several: all their candidates in one batch."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...agents.candidates import population_returns
from ...agents.controllers import Controller
from ...agents.playing import SEED_STRIDE, never
from ...agents.search import Search
from ...envs import BatchEnv
from ..runs.directory import Stores
from ..runs.run import Run


class Searching:
    """K searches, each for a controller, in the same batch of worlds, as one state.

    World (k P + p) E + e plays episode e of candidate p of search k: `streams_of`.
    """

    def __init__(
        self,
        controller: Controller,
        searches: Sequence[Search],
        env: BatchEnv,
        seed: int,
    ) -> None:
        self.controller, self.searches, self.env, self.seed = controller, searches, env, seed
        self.returns = torch.zeros(0)  # [K, P, E] of the last generation
        self.generations = 0
        self.more: dict[str, Any] = {}  # further parts with a state, by name: a script's own
        self.stores: Stores = {}  # buffers of such parts

    @property
    def best(self) -> Tensor:
        """Parameters [K, D] that the searches stand at."""
        return torch.stack([search.best for search in self.searches])

    def begin(self, run: Run) -> None:
        """Go on from the newest checkpoint, if there is one."""
        run.home.note(**self.env.notes)
        with run.restored(self.stores) as state:
            if state is not None:
                self.load_state_dict(state)

    def restart(self) -> None:
        """Nothing goes on from one generation to the next."""

    def row(self) -> dict[str, Any]:
        """Return what to log of the last generation: over all, and each search's best, meant."""
        means = self.returns.mean(2)
        return {"return": means.mean(), "best_return": means.amax(1).mean(), **self.env.health()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs, between two generations."""
        searches = [search.state_dict() for search in self.searches]
        return {
            "agent": {"searches": searches, "best": self.best},
            "env": self.env.state_dict(),
            "returns": self.returns,
            "generations": self.generations,
            "more": {name: part.state_dict() for name, part in self.more.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        for search, saved in zip(self.searches, state["agent"]["searches"], strict=True):
            search.load_state_dict(saved)
        self.env.load_state_dict(state["env"])
        self.returns, self.generations = state["returns"], int(state["generations"])
        for name, part in self.more.items():
            part.load_state_dict(state["more"][name])


def streams_of(searches: int, population: int, episodes: int) -> list[int]:
    """Return the stream of each world: a search's candidates share theirs, searches do not."""
    each = np.tile(np.arange(episodes), population)
    return [int(x) for k in range(searches) for x in k * episodes + each]


def steps(run: Run, s: Searching, config: Any, first: Callable[[], Any] = never) -> Iterator[None]:
    """Play generations until `config.steps` steps of each search; yield after each generation.

    An episode counts with its full length. `first` as `offpolicy.steps`. Raises Interrupted after
    saving, Diverged after a dump when a parameter or a return is not finite.
    """
    s.begin(run)
    first()
    if run.owed:  # only what follows the generation is left of it
        yield
    k = len(s.searches)
    while run.step < config.steps:
        before = s.state_dict()  # to ask is to draw
        candidates = torch.cat([search.ask() for search in s.searches])
        episodes = s.env.num_envs // len(candidates)
        seed = s.seed * SEED_STRIDE + s.generations * k * episodes
        with run.interruptible(before.copy, s.stores, owed=False):
            returns = population_returns(
                s.env, s.controller, candidates, seed, lambda: run.stopping
            )
        s.returns = returns.view(k, -1, episodes)
        for search, told in zip(s.searches, s.returns, strict=True):
            search.tell(told.mean(1))
        s.generations += 1
        run.tick(s.env.num_envs // k * (s.env.max_episode_steps or 1))
        if not bool(torch.isfinite(s.best).all() & torch.isfinite(returns).all()):
            batch = {"candidates": candidates, "returns": returns, "best": s.best}
            run.dump(
                {"batch": batch, "env": s.env.state_dict()}, "parameters or returns not finite"
            )
        yield
