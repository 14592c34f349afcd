"""Any gymnasium environment as a `BatchEnv`, whatever its autoreset mode."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces, wrappers
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.wrappers import vector
from torch import Tensor

from ..api import Array, NotFiniteError, StepResult, check_action
from ..spaces import Actions, Leaf, Spaces, flatten


def leaves(space: spaces.Space[Any], at: tuple[Any, ...] = ()) -> tuple[Leaf, ...]:
    """Return how an observation of `space` becomes a row; ValueError for one that cannot."""
    if isinstance(space, spaces.Box) and space.dtype.kind in "fiub":
        return (Leaf(at, tuple(space.shape)),)
    if isinstance(space, spaces.Discrete):
        return (Leaf(at, (), int(space.n), int(space.start)),)
    if isinstance(space, spaces.Dict):
        return tuple(leaf for k, s in space.items() for leaf in leaves(s, (*at, k)))
    raise ValueError(
        f"observation space {space}{f' at {list(at)}' if at else ''} is not supported: Box, "
        "Discrete (one-hot) and Dict of these are. Where you register the environment, turn it "
        "into a Box: gymnasium.wrappers.FlattenObservation(env), or TransformObservation"
    )


def actions(space: spaces.Space[Any]) -> Actions:
    """Return how rows in [-1, 1], or one-hot, become actions of `space`."""
    if isinstance(space, spaces.Discrete):
        return Actions((), str(space.dtype), n=int(space.n), start=int(space.start))
    if isinstance(space, spaces.Box) and space.dtype.kind in "fiub":
        low, high = (tuple(np.ravel(x).tolist()) for x in (space.low, space.high))
        return Actions(tuple(space.shape), str(space.dtype), low, high)
    raise ValueError(
        f"action space {space} is not supported: Box and Discrete are. Where you register the "
        "environment, give it one: gymnasium.wrappers.TransformAction(env, function, space)"
    )


def describe(observation: spaces.Space[Any], action: spaces.Space[Any]) -> Spaces:
    """Return what an environment with these gymnasium spaces gives and takes."""
    return Spaces(leaves(observation), actions(action))


def layers(env: Any) -> Iterator[Any]:
    """Yield an environment's wrappers from the outside in, and itself; of a vector its world 0."""
    while True:
        yield env
        if isinstance(env, (VectorWrapper, gymnasium.Wrapper)):
            env = env.env
        elif isinstance(env, VectorEnv) and getattr(env, "envs", None):
            env = env.envs[0]
        else:
            return


def played_space(env: VectorEnv[Any, Any, Any]) -> spaces.Space[Any]:
    """Return the space of the actions to play: an environment's own, or what ClipAction clips to.

    ClipAction declares every number an action; the bounds lie in the layer beneath it.
    """
    space = None
    for layer in layers(env):
        if space is not None and _space(layer) != space:
            break  # the layer above maps actions of its own to this one's
        clips = isinstance(layer, (wrappers.ClipAction, vector.ClipAction))
        space = _space(layer.env if clips else layer)
    return space


def _space(layer: Any) -> Any:
    return layer.single_action_space if isinstance(layer, VectorEnv) else layer.action_space


def running_statistics(env: Any) -> list[str]:
    """Name the wrappers, from the outside in, that normalise by statistics of what they saw.

    Gymnasium's hold a RunningMeanStd; others are known by a mean, a spread and a count.
    """
    found = []
    for layer in layers(env):
        held = getattr(layer, "__dict__", {})
        wraps = isinstance(layer, (gymnasium.Wrapper, VectorWrapper))
        own = [x for x in held.values() if not isinstance(x, (gymnasium.Env, VectorEnv))]
        parts = [getattr(x, "__dict__", {}) for x in own]
        if any(_moments(part) for part in ([held, *parts] if wraps else parts)):
            found.append(type(layer).__name__)
    return found


def _moments(held: Mapping[str, Any]) -> bool:
    names = {str(k).lower().strip("_").split("_")[-1] for k in held}
    return {"mean", "count"} <= names and bool(names & {"var", "variance", "std", "m2"})


