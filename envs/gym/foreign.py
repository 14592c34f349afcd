"""Any gymnasium environment as a `BatchEnv`, whatever its autoreset mode."""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from ..api import Array, NotFiniteError, StepResult, check_action


def _width(space: spaces.Space[Any], what: str) -> int:
    if isinstance(space, spaces.Box) and space.dtype.kind in "fiub":
        return int(np.prod(space.shape))
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.Dict):
        return sum(_width(s, f"{what}[{k!r}]") for k, s in space.items())
    raise ValueError(
        f"{what} space {space} is not supported: Box, Discrete (one-hot) and Dict of these are. "
        "Wrap the environment, e.g. with gymnasium.wrappers.TransformObservation."
    )


def flatten(space: spaces.Space[Any], batch: Any, n: int) -> Array:
    """Return n batched observations of `space` as fresh float32 rows [n, O]."""
    if isinstance(space, spaces.Dict):
        return np.concatenate([flatten(s, batch[k], n) for k, s in space.items()], axis=1)
    if isinstance(space, spaces.Discrete):
        return np.eye(int(space.n), dtype=np.float32)[np.asarray(batch) - int(space.start)]
    return np.array(batch, dtype=np.float32).reshape(n, -1)


class ForeignEnv:
    """A gymnasium `VectorEnv` as a `BatchEnv`.

    Reads the declared `metadata["autoreset_mode"]`. Under NEXT_STEP the row after an episode's
    end is the reset, not a transition: its `valid` is False. Box observations are flattened,
    Dict ones concatenated, Discrete ones one-hot; Discrete actions become one-hot columns.

    Raises ValueError for a missing autoreset mode, an unsupported space, unbounded actions.
    """

    restores = False  # gymnasium has no way to save an environment's state
    device = torch.device("cpu")

    def __init__(self, env: VectorEnv[Any, Any, Any], seed: int = 0) -> None:
        mode = env.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise ValueError(
                f"{env} does not declare metadata['autoreset_mode'] (it has {mode!r}), so which "
                "observations belong to which episode is unknown. Set it to one of "
                f"{[m.name for m in AutoresetMode]}."
            )
        self.env, self.mode, self.num_envs = env, mode, env.num_envs
        self.obs_dim = _width(env.single_observation_space, "observation")
        space = env.single_action_space
        self.discrete = isinstance(space, spaces.Discrete)
        if not self.discrete and not isinstance(space, spaces.Box):
            raise ValueError(f"action space {space} is not supported: Box and Discrete are")
        self.act_dim = _width(space, "action")
        if isinstance(space, spaces.Box):
            if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
                raise ValueError(
                    f"action space {space} is unbounded, so [-1, 1] cannot be mapped to it; wrap "
                    "it with gymnasium.wrappers.RescaleAction or ClipAction"
                )
            self._low, self._high = space.low.reshape(-1), space.high.reshape(-1)
        spec = env.spec
        self.max_episode_steps = None if spec is None else spec.max_episode_steps
        self.context_id = torch.zeros(self.num_envs, dtype=torch.int64)
        self.context = torch.zeros(self.num_envs, 0)
        self.notes = {"engine": f"gymnasium {gymnasium.__version__}, {type(env).__name__}"}
        self.bad_worlds = 0
        self._seed: int | None = seed
        self._pending = np.zeros(self.num_envs, bool)  # NEXT_STEP: worlds about to restart
        self._obs = np.zeros((self.num_envs, self.obs_dim), np.float32)

    def _flat(self, obs: Any) -> Array:
        return flatten(self.env.single_observation_space, obs, self.num_envs)

    def reset(self, seed: int | None = None) -> Tensor:
        """Start a new episode in every world; the first reset uses the constructor's seed."""
        obs, _ = self.env.reset(seed=self._seed if seed is None else seed)
        self._seed = None
        self._pending[:] = False
        self._obs = self._flat(obs)
        return torch.from_numpy(self._obs.copy())

    def to_native(self, action: Array) -> Any:
        """Map actions [N, A] from [-1, 1], or one-hot, to the wrapped action space."""
        space = self.env.single_action_space
        if isinstance(space, spaces.Discrete):
            return (action.argmax(axis=1) + int(space.start)).astype(space.dtype)
        scaled = self._low + (action + 1) * 0.5 * (self._high - self._low)
        return scaled.reshape(self.num_envs, *space.shape).astype(space.dtype)

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
        space = self.env.single_observation_space
        if isinstance(space, spaces.Dict):
            rows = {k: np.stack([final[k][i] for i in ids]) for k in space}
            return flatten(space, rows, len(ids))
        return flatten(space, np.stack([final[i] for i in ids]), len(ids))

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
