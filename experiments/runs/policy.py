"""A trained policy as it is handed to people."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...agents import Policy
from ...envs import BatchEnv, Spaces, make, spaces_of
from ...envs.contexts import parse_contexts, spaced
from ...envs.make import OPENERS, noted
from ...envs.shown import ContextShown


class LoadedPolicy:
    """A trained policy, for what its environment gives: one observation or a batch of them.

    `act(obs)` returns actions in [-1, 1], `native(obs)` those that a gymnasium environment takes.
    `policy` is the `Policy` of rows [N, O] in it, `config` the run's. It can be sent to another
    process. Raises ValueError for a policy that does not act.
    """

    def __init__(
        self, policy: Policy, obs_dim: int, config: dict[str, Any], spaces: Spaces | None = None
    ) -> None:
        self.policy, self.obs_dim, self.config = policy, obs_dim, config
        trial, _ = policy.act(torch.zeros(1, obs_dim), policy.initial_state(1), explore=False)
        if trial.ndim != 2 or len(trial) != 1 or not bool(torch.isfinite(trial).all()):
            raise ValueError(f"for one row of {obs_dim} zeros this policy acts {trial.tolist()}")
        self.act_dim = int(trial.shape[1])
        self._spaces: Spaces | None = None
        if spaces is not None:
            self.spaces = spaces

    @property
    def spaces(self) -> Spaces:
        """What its environment gives and takes: kept by the run, else asked of the environment.

        Set it, `policy.spaces = reverie.envs.spaces_of(env)`, where neither is there.
        """
        if self._spaces is None:
            name = str(self.config.get("env"))
            if ":" in name:
                raise ValueError(
                    f"the run did not keep what {name} gives and takes, and its module is not "
                    "imported unasked: set policy.spaces = reverie.envs.spaces_of(reverie.make("
                    f"{name!r}))"
                )
            env = world(self.config, 1)
            self.spaces = spaces_of(env)
            env.close()
        assert self._spaces is not None
        return self._spaces

    @spaces.setter
    def spaces(self, spaces: Spaces) -> None:
        widths = (spaces.obs_dim, spaces.action.width)
        if widths != (self.obs_dim, self.act_dim):
            raise ValueError(
                f"the spaces have {widths[0]} columns of observations and {widths[1]} of actions, "
                f"the policy {self.obs_dim} and {self.act_dim}"
            )
        self._spaces = spaces

    def act(self, obs: Any, *, explore: bool = False) -> Any:
        """Return actions [*lead, A] in [-1, 1] for observations; lead is () for one of them.

        Observations are as the environment gives them (arrays, dicts, integers) or rows
        [*lead, O]; tensors give a tensor, anything else an array, and never more than the actions.
        Raises ValueError for other shapes, and for a policy with a memory: `.policy` returns that.
        """
        rows = self._rows(obs)
        flat = torch.from_numpy(rows.reshape(-1, self.obs_dim))
        if self.policy.initial_state(len(flat)):
            raise ValueError("this policy has a memory: play it by .policy, which returns it too")
        action, _ = self.policy.act(flat, explore=explore)
        action = action.cpu().reshape(*rows.shape[:-1], self.act_dim)
        return action if isinstance(obs, Tensor) else action.numpy()

    def native(self, obs: Any, explore: bool = False) -> Any:
        """Return actions in the environment's own units, as its `step` takes them."""
        return self.spaces.action.to_native(np.asarray(self.act(obs, explore=explore)))

    def _rows(self, obs: Any) -> Any:
        """Return observations as fresh float32 rows [*lead, O]: the environment's, or rows."""
        if isinstance(obs, Mapping):
            return self.spaces.rows(obs)
        obs = np.asarray(obs.cpu() if isinstance(obs, Tensor) else obs)
        if self._spaces is not None and self._spaces.fits(obs):
            return self._spaces.rows(obs)
        if obs.shape[-1:] == (self.obs_dim,) and obs.dtype.kind in "fiub":
            return np.array(obs, np.float32)
        if not self.spaces.fits(obs):
            raise ValueError(
                f"obs has shape {obs.shape}, {obs.dtype}: this policy takes {self.obs_dim} "
                "numbers, or an observation of its environment"
            )
        return self.spaces.rows(obs)

    def require(self, env: BatchEnv, name: str) -> None:
        """Raise ValueError unless the policy can act in these worlds."""
        theirs, own = (env.obs_dim, env.act_dim), (self.obs_dim, self.act_dim)
        if theirs != own:
            raise ValueError(
                f"{name} has observations of {theirs[0]} numbers and actions of {theirs[1]}, this "
                f"policy, trained in {self.config.get('env')}, takes {own[0]} and gives {own[1]}"
            )


def check_named(env: str, named: str | None) -> None:
    """Refuse a module that a run directory names, which anybody may have written.

    `module:id` imports the module: only the user may name one, as `named`, or has imported it.
    """
    module, _, _ = env.rpartition(":")
    if env.partition(":")[0] in OPENERS:
        return  # no module
    if module and env != named and module not in sys.modules:
        raise ValueError(
            f"the run names the environment {env!r}, for which a module would be imported that "
            f"you did not name. If it is to be, say so: --env {env}"
        )


def world(config: Mapping[str, Any], num_envs: int, seed: int = 0) -> BatchEnv:
    """Return worlds like those that a run was trained in, one at least of each context."""
    contexts = parse_contexts(config.get("context", ()))
    n = max(num_envs, len(contexts or ()))
    options = {"context": contexts, **config.get("env_options", {})}
    env, shown = make(config["env"], n, seed=seed, **options), config.get("context_in_obs")
    if contexts is None or shown in (None, "hidden"):
        return env
    return noted(ContextShown(env, contexts, shown, spaced(config["context"])))