class ForeignEnv:
    """A gymnasium `VectorEnv` as a `BatchEnv`.

    Reads the declared `metadata["autoreset_mode"]`. Under NEXT_STEP the row after an episode's
    end is the reset, not a transition: its `valid` is False. Box observations are flattened,
    Dict ones concatenated, Discrete ones one-hot; Discrete actions become one-hot columns, and
    `spaces` says how. `notes["statistics"]` names wrappers that carry running statistics.

    Raises ValueError for a missing autoreset mode, an unsupported space, unbounded actions.
    """

    restores = False  # gymnasium has no way to save an environment's state
    device = torch.device("cpu")

    def __init__(self, env: VectorEnv[Any, Any, Any], seed: int = 0) -> None:
        mode = env.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise ValueError(
                f"{env} does not declare metadata['autoreset_mode'] (it has {mode!r}), so which "
                "observations belong to which episode is unknown. Set it to what it does: "
                f"gymnasium.vector.AutoresetMode.{', '.join(m.name for m in AutoresetMode)}"
            )
        self.env, self.mode, self.num_envs = env, mode, env.num_envs
        action = played_space(env)
        self.spaces = describe(env.single_observation_space, action)
        self.obs_dim, self.act_dim = self.spaces.obs_dim, self.spaces.action.width
        self.discrete = isinstance(action, spaces.Discrete)
        spec = env.spec
        self.max_episode_steps = None if spec is None else spec.max_episode_steps
        self.context_id = torch.zeros(self.num_envs, dtype=torch.int64)
        self.context = torch.zeros(self.num_envs, 0)
        self.notes = {"engine": f"gymnasium {gymnasium.__version__}, {type(env).__name__}"}
        if names := running_statistics(env):
            self.notes["statistics"] = ", ".join(names)
        self.bad_worlds = 0
        self._seed: int | None = seed
        self._pending = np.zeros(self.num_envs, bool)  # NEXT_STEP: worlds about to restart
        self._obs = np.zeros((self.num_envs, self.obs_dim), np.float32)

    def _flat(self, obs: Any) -> Array:
        return flatten(self.spaces.observation, obs)

    def reset(self, seed: int | None = None) -> Tensor:
        """Start a new episode in every world; the first reset uses the constructor's seed."""
        obs, _ = self.env.reset(seed=self._seed if seed is None else seed)
        self._seed = None
        self._pending[:] = False
        self._obs = self._flat(obs)
        return torch.from_numpy(self._obs.copy())

    def to_native(self, action: Array) -> Any:
        """Map actions [N, A] from [-1, 1], or one-hot, to the wrapped action space."""
        return self.spaces.action.to_native(action)

    def step(self, action: Tensor) -> StepResult:
        """Advance every world by one step of the wrapped environment."""
        values = check_action(action, self.num_envs, self.act_dim)
        obs, reward, terminated, truncated, infos = self.env.step(self.to_native(values))
        terminated, truncated = np.array(terminated, bool), np.array(truncated, bool)
        reward = np.array(reward, np.float32)
        ended = terminated | truncated
        valid = ~self._pending
        if "bad_world" in infos:  # one of our own tasks behind gymnasium's door
            gone = np.asarray(infos["bad_world"], bool) & valid
            self.bad_worlds += int(gone.sum())
            valid &= ~gone
        flat = self._flat(obs)
        final = flat.copy()
        if ended.any():
            ids = np.flatnonzero(ended)
            if self.mode is AutoresetMode.SAME_STEP:
                final[ids] = self._final_rows(infos, ids)
            elif self.mode is AutoresetMode.DISABLED:
                again, _ = self.env.reset(options={"reset_mask": ended})
                flat[ids] = self._flat(again)[ids]
        if self.mode is AutoresetMode.NEXT_STEP:
            self._pending = ended
        bad = ~np.isfinite(final).all(axis=1) | ~np.isfinite(reward)
        if bad.any():
            world = int(np.flatnonzero(bad)[0])
            raise NotFiniteError(
                f"world {world} of {self.env.spec.id if self.env.spec else self.env} returned a "
                f"non-finite observation or reward: {final[world].tolist()}, {reward[world]}"
            )
        self._obs = flat
        return StepResult(
            torch.from_numpy(flat.copy()),
            torch.from_numpy(reward),
            torch.from_numpy(terminated),
            torch.from_numpy(truncated),
            torch.from_numpy(final),
            torch.from_numpy(valid),
        )

    def _final_rows(self, infos: dict[str, Any], ids: Array) -> Array:
        if "final_obs" not in infos:
            raise ValueError(
                f"{self.env} declares SAME_STEP but gave no infos['final_obs'] when worlds "
                f"{ids.tolist()} ended, so their last transition is unknown"
            )
        final = infos["final_obs"]
        if not isinstance(final, Mapping):  # an array of whole observations
            return np.stack([flatten(self.spaces.observation, final[i]) for i in ids])
        rows = []
        for leaf in self.spaces.observation:
            part: Any = final
            for key in leaf.at:
                part = part[key]
            rows.append(replace(leaf, at=()).rows(np.stack([part[i] for i in ids])))
        return np.concatenate(rows, axis=1)

    def current_obs(self) -> Tensor:
        """Return the observations to act on next."""
        return torch.from_numpy(self._obs.copy())

    def health(self) -> dict[str, int]:
        """Return counts for the log."""
        return {"bad_worlds": self.bad_worlds}

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a continued run restarts this environment at a reset and says so."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore; the caller resets instead (see `restores`)."""

    def close(self) -> None:
        """Close the wrapped environment."""
        self.env.close()
