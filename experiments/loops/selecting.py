"""Sources trained as a selector asks for them: what it is told, and the library that they make."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...agents.api import Policy
from ...agents.mbtl import Selector, scores
from ...agents.mbtl.library import Library, Row, play_row
from ...agents.mbtl.worth import served_held_out
from ...agents.playing import EVAL_SEED, Evaluation
from . import scripted, transfer
from .transfer import Job, Trainer


class Selection:
    """A selector, the trainer of what it asks for, and the rows and actors so far, as one state.

    Returns are as the task gives them; the selector is told them in units, `low` 0 and `high` 1.
    """

    def __init__(
        self, c: Any, selector: Selector, trainer: Trainer, bounds: tuple[float, float]
    ) -> None:
        self.c, self.selector, self.trainer, self.bounds = c, selector, trainer, bounds
        self.rows: list[Tensor] = []  # [E, N] of each source trained, in the order of picks
        self.actors: list[Any] = []

    def more(self) -> Sequence[Job]:
        """Return the next sources: as many as are trained at once."""
        left = self.selector.pending or self.selector.ask(self.c.batch)
        return [Job(context, self.c.seed) for context in left]

    def tell(self, job: Job, row: Row, actor: Any) -> None:
        """Take what a source earned, and what acts."""
        low, high = self.bounds
        self.rows.append(row.each)
        self.actors.append(actor)
        self.selector.tell(job.context, (row.returns - low) / (high - low))

    def judge(self, stop: Callable[[], bool]) -> Evaluation:
        """Return what each context earns from the policy that is best, of those in training too.

        Which that is, one half of the episodes says, and the other half what it earns.
        """
        t, n = self.trainer, len(self.selector.contexts)
        policies = [policy_of(self.c, actor) for actor in t.actors()]
        now = [play_row(p, t.scored, n, seed=EVAL_SEED, stop=stop) for p in policies]
        rows = [*(Row(each, 0) for each in self.rows), *now]
        best = served_held_out(torch.stack([row.halves for row in rows], 1))
        extra = {"worst_decile": scores.worst_decile(best[None])}
        returns = best[:, None].numpy()
        return Evaluation(returns, np.zeros(returns.shape, np.int64), extra)

    def row(self) -> dict[str, Any]:
        """Return what to log: of the training, and of the sources so far."""
        out = {**self.trainer.row(), "sources": len(self.rows)}
        out["evaluation_steps"] = self.trainer.judged
        if self.rows:
            rows = torch.stack([each.mean(0) for each in self.rows])
            out["context"] = self.selector.picks[-1]
            out["own_return"] = float(rows[-1, self.selector.picks[-1]])
            out["performance"] = scores.performance(rows)
        return out

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs."""
        agent = {
            "selector": self.selector.state_dict(),
            "rows": list(self.rows),
            "actors": list(self.actors),
            "obs_dim": self.trainer.scored.obs_dim,
            "training": [] if self.actors else self.trainer.actors(),  # cut in the first
        }
        return {"agent": agent, "trainer": self.trainer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; the trainer's buffer is refilled before."""
        agent = state["agent"]
        self.selector.load_state_dict(agent["selector"])
        self.rows, self.actors = list(agent["rows"]), list(agent["actors"])
        self.trainer.load_state_dict(state["trainer"])


def policy_of(c: Any, actor: Mapping[str, Any]) -> Policy:
    """Return the policy of a source's actor."""
    module = transfer if c.learner in transfer.LEARNERS else scripted
    policy: Policy = module.policy_of(c, actor)
    return policy


def library_of(c: Any, agent: Mapping[str, Any]) -> Library:
    """Return the library of a saved run, each context served by the source that earned most.

    Raises ValueError where no source has been begun.
    """
    actors = list(agent["actors"])
    if actors:
        serves = scores.best_rows(torch.stack([each.mean(0) for each in agent["rows"]])).tolist()
    else:
        actors = list(agent["training"])[:1]
        serves = [0]
    if not actors:
        raise ValueError("no source has been trained yet: there is nothing to play")
    return Library([policy_of(c, actor) for actor in actors], serves)
