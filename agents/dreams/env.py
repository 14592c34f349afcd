"""A world model as an environment: thousands of dreams, stepped together."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ...envs import StepResult
from ...envs.api import check_action
from ..api import State
from .api import Doubting, Prediction, WorldModel
from .config import NOISY, DreamConfig
from .scope import Varying
from .starts import Starts
from .streams import NOISE, START, Stream, child, episode_keys

log = logging.getLogger("reverie")

Ends = Callable[[Tensor], Tensor]  # whether a task ends at next_obs [N, O]: bool [N]
COUNTS = ("bad_worlds", "clipped_obs", "clipped_reward", "cut")


class DreamEnv:
    """A `BatchEnv` in a world model; dreams restart by themselves, from drawn `starts`.

    All that is drawn follows from (seed + stream, episode, step): worlds of one stream dream the
    same with equal actions, whatever their number. `streams` [N]: 0 to N - 1 unless given.
    `ends`: the task's rule, for `end="rule"`. `sigma` [O + 1]: standard deviations of the noise
    on next_obs and reward, for the scopes gstep and gep. `limit`: disagreement of an ensemble at
    which a dream is cut. Raises ValueError where the settings need what is not given.
    """

    discrete = False
    restores = True
    spaces: Any = None  # those of the real environment, for who makes it by name

    def __init__(
        self,
        model: WorldModel,
        starts: Starts,
        num_envs: int = 1,
        config: DreamConfig | None = None,
        *,
        seed: int = 0,
        streams: Sequence[int] | None = None,
        ends: Ends | None = None,
        sigma: Tensor | None = None,
        limit: float | None = None,
    ) -> None:
        self.config = c = config or DreamConfig()
        c.check()
        _require(c, model, starts, ends, sigma, limit)
        self.model, self.starts, self.num_envs = model, starts, num_envs
        self.ends, self.limit, self.sigma = ends, limit, sigma
        self.act_dim, self.device = model.act_dim, torch.device("cpu")
        self.streams = np.arange(num_envs) if streams is None else np.asarray(streams)
        if self.streams.shape != (num_envs,):
            raise ValueError(f"streams has shape {self.streams.shape}, expected ({num_envs},)")
        self._horizon = c.horizon or model.scales.horizon
        self.max_episode_steps: int | None = self._horizon
        if self._horizon > model.scales.horizon:
            log.warning(
                "a dream of %d steps in a model that was fitted to episodes of at most %d: it is "
                "guessing beyond them; horizon=%d stays within",
                self._horizon,
                model.scales.horizon,
                model.scales.horizon,
            )
        self.notes = {"engine": f"dream, {c.scope} {c.p}" if c.scope != "none" else "dream"}
        self.context_id = torch.zeros(num_envs, dtype=torch.int64)
        self.context = torch.zeros(num_envs, 0)
        self._low, self._high = model.scales.low, model.scales.high
        self._valid = torch.ones(num_envs, dtype=torch.bool)
        self._never = ~self._valid
        self.counts = dict.fromkeys(COUNTS, 0)
        self.varying = Varying(model, c, num_envs)
        self._seed = seed
        self._episode = np.full(num_envs, -1)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._keys = episode_keys(seed, self.streams, self._episode)
        self._obs = torch.empty(num_envs, model.obs_dim)
        self._state: State = self.varying.copies(model.initial_state(num_envs))
        self._offset = torch.zeros(num_envs, model.obs_dim + 1)
        self._restart(np.arange(num_envs))
        self.obs_dim = int(self.current_obs().shape[1])
        self._fresh = True  # the first reset() without a seed need not restart again

    def reset(self, seed: int | None = None) -> Tensor:
        """Start a new dream in every world; a seed goes to that seed's first ones."""
        if seed is not None:
            self._seed = seed
            self._episode[:] = -1
        if seed is not None or not self._fresh:
            self._restart(np.arange(self.num_envs))
        self._fresh = False
        return self.current_obs()

    def _restart(self, ids: np.ndarray[Any, Any]) -> None:
        """Begin the next episode of worlds `ids`: its start, and what is drawn for all of it."""
        self._episode[ids] += 1
        self._elapsed[ids] = 0
        keys = episode_keys(self._seed, self.streams[ids], self._episode[ids])
        self._keys[ids] = keys
        pool, rows = len(self.starts.obs), torch.from_numpy(ids)
        pick = (Stream(child(keys, START)).uniform(1)[:, 0] * pool).long()
        self._obs = self._obs.index_copy(0, rows, self.starts.obs[pick])
        self._state = self.varying.put(self._state, rows, [s[pick] for s in self.starts.state])
        self.varying.begin(ids, keys)
        if self.config.scope == "gep" and self.sigma is not None:
            draws = Stream(child(keys, NOISE)).normal(len(self.sigma))
            self._offset[rows] = draws * self.sigma

    def step(self, action: Tensor) -> StepResult:
        """Advance every dream by one step; finished ones restart."""
        check_action(action, self.num_envs, self.act_dim)
        draws = Stream(child(child(self._keys, NOISE), self._elapsed))
        said = self._predict(action, draws)
        next_obs, reward, valid = self._within_data(said, draws)
        self._elapsed += 1
        terminated = self._terminated(said.terminated, next_obs, draws) & valid
        truncated = torch.from_numpy(self._elapsed >= self._horizon) | ~valid
        if self.limit is not None:
            truncated = truncated | self._cut(action, self.limit)
        self._obs, self._state, self._fresh = next_obs, said.state, False
        final_obs = self.current_obs()
        ended = terminated | truncated
        if bool(ended.any()):
            self._restart(ended.nonzero()[:, 0].numpy())
            return StepResult(self.current_obs(), reward, terminated, truncated, final_obs, valid)
        return StepResult(final_obs, reward, terminated, truncated, final_obs, valid)

    def _predict(self, action: Tensor, draws: Stream) -> Prediction:
        """Ask the model under this step's masks; with several, return the mean of its answers."""
        v, c = self.varying, self.config
        masks = v.masks(self._keys, self._elapsed)
        obs, action = v.copies((self._obs, action))
        generator = v.stream(draws) if c.sample else None
        said = self.model.predict(obs, action, self._state, masks, generator)
        means = v.mean(said.next_obs), v.mean(said.reward), v.mean(said.terminated)
        return Prediction(*means, said.state)

    def _within_data(self, said: Prediction, draws: Stream) -> tuple[Tensor, Tensor, Tensor]:
        """Return what leaves the dream: next_obs, reward, and whether the model made sense."""
        out = torch.cat([said.next_obs, said.reward[:, None]], 1)
        if self.config.scope == "gstep" and self.sigma is not None:
            out = out + draws.normal(out.shape[1]) * self.sigma
        elif self.config.scope == "gep":
            out = out + self._offset
        valid = self._valid
        if not bool(torch.isfinite(out.sum())):
            valid = torch.isfinite(out).all(1)
            same = torch.cat([self._obs, torch.zeros(self.num_envs, 1)], 1)
            out = torch.where(valid[:, None], out, same)
            self.counts["bad_worlds"] += int((~valid).sum())
        if self.config.clip:
            free, out = out, out.clamp(self._low, self._high)
            beyond = free != out
            if bool(beyond.any()):
                self.counts["clipped_obs"] += int(beyond[:, :-1].any(1).sum())
                self.counts["clipped_reward"] += int(beyond[:, -1].sum())
        return out[:, :-1].contiguous(), out[:, -1].contiguous(), valid

    def _terminated(self, probability: Tensor, next_obs: Tensor, draws: Stream) -> Tensor:
        end = self.config.end
        if end == "rule" and self.ends is not None:
            return self.ends(next_obs)
        if end == "threshold":
            return probability > 0.5
        if end == "bernoulli" and bool(probability.any()):
            return draws.uniform(1)[:, 0] < probability
        return self._never

    def _cut(self, action: Tensor, limit: float) -> Tensor:
        """Return which steps [N] the members of the ensemble disagree about by too much."""
        far = cast(Doubting, self.model).disagreement(self._obs, action) > limit
        self.counts["cut"] += int(far.sum())
        return far

    def current_obs(self) -> Tensor:
        """Return the observations to act on next, with the memory's first part if asked for."""
        if self.config.features:
            return torch.cat([self._obs, self.varying.mean(self._state[0])], 1)
        return self._obs

    def health(self) -> dict[str, int]:
        """Return counts since the start: what was not finite, what was clipped, and cuts."""
        return dict(self.counts)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model; masks and noise follow from the counters."""
        return {
            "seed": self._seed,
            "episode": self._episode.copy(),
            "elapsed": self._elapsed.copy(),
            "obs": self._obs.clone(),
            "state": tuple(s.clone() for s in self._state),
            "starts": (self.starts.obs.clone(), tuple(s.clone() for s in self.starts.state)),
            "counts": dict(self.counts),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue bit for bit from `state_dict`, in the same model."""
        self._seed = int(state["seed"])
        self._episode[:] = state["episode"]
        self._elapsed[:] = state["elapsed"]
        self._obs = state["obs"].clone()
        self._state = tuple(s.clone() for s in state["state"])
        obs, memory = state["starts"]
        self.starts = Starts(obs.clone(), tuple(s.clone() for s in memory))
        self.counts = {name: int(state["counts"][name]) for name in COUNTS}
        self._keys = episode_keys(self._seed, self.streams, self._episode)
        self.varying.begin(np.arange(self.num_envs), self._keys, self._elapsed)
        if self.config.scope == "gep" and self.sigma is not None:
            self._offset = Stream(child(self._keys, NOISE)).normal(len(self.sigma)) * self.sigma
        self._fresh = False

    def close(self) -> None:
        """Nothing to release."""


