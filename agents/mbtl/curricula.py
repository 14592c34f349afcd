"""Which context one learner plays next: uniformly, by what it errs on, or by what it can learn."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...buffers import Transitions
from ..losses import soft_value, td_target
from ..sac import SAC


def td_errors(agent: SAC, batch: Transitions) -> Tensor:
    """Return |TD error| [B] of transitions under SAC's mean action and the mean of its critics."""
    with torch.no_grad():
        rest = torch.zeros_like(batch.action)
        action, log_prob = agent.actor.sample(batch.next_obs, rest)
        next_q = agent.target(batch.next_obs, action)
        value = soft_value(next_q, log_prob, agent.log_alpha.exp())
        target = td_target(batch.reward, value, batch.terminated, agent.config.gamma)
        q: Tensor = agent.critic(batch.obs, batch.action)
        return (target - q.mean(-2)).abs()


class Uniform:
    """Every one of n contexts is as likely: multi-task training."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.generator = n, torch.Generator().manual_seed(seed)

    def next(self) -> int:
        """Draw the context of the next episode."""
        return self._among(torch.arange(self.n))

    def told(self, context: int, score: float) -> None:
        """Take the mean |TD error| of an episode that ended."""

    def _among(self, contexts: Tensor) -> int:
        at = torch.randint(len(contexts), (1,), generator=self.generator)
        return int(contexts[at])

    def _coin(self) -> bool:
        return bool(torch.rand(1, generator=self.generator) < 0.5)

    def state_dict(self) -> dict[str, Any]:
        """Return the generator."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.generator.set_state(state["generator"])


class Replayed(Uniform):
    """PLR (Jiang et al. 2021, arXiv:2010.03934): contexts by rank of their last score.

    Unseen contexts have half of the episodes while there are any; a share `rho` goes by how many
    episodes ago a context was played.
    """

    def __init__(self, n: int, seed: int, beta: float = 0.1, rho: float = 0.1) -> None:
        super().__init__(n, seed)
        self.beta, self.rho = beta, rho
        self.scores = torch.zeros(n, dtype=torch.float64)
        self.last = torch.zeros(n, dtype=torch.int64)  # number of its last episode; 0: unseen
        self.count = 0  # episodes

    def probabilities(self) -> Tensor:
        """Return how likely each context [n] is to be played again; 0 for the unseen."""
        seen = self.last > 0
        order = self.scores.where(seen, -torch.inf).argsort(descending=True, stable=True)
        by_score = torch.where(seen, (order.argsort() + 1.0) ** (-1 / self.beta), 0.0)
        stale = torch.where(seen, (self.count - self.last).double(), 0.0)
        by_age = stale / stale.sum() if stale.any() else seen / seen.sum()
        return (1 - self.rho) * by_score / by_score.sum() + self.rho * by_age

    def next(self) -> int:
        """Draw an unseen context, or one that was seen."""
        unseen = (self.last == 0).nonzero().flatten()
        if len(unseen) and (len(unseen) == self.n or self._coin()):
            return self._among(unseen)
        return int(torch.multinomial(self.probabilities(), 1, generator=self.generator))

    def told(self, context: int, score: float) -> None:
        """Take the mean |TD error| of an episode that ended."""
        self.count += 1
        self.scores[context], self.last[context] = score, self.count

    def state_dict(self) -> dict[str, Any]:
        """Return the generator, and what is known of contexts."""
        known = {"scores": self.scores.clone(), "last": self.last.clone(), "count": self.count}
        return {**super().state_dict(), **known}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        super().load_state_dict(state)
        self.scores, self.last = state["scores"].clone(), state["last"].clone()
        self.count = int(state["count"])


class Learnable(Uniform):
    """SFL (Rutherford et al. 2024, arXiv:2408.15099): half of the episodes where p (1 - p) is most.

    `rates`: the share p of successes on each context, at the last look.
    """

    def __init__(self, n: int, seed: int, top: int) -> None:
        super().__init__(n, seed)
        self.top, self.chosen = top, torch.empty(0, dtype=torch.int64)

    def look(self, rates: Tensor) -> None:
        """Choose the contexts by their success rates [n]; of equals the first."""
        learnability = rates * (1 - rates)
        self.chosen = learnability.argsort(descending=True, stable=True)[: self.top]

    def next(self) -> int:
        """Draw one of the chosen with probability 1/2, else any."""
        if len(self.chosen) and self._coin():
            return self._among(self.chosen)
        return super().next()

    def state_dict(self) -> dict[str, Any]:
        """Return the generator and the chosen."""
        return {**super().state_dict(), "chosen": self.chosen.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        super().load_state_dict(state)
        self.chosen = state["chosen"].clone()
