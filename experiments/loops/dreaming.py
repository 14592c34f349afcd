"""A world model and the dreams in it, as a run fits, keeps and reopens them."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...agents.dreams.config import NOISY, DreamConfig, ModelConfig
from ...agents.dreams.data import episodes, held_out, store_of
from ...agents.dreams.env import DreamEnv, Ends
from ...agents.dreams.fit import Fit
from ...agents.dreams.measure import disagreement_limit, matched_noise
from ...agents.dreams.models import build
from ...agents.dreams.starts import Starts, anywhere, initial
from ...agents.seeding import stream_seed
from ...buffers import ReplayBuffer
from ...envs import BatchEnv, StepResult

POOL = 4096  # starts that dreams are drawn from


class World:
    """A world model with its fit, and what a dream in it needs beside its settings.

    Raises ValueError for settings that no model or dream can have.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        model: ModelConfig,
        dream: DreamConfig,
        *,
        ends: Ends | None = None,
        seed: int = 0,
    ) -> None:
        dream.check()
        self.config, self.ends, self.seed = dream, ends, seed
        self.obs_dim, self.act_dim = obs_dim, act_dim
        self.model = build(obs_dim, act_dim, model, seed=stream_seed(seed, "world model"))
        if dream.features and not model.recurrent:
            raise ValueError(
                f"dream.features are the memory of a recurrent model, {model.kind} has none: "
                "model.kind=gru, or lstm"
            )
        self.fit = Fit(self.model, seed=stream_seed(seed, "world model fit"))
        self.rounds = 0  # fits that dreams were opened after
        self.starts = Starts(torch.zeros(0, obs_dim), self.model.initial_state(0))
        self.sigma = torch.zeros(0)  # of the noise in place of masks
        self.limit = 0.0  # of the ensemble's disagreement
        self._trial: DreamEnv | None = None

    @property
    def features(self) -> int:
        """How many numbers of the model's memory an observation is told beside."""
        return int(self.model.initial_state(1)[0].shape[1]) if self.config.features else 0

    def open(self, data: ReplayBuffer, where: str, burn_in: int) -> None:
        """Take from the data what dreams in the fitted model need: starts, noise, a limit."""
        c, held = self.config, judged_store(data, self.fit.config.held_out)
        rows = data.layout.unpack(held.rows())
        anew = where == "anywhere"
        drawn = anywhere(data, self.model, POOL, burn_in) if anew else None
        self.starts = drawn or initial(data, self.model, POOL)
        if c.scope in NOISY:
            noise = stream_seed(self.seed, "matched noise") % 2**62
            self.sigma = matched_noise(self.model, rows, c.p, seed=noise)
        if c.zeta:
            self.limit = disagreement_limit(self.model, rows, c.zeta)  # type: ignore[arg-type]
        self.rounds += 1
        self._trial = None

    def dream(self, num_envs: int, seed: int = 0, streams: Sequence[int] | None = None) -> DreamEnv:
        """Return dreams in the model as it is; ValueError before it was fitted."""
        c = self.config
        sigma = self.sigma if c.scope in NOISY else None
        limit = self.limit if c.zeta else None
        more: dict[str, Any] = {"ends": self.ends, "sigma": sigma, "limit": limit}
        starts = self.starts
        return DreamEnv(self.model, starts, num_envs, c, seed=seed, streams=streams, **more)

    def trial(self, each: int, times: int) -> DreamEnv:
        """Return the dreams of judging: `each` of them, `times` over; the same until `open`."""
        if self._trial is None or self._trial.num_envs != each * times:
            self._trial = self.dream(each * times, streams=list(range(each)) * times)
        return self._trial

    def state_dict(self) -> dict[str, Any]:
        """The model, its fit, and what dreams begin with."""
        return {
            "fit": self.fit.state_dict(),
            "rounds": self.rounds,
            "starts": (self.starts.obs, self.starts.state),
            "noise": (self.sigma, self.limit),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`, with the same settings."""
        self.fit.load_state_dict(state["fit"])
        self.rounds = int(state["rounds"])
        self.starts = Starts(*state["starts"])
        self.sigma, self.limit = state["noise"][0], float(state["noise"][1])
        self._trial = None


class Dream:
    """Dreams in a world that is yet to be fitted: a `BatchEnv` once it is opened.

    `reopen` begins new ones in the model as it is then. Before, it only shows its shape.
    """

    discrete = False
    restores = True

    def __init__(
        self,
        world: World,
        num_envs: int,
        seed: int = 0,
        streams: Sequence[int] | None = None,
        notes: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.world, self.num_envs, self.seed, self.streams = world, num_envs, seed, streams
        self.obs_dim, self.act_dim = world.obs_dim + world.features, world.act_dim
        self.device = torch.device("cpu")
        self.context_id = torch.zeros(num_envs, dtype=torch.int64)
        self.context = torch.zeros(num_envs, 0)
        c, model = world.config, world.fit.config
        told = f"{model.kind}, p_train {model.p_train}, {c.scope}, p {c.p}"
        self.notes = {**notes, "dreams": told}  # beside what is noted of the real worlds
        self.inner: DreamEnv | None = None
        self.max_episode_steps: int | None = None  # before there are any

    def reopen(self) -> None:
        """Begin new dreams in the model as it is now."""
        self.inner = self.world.dream(self.num_envs, self.seed, self.streams)
        self.max_episode_steps = self.inner.max_episode_steps

    @property
    def open(self) -> DreamEnv:
        """The dreams; ValueError before `reopen`."""
        if self.inner is None:
            raise ValueError("nothing is dreamt in a world model that was not fitted yet")
        return self.inner

    def reset(self, seed: int | None = None) -> Tensor:
        """Start a new dream in every world; zeros before there are any."""
        return self.inner.reset(seed) if self.inner else self.current_obs()

    def step(self, action: Tensor) -> StepResult:
        """Advance every dream by one step; finished ones restart."""
        return self.open.step(action)

    def current_obs(self) -> Tensor:
        """Return the observations to act on next; zeros before there are any."""
        return self.inner.current_obs() if self.inner else torch.zeros(self.num_envs, self.obs_dim)

    def health(self) -> dict[str, int]:
        """Return counts since the dreams were opened."""
        return self.inner.health() if self.inner else {}

    def state_dict(self) -> dict[str, Any]:
        """The world and the dreams in it."""
        dreams = self.inner.state_dict() if self.inner else None
        return {"world": self.world.state_dict(), "dreams": dreams}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue bit for bit from `state_dict`."""
        self.world.load_state_dict(state["world"])
        self.inner = None
        if state["dreams"] is not None:
            self.reopen()
            self.open.load_state_dict(state["dreams"])

    def close(self) -> None:
        """Nothing to release."""


def judged_store(data: ReplayBuffer, share: float) -> ReplayBuffer:
    """Return the episodes that a fit holds out; all of them where it holds out none."""
    parts = episodes(data)
    chosen = held_out(parts.name, share)
    return store_of(data.layout, parts, chosen if share else ~chosen)


def rule_of(env: BatchEnv, config: DreamConfig) -> Ends | None:
    """Return a task's own rule of its ends, where a dream asks for it.

    Raises ValueError for worlds whose observations do not say that they end.
    """
    if config.end != "rule":
        return None
    task, p = getattr(env, "task", None), getattr(env, "p", None)
    says = task is not None and (task.terminated is None or task.terminated_from_obs is not None)
    if task is None or p is None or not says or p.per_world:
        raise ValueError(
            "dream.end=rule: the observations do not say when an episode ends, for a task of ours "
            "in one context they may; dream.end=bernoulli learns it"
        )
    if task.terminated is None:
        return lambda next_obs: torch.zeros(len(next_obs), dtype=torch.bool)
    return lambda x: torch.from_numpy(task.terminated_from_obs(np, x.double().numpy(), p))
