"""Do the tasks want the same of a policy? Cosines between the gradients of their values."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..networks import Critic, DeterministicActor
from .learner import OER


def trunk_gradient(critic: Critic, actor: DeterministicActor, obs: Tensor) -> Tensor:
    """Return the gradient [P] of -mean Q_1(s, mu(s)) by all layers of an actor but its last.

    `obs` [B, O]: as critic and actor see them. Nothing is cloned: the value alone speaks.
    """
    *trunk, _ = [m for m in actor.net if isinstance(m, nn.Linear)]
    loss = -critic.first(obs, actor(obs)).mean()
    parameters = [p for layer in trunk for p in layer.parameters()]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


class Conflict:
    """Critic, mu and states of each finished task; what they are kept for is a measurement."""

    def __init__(self) -> None:
        self.critics: list[Critic] = []
        self.actors: list[DeterministicActor] = []
        self.states: list[Tensor] = []  # z-scores [B, O] of the task's own data

    def add(self, learner: OER, obs: Tensor) -> None:
        """Keep what the task that ends has learned, with raw states [B, O] of its data."""
        assert learner.inner is not None
        t, policy = learner.task, learner.policy
        self.critics.append(copy.deepcopy(learner.inner.critic))
        self.actors.append(learner.mu_actor())
        self.states.append((obs - policy.mean[t]) / policy.std[t])

    def state_dict(self) -> list[Any]:
        """Weights and states of each task."""
        parts = zip(self.critics, self.actors, self.states, strict=True)
        return [(critic.state_dict(), actor.state_dict(), obs) for critic, actor, obs in parts]

    def load_state_dict(self, state: list[Any], learner: OER) -> None:
        """Continue from `state_dict`; the learner's networks are of the same shapes."""
        assert learner.inner is not None
        for critic, actor, obs in state:
            self.critics.append(copy.deepcopy(learner.inner.critic))
            self.critics[-1].load_state_dict(critic)
            self.actors.append(learner.mu_actor())
            self.actors[-1].load_state_dict(actor)
            self.states.append(obs)

    def matrix(self) -> Tensor:
        """Return C [N, N]: at mu_j, the cosine of task i's gradient with task j's own; C_jj = 1.

        Task i speaks by its critic on its own states: -Q_i(s, mu_j(s)), s of D_i.
        """
        n = len(self.actors)
        out = torch.empty(n, n)
        for j, actor in enumerate(self.actors):
            pairs = zip(self.critics, self.states, strict=True)
            wants = torch.stack([trunk_gradient(critic, actor, obs) for critic, obs in pairs])
            out[:, j] = torch.cosine_similarity(wants, wants[j : j + 1])
        return out

    def row(self) -> dict[str, float]:
        """Return what to log: each cosine, and mean and least of those between tasks."""
        c = self.matrix()
        n = len(c)
        row = {f"conflict_{i}_{j}": float(c[i, j]) for i in range(n) for j in range(n)}
        if n > 1:
            between = c[~torch.eye(n, dtype=torch.bool)]
            row |= {"conflict": float(between.mean()), "conflict_least": float(between.min())}
        return row
