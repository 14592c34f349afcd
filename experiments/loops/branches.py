"""Rows that are dreamt while a learner learns: branches of its own steps, by its own policy."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...agents import Policy, reset_where
from ...agents.acting import advance, over
from ...agents.dreams.starts import anywhere
from ...agents.training import digest
from ...buffers import Layout, ReplayBuffer, Transitions, concatenate
from .dreamt import BRANCH, reopen

CHOICE = 4  # steps that each dream's start is drawn from
APART = 2**20  # between the seeds of two groups of dreams, so that they share no stream


class Branches:
    """A `Source` that dreams each batch anew in the model of a run of dreamland (as MBPO).

    Dreams begin at steps of `replay` as it is then, go on under the run's masks by what `policy`
    explores then, for `BRANCH` steps at most, or the run's own `dream.horizon` if that is less.
    The model stays as its run left it. Raises ValueError as `reopen`.
    """

    def __init__(
        self, run: str, env: str | None, replay: ReplayBuffer, policy: Policy, seed: int
    ) -> None:
        r = reopen(Path(run), env)
        self.world, self.burn_in = r.world, r.config.model.burn_in
        own, longest = r.world.config.horizon, r.world.model.scales.horizon
        self.steps = min(own or BRANCH, BRANCH, longest)
        r.world.config = replace(r.world.config, features=False, horizon=self.steps)
        self.layout = Layout(r.world.obs_dim, r.world.act_dim)
        self.replay, self.policy, self.seed = replay, policy, seed
        self.drawn = 0  # groups of dreams so far

    @property
    def digest(self) -> str:
        """A digest of the model's weights: a resumed run dreams in the same one."""
        return str(digest(torch.cat([p.detach().flatten() for p in self.world.model.parameters()])))

    def sample(self, n: int) -> Transitions:
        """Return n rows of as many dreams as they need.

        Raises FloatingPointError where the model makes no sense of any start.
        """
        rows: list[Transitions] = []
        while (have := sum(len(x.reward) for x in rows)) < n:
            found = self._dream(-(-(n - have) // self.steps))
            if not len(found.reward):
                raise FloatingPointError("a world model dreams what is not finite from every step")
            rows.append(found)
        return concatenate(rows).map(lambda x: x[:n])

    def _dream(self, many: int) -> Transitions:
        """Return the rows of this many dreams, those that are finite."""
        self.world.starts = anywhere(self.replay, self.world.model, CHOICE * many, self.burn_in)
        dreams = self.world.dream(many, self.seed + self.drawn * APART)
        self.drawn += 1
        obs, rows, finite = dreams.reset(), [], []
        initial = memory = self.policy.initial_state(many)
        for _ in range(self.steps):
            action, memory = self.policy.act(obs, memory, explore=True)
            batch, valid, obs = advance(dreams, obs, action)
            memory = reset_where(over(batch, valid), memory, initial)
            rows.append(batch)
            finite.append(valid)
        there = torch.cat(finite)
        return concatenate(rows).map(lambda x: x[there])

    def state_dict(self) -> dict[str, Any]:
        """What a bit-exact continuation needs beside the replay and the policy."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.drawn = int(state["drawn"])
