"""Trained sources as policies: what each earns on every context, and a library of them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...envs import BatchEnv
from ..api import Policy, State, no_memory
from ..playing import evaluate, never


class Row(NamedTuple):
    """What a policy earned on N contexts, and what it cost to see."""

    each: Tensor  # [E, N] float64: of single episodes
    steps: int  # environment steps
    short: Tensor | None = None  # [E, N]: what a snapshot of early in its training earned

    @property
    def returns(self) -> Tensor:
        """Means [N] over the episodes of each context."""
        return self.each.mean(0)

    @property
    def halves(self) -> Tensor:
        """Means [2, N] over every other episode: one half can choose, the other score."""
        if len(self.each) < 2:
            raise ValueError("one episode of each context has no halves: score 2 or more")
        return torch.stack([self.each[::2].mean(0), self.each[1::2].mean(0)])


def play_row(
    policy: Policy,
    env: BatchEnv,
    n: int,
    *,
    seed: int,
    stop: Callable[[], bool] = never,
    value: Callable[[Tensor], Tensor] = lambda returns: returns,
) -> Row:
    """Return the row of a policy from one batch of E worlds of each of n contexts.

    World i plays context i mod n, one episode. `value`: what counts of returns [E, n], by default
    they themselves. Raises Stopped as `evaluate`.
    """
    judged = evaluate(policy, env, seed=seed, stop=stop)
    each = value(torch.from_numpy(judged.returns[:, 0]).view(-1, n))
    return Row(each, int(judged.lengths.sum()))


class Library:
    """Policies, and which of them serves each of N contexts; a `Policy` for the contexts' worlds.

    Row i of the observations is of a world of context i mod N, as worlds with contexts lie: a
    single observation is of context 0. `policies[serves[context]]` is the policy of one.
    """

    def __init__(self, policies: Sequence[Policy], serves: Sequence[int]) -> None:
        self.policies, self.serves = list(policies), list(serves)
        if not self.policies or not set(self.serves) <= set(range(len(self.policies))):
            raise ValueError(f"{len(self.policies)} policies cannot serve as {self.serves} says")

    initial_state = no_memory

    def act(self, obs: Tensor, state: State = (), *, explore: bool = False) -> tuple[Tensor, State]:
        """Return actions [M, A] for observations [M, O], each by the policy of its context.

        Every policy in use acts on all rows, as it did where its own row of returns was played.
        """
        which = torch.tensor(self.serves)[torch.arange(len(obs)) % len(self.serves)]
        out: Tensor | None = None
        for k in sorted(set(self.serves[: len(obs)])):
            action, _ = self.policies[k].act(obs, explore=explore)
            out = action if out is None else torch.where((which == k)[:, None], action, out)
        assert out is not None, "no observations"
        return out, state
