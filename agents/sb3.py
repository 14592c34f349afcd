"""Stable-Baselines3's PPO, and its models as policies of ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from .actors import mlp_sizes
from .api import Bounds, State, no_memory, within


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO under Stable-Baselines3's names and with its defaults."""

    n_steps: int = 256
    """steps of every world in one rollout"""
    batch_size: int = 64
    """transitions per gradient step"""
    n_epochs: int = 10
    """passes over a rollout"""
    gamma: float = 0.99
    """discount"""
    gae_lambda: float = 0.95
    """lambda of generalised advantage estimation"""
    clip_range: float = 0.2
    """clip of the probability ratio"""
    ent_coef: float = 0.0
    """weight of the entropy bonus"""
    vf_coef: float = 0.5
    """weight of the value loss"""
    max_grad_norm: float = 0.5
    """gradient norm is clipped to this"""
    lr: float = 3e-4
    """learning rate of Adam"""
    hidden: tuple[int, ...] = (64, 64)
    """hidden layer widths, tanh"""
    log_std: float = 0.0
    """log standard deviation of the actions at the start"""
    normalize: bool = True
    """observations and rewards are divided by running statistics (VecNormalize)"""
    bounds: ClassVar[Bounds] = {
        "n_steps": (2, 10**7),
        "batch_size": (2, 10**7),
        "n_epochs": (1, 10**4),
        "gamma": (0, 1),
        "gae_lambda": (0, 1),
        "clip_range": (1e-6, 100),
        "ent_coef": (0, 1e6),
        "vf_coef": (0, 1e6),
        "max_grad_norm": (1e-9, 1e9),
        "lr": (0, 1),
        "hidden": (1, 16_384),
        "log_std": (-20, 20),
    }

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        within(self, **self.bounds)


def build_ppo(
    env: VecEnv,
    config: PPOConfig,
    seed: int,
    policy: Any = "MlpPolicy",
    policy_kwargs: dict[str, Any] | None = None,
) -> PPO:
    """Return SB3's PPO on the CPU; it draws from torch's and numpy's global generators."""
    c = config
    kwargs = policy_kwargs or {
        "net_arch": list(c.hidden),
        "log_std_init": c.log_std,
        "activation_fn": nn.Tanh,
    }
    return PPO(
        policy,
        env,
        learning_rate=c.lr,
        n_steps=c.n_steps,
        batch_size=c.batch_size,
        n_epochs=c.n_epochs,
        gamma=c.gamma,
        gae_lambda=c.gae_lambda,
        clip_range=c.clip_range,
        ent_coef=c.ent_coef,
        vf_coef=c.vf_coef,
        max_grad_norm=c.max_grad_norm,
        policy_kwargs=kwargs,
        seed=seed,
        device="cpu",
    )


class SB3Policy:
    """The policy network of a Stable-Baselines3 model as a `Policy`; actions in [-1, 1].

    `statistics` (its `mean` and `var` [O]) normalise the observations as VecNormalize does.
    """

    def __init__(self, policy: Any, statistics: Any = None) -> None:
        self.policy, self.statistics = policy, statistics

    initial_state = no_memory

    @torch.no_grad()
    def act(self, obs: Tensor, state: State = (), *, explore: bool = False) -> tuple[Tensor, State]:
        """Return the mean action, or a sample from torch's global generator."""
        if self.statistics is not None:
            mean = torch.as_tensor(self.statistics.mean, dtype=torch.float32)
            var = torch.as_tensor(self.statistics.var, dtype=torch.float32)
            obs = ((obs - mean) / torch.sqrt(var + 1e-8)).clamp(-10, 10)
        self.policy.set_training_mode(False)
        action: Tensor = self.policy._predict(obs, deterministic=not explore)
        return action.clamp(-1, 1), state


def load_ppo(
    state: Mapping[str, Any],
    obs_dim: int,
    act_dim: int,
    policy: Any,
    policy_kwargs: Mapping[str, Any],
    hidden: tuple[int, ...],
) -> SB3Policy:
    """Return the policy in a saved state: its weights, and its statistics if it has some."""
    spaces = Box(-np.inf, np.inf, (obs_dim,)), Box(-1, 1, (act_dim,))
    with torch.random.fork_rng(devices=[]):  # SB3 draws weights, of which none stay, globally
        if policy == "MlpPolicy":
            network = ActorCriticPolicy(*spaces, lambda _: 0.0, net_arch=list(hidden))
        else:
            network = policy(*spaces, lambda _: 0.0, **policy_kwargs)
    network.load_state_dict(state["policy"])
    moments = state["statistics"]
    if moments is not None:
        moments = SimpleNamespace(**{k: np.array(moments[k]) for k in ("mean", "var")})
    return SB3Policy(_actor_only(network), moments)


def _actor_only(network: Any) -> Any:
    """Take out of a policy of SB3 what only its learning needs."""
    network.optimizer = None
    network.value_net = network.mlp_extractor.value_net = nn.Identity()
    network.lr_schedule = None
    return network.requires_grad_(False)


def load_mlp_ppo(state: Mapping[str, Any]) -> tuple[SB3Policy, int]:
    """Return the policy of an MlpPolicy's saved state, and the width of its observations."""
    weights = state["policy"]
    obs_dim, *hidden = mlp_sizes(weights, "mlp_extractor.policy_net.")
    act_dim, last = weights["action_net.weight"].shape
    if last != hidden[-1]:
        raise ValueError(f"an action_net of {last} inputs on a network of widths {hidden}")
    return load_ppo(state, obs_dim, act_dim, "MlpPolicy", {}, tuple(hidden)), obs_dim
