"""Worlds whose context is chosen anew for every episode."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ...buffers import Transitions, concatenate
from ...envs import StepResult


class Chooser(Protocol):
    """Says what is played next, and is told what was."""

    def next(self) -> int:
        """Return the context of the next episode."""
        ...

    def ended(self, context: int, episode: Transitions) -> None:
        """Take an episode that ended there."""
        ...


class Chosen:
    """n worlds that play a chosen context in each episode; a `BatchEnv`.

    Behind world j lie those of all K contexts, rows j K to j K + K - 1 of `env`, one of which is
    simulated at a time; the others wait at the start of their next episode.
    """

    def __init__(self, env: Any, chooser: Chooser) -> None:
        self.env, self.chooser, self.k = env, chooser, len(env.contexts)
        self.num_envs, rest = divmod(env.num_envs, self.k)
        if rest:
            raise ValueError(f"{env.num_envs} worlds: expected a multiple of {self.k} contexts")
        if not hasattr(env, "active"):
            raise ValueError(
                "a context is chosen for each episode by the native engine alone, which can leave "
                "worlds out: take device and backend out of env_options"
            )
        self.obs_dim, self.act_dim, self.device = env.obs_dim, env.act_dim, env.device
        self.max_episode_steps, self.discrete = env.max_episode_steps, env.discrete
        self.restores, self.notes, self.contexts = env.restores, env.notes, env.contexts
        self._episode: list[list[Transitions]]
        self._begin()

    def _begin(self) -> None:
        self._play(torch.tensor([self.chooser.next() for _ in range(self.num_envs)]))
        self._episode = [[] for _ in range(self.num_envs)]

    def _play(self, contexts: Tensor) -> None:
        """Play these contexts [n] from now on."""
        self.playing = contexts
        self._at = torch.arange(self.num_envs) * self.k + contexts
        self.context_id, self.context = contexts, self.env.context[self._at]

    def reset(self, seed: int | None = None) -> Tensor:
        """Start a new episode in every world, of contexts chosen anew."""
        obs: Tensor = self.env.reset(seed)
        self._begin()
        return obs[self._at]

    def step(self, action: Tensor) -> StepResult:
        """Advance every world by one step; where an episode ends, the next one is chosen."""
        at, before = self._at, self.current_obs()
        every = torch.zeros(self.env.num_envs, self.act_dim)
        every[at] = action
        self.env.active = at.numpy()
        r: StepResult = self.env.step(every)
        mine = StepResult(*(x[at] for x in r))
        flags = mine.terminated.float(), mine.truncated.float()
        batch = Transitions(before, action, mine.reward, mine.final_obs, *flags)
        playing = self.playing.clone()
        for j in range(self.num_envs):
            if bool(mine.valid[j]):
                self._episode[j].append(batch.map(lambda x, j=j: x[j : j + 1]))  # type: ignore[misc]
            if bool(mine.terminated[j] | mine.truncated[j]):
                if self._episode[j]:
                    self.chooser.ended(int(playing[j]), concatenate(self._episode[j]))
                self._episode[j], playing[j] = [], self.chooser.next()
        if not torch.equal(playing, self.playing):
            self._play(playing)
        return mine._replace(obs=r.obs[self._at])

    def current_obs(self) -> Tensor:
        """Return the observations to act on next."""
        obs: Tensor = self.env.current_obs()
        return obs[self._at]

    def health(self) -> dict[str, int]:
        """Return counts for the log."""
        counts: dict[str, int] = self.env.health()
        return counts

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs, the running episodes included."""
        running = [list(concatenate(e)[:6]) if e else [] for e in self._episode]
        return {"env": self.env.state_dict(), "playing": self.playing.clone(), "running": running}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.env.load_state_dict(state["env"])
        self._play(state["playing"].clone())
        waiting = np.setdiff1d(np.arange(self.env.num_envs), self._at.numpy())
        self.env.physics.refresh(waiting)  # a start: what they derive is of no step
        self._episode = [[Transitions(*e)] if e else [] for e in state["running"]]

    def close(self) -> None:
        """Release what the worlds hold."""
        self.env.close()