def _require(
    config: DreamConfig,
    model: WorldModel,
    starts: Starts,
    ends: Ends | None,
    sigma: Tensor | None,
    limit: float | None,
) -> None:
    """Raise ValueError where the settings of a dream need what is not there."""
    scope = config.scope
    if starts.obs.shape[1:] != (model.obs_dim,):
        raise ValueError(
            f"the starts are of {starts.obs.shape[1]} observed numbers, the model of "
            f"{model.obs_dim}: it was fitted on another task"
        )
    if not model.scales.horizon:
        raise ValueError("the model was fitted to nothing: Fit(model).begin(store), then fit_step")
    if (scope == "fixed-n") != (model.fixed_masks is not None) and scope not in ("none", *NOISY):
        raise ValueError(
            f"scope {scope!r} with a model of "
            f"{0 if model.fixed_masks is None else len(model.fixed_masks)} fixed masks: scope "
            "fixed-n and ModelConfig(fixed=n) go together"
        )
    if config.end == "rule" and ends is None:
        raise ValueError("end='rule' needs the task's rule: ends=..., or end='bernoulli'")
    if scope in NOISY and (sigma is None or sigma.shape != (model.obs_dim + 1,)):
        raise ValueError(f"scope {scope!r} needs sigma [{model.obs_dim + 1}]: matched_noise(...)")
    if (limit is not None or config.zeta) and not hasattr(model, "disagreement"):
        raise ValueError("only an ensemble disagrees with itself: leave limit and zeta out")
    if config.zeta and limit is None:
        raise ValueError(f"zeta={config.zeta} needs limit=disagreement_limit(model, rows, zeta)")
    if model.members > 1 and bool(model.scales.ends) and config.end in ("bernoulli", "threshold"):
        raise ValueError(
            f"episodes of the data end, and an ensemble does not say when: end={config.end!r} "
            "would never be; give end='rule' with the task's rule, or end='never'"
        )
    if config.features and not model.initial_state(1):
        raise ValueError("features=True is the memory of a recurrent model: this one has none")
