"""The circuit for gradient learners: an actor of our TD3, a policy of Stable-Baselines3's PPO."""

import math
from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from .circuit import Circuit


class CircuitActor(nn.Module):
    """The circuit with its parameters [D]; observations [B, O] to mean torques [B, N].

    Signs are kept in the forward pass (`CircuitConfig.constraint`), whatever the optimiser does.
    """

    def __init__(self, circuit: Circuit, generator: torch.Generator | None) -> None:
        super().__init__()
        if circuit.config.learn_period:
            raise ValueError("the period has no gradient: learn_period needs a search")
        self.circuit = circuit
        self.parameters_flat = nn.Parameter(circuit.initial(generator))

    def forward(self, obs: Tensor) -> Tensor:
        """Return actions in [-1, 1]."""
        action: Tensor = self.circuit.act(self.circuit.bind(self.parameters_flat), obs)
        return action


class RunningNorm(nn.Module):
    """Subtracts the running mean, divides by the deviation (0.01 at least); learns in training."""

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))
        self.register_buffer("count", torch.tensor(1e-4))

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, width] normalised, after counting it when training."""
        if self.training:
            with torch.no_grad():
                n, total = len(x), self.count + len(x)
                shift = x.mean(0) - self.mean
                spread = self.var * self.count + x.var(0, unbiased=False) * n
                self.var.copy_((spread + shift**2 * self.count * n / total) / total)
                self.mean.add_(shift * n / total)
                self.count.copy_(total)
        return (x - self.mean) / self.var.sqrt().clamp(min=0.01)


class _Latents(nn.Module):
    """What SB3 asks for: the actor sees raw observations, the critic a network of normal ones."""

    def __init__(self, width: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = width, hidden[-1]
        layers: list[nn.Module] = [RunningNorm(width)]
        for a, b in zip((width, *hidden[:-1]), hidden, strict=True):
            layers += [nn.Linear(a, b), nn.Tanh()]
        self.value_net = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return features, self.value_net(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        return features

    def forward_critic(self, features: Tensor) -> Tensor:
        out: Tensor = self.value_net(features)
        return out


class CircuitPolicy(ActorCriticPolicy):  # type: ignore[misc]
    """A policy for SB3's PPO: the circuit with fixed noise, and an ordinary critic.

    Give it raw observations (no VecNormalize): the circuit reads angles and the time feature.
    `circuit` comes in by policy_kwargs; log_std is fixed, 0.1 as in the authors' code.
    """

    def __init__(
        self,
        *args: Any,
        circuit: Circuit,
        hidden: tuple[int, ...] = (64, 64),
        std: float = 0.1,
        **kwargs: Any,
    ) -> None:
        self.latents = hidden
        self._circuit = circuit
        super().__init__(*args, **{**kwargs, "log_std_init": math.log(std), "net_arch": []})

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = _Latents(self.features_dim, tuple(self.latents))

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.action_net = CircuitActor(self._circuit, None)  # SB3 seeds the global generator
        self.log_std.requires_grad_(False)
        learned = [p for p in self.parameters() if p.requires_grad]
        self.optimizer = self.optimizer_class(learned, lr=lr_schedule(1), **self.optimizer_kwargs)
