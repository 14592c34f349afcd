"""What a run returns, and what a run directory gives back."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..agents import SAC, TD3, Policy, SACConfig, State, TD3Config
from . import checkpoint
from .config import from_dict, read_config
from .evaluation import Evaluation


@dataclass(frozen=True)
class Result:
    """A finished run: its directory, its transitions, its last evaluation."""

    path: Path
    steps: int
    evaluation: Evaluation

    @property
    def eval_return(self) -> float:
        """Mean return of the last evaluation."""
        return self.evaluation.mean


@dataclass(frozen=True)
class LoadedRun:
    """A run directory read back."""

    path: Path
    method: str
    config: dict[str, Any]
    stamp: dict[str, Any]
    rows: list[dict[str, Any]]

    def frame(self, kind: str = "eval") -> dict[str, np.ndarray[Any, Any]]:
        """Return the metrics of one kind (train, eval) as columns; `pandas.DataFrame` takes it."""
        rows = [r for r in self.rows if r["kind"] == kind]
        names = dict.fromkeys(k for r in rows for k in r if k != "kind")
        return {k: np.array([r.get(k, np.nan) for r in rows]) for k in names}


def load_run(path: str | Path) -> LoadedRun:
    """Read a run directory: configuration, stamp and metrics."""
    path = Path(path)
    method, config = read_config(path)
    stamp = json.loads((path / "stamp.json").read_text())
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return LoadedRun(path, method, config, stamp, [json.loads(line) for line in lines])


class LoadedPolicy:
    """A trained policy: `act(obs)` takes one observation or a batch, numpy or torch."""

    def __init__(self, policy: Policy, obs_dim: int, config: dict[str, Any]) -> None:
        self.policy, self.obs_dim, self.config = policy, obs_dim, config

    def initial_state(self, n: int) -> State:
        """Return the wrapped policy's memory at the start of n episodes."""
        return self.policy.initial_state(n)

    def act(self, obs: Any, state: State = (), *, explore: bool = False) -> Any:
        """Return actions in [-1, 1]; with a torch batch also the next memory, as `Policy` does."""
        if isinstance(obs, Tensor):
            return self.policy.act(obs, state, explore=explore)
        rows = torch.as_tensor(np.asarray(obs, np.float32))
        if rows.shape[-1] != self.obs_dim:
            raise ValueError(f"obs has {rows.shape[-1]} columns, this policy takes {self.obs_dim}")
        action, _ = self.policy.act(rows.reshape(-1, self.obs_dim), state, explore=explore)
        return action.cpu().numpy().reshape(*rows.shape[:-1], -1)


def load_policy(path: str | Path) -> LoadedPolicy:
    """Return the policy of a run directory's newest good checkpoint, or `zoo:NAME` of the zoo."""
    if str(path).startswith("zoo:"):
        from . import zoo

        return zoo.load(str(path).removeprefix("zoo:"))
    path = Path(path)
    method, config = read_config(path)
    found = checkpoint.load(path / "checkpoints", path / "buffer")
    if found is None:
        raise FileNotFoundError(f"{path} has no usable checkpoint yet")
    if method not in _LOADERS:
        raise ValueError(f"{path} was made by {method!r}, whose policy this version does not load")
    policy, obs_dim = _LOADERS[method](config, found.state["agent"])
    return LoadedPolicy(policy, obs_dim, config)


def _load_off_policy(config: dict[str, Any], state: dict[str, Any]) -> tuple[Policy, int]:
    weights = [w for name, w in state["actor"].items() if name.endswith("weight")]
    obs_dim, out = weights[0].shape[1], weights[-1].shape[0]
    agent: SAC | TD3
    if "alpha" in config["agent"]:  # SAC's actor puts out a mean and a scale
        agent = SAC(obs_dim, out // 2, from_dict(SACConfig, config["agent"]))
    else:
        agent = TD3(obs_dim, out, from_dict(TD3Config, config["agent"]))
    agent.load_state_dict(state)
    return agent, obs_dim


def _load_ppo(config: dict[str, Any], state: dict[str, Any]) -> tuple[Policy, int]:
    from ..agents.sb3 import load_ppo

    obs_dim = state["policy"]["mlp_extractor.policy_net.0.weight"].shape[1]
    act_dim = state["policy"]["action_net.weight"].shape[0]
    hidden = tuple(config["agent"]["hidden"])
    return load_ppo(state, obs_dim, act_dim, "MlpPolicy", {}, hidden), obs_dim


def _load_ncap(config: dict[str, Any], state: dict[str, Any]) -> tuple[Policy, int]:
    from . import ncap

    return ncap.load(config, state)


def _load_offline(config: dict[str, Any], state: dict[str, Any]) -> tuple[Policy, int]:
    from ..agents.bc import BC, BCConfig
    from ..agents.iql import IQL, IQLConfig
    from ..agents.standardised import Standardised

    inner, settings = state["inner"], config["agent"]
    weights = [w for name, w in inner["actor"].items() if name.endswith("weight")]
    shape = weights[0].shape[1], weights[-1].shape[0]
    agent: BC | IQL | TD3
    if "expectile" in settings:
        agent = IQL(*shape, from_dict(IQLConfig, settings))
    elif "tau" in settings:
        agent = TD3(*shape, from_dict(TD3Config, settings))
    else:
        agent = BC(*shape, from_dict(BCConfig, settings))
    whole = Standardised(agent, state["mean"], state["std"])
    whole.load_state_dict(state)
    return whole, shape[0]


def _load_oer(config: dict[str, Any], state: dict[str, Any]) -> tuple[Policy, int]:
    from . import oer

    return oer.load(config, state)


_LOADERS = {
    "oer": _load_oer,
    "bc": _load_offline,
    "td3bc": _load_offline,
    "iql": _load_offline,
    "rebrac": _load_offline,
    "sac": _load_off_policy,
    "td3": _load_off_policy,
    "ppo": _load_ppo,
    "ncap": _load_ncap,
}
