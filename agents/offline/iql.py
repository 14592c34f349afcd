"""Implicit Q-learning: values of the data's own actions, and cloning weighted by advantage."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ...buffers import Transitions
from .. import losses
from ..api import Bounds, Metrics, State, no_memory
from ..cloning import advantage_weights, weighted_cloning_loss
from ..graphs import each
from ..networks import Critic, DeterministicActor, mlp, step
from ..population import Seeds, joined, lead_of, spread
from ..seeding import generator
from ..training import lagging, pack, trained, unpack


@dataclass(frozen=True)
class IQLConfig:
    """Settings of the learner; the defaults are those of Kostrikov et al. (2021) for MuJoCo."""

    gamma: float = 0.99
    """discount of future rewards per environment step"""
    tau: float = 0.005
    """fraction that target critics move towards the critics at each update"""
    lr: float = 3e-4
    """Adam learning rate of all networks"""
    hidden: tuple[int, ...] = (256, 256)
    """hidden layer widths of all networks"""
    expectile: float = 0.7
    """tau of the value's expectile; above 0.5 it leans to the better actions"""
    temperature: float = 3.0
    """beta of the weights exp(beta A) of cloning, per unit of reward: the authors' loader scales
    rewards by 1000 / (best - worst return of an episode), ours does not"""
    critic_norm: Literal["none", "layer"] = "none"
    """none or layer"""
    bounds: ClassVar[Bounds] = {
        "gamma": (0, 1),
        "tau": (0, 1),
        "lr": (0, 1),
        "hidden": (1, 16_384),
        "expectile": (0, 1),
        "temperature": (0, 1e6),
    }


# Between the members of a population.
MAY_DIFFER = ("gamma", "tau", "lr", "expectile", "temperature")


def expectile_loss(advantage: Tensor, expectile: float | Tensor) -> Tensor:
    """Return mean |tau - 1(u < 0)| u^2, u = Q - V (IQL, Kostrikov 2021, arXiv:2110.06169 eq. 5)."""
    weight = torch.where(advantage < 0, 1 - expectile, expectile)
    return (weight * advantage.square()).mean(-1)


class Value(nn.Module):
    """A state value: MLP to one number."""

    def __init__(self, obs_dim: int, hidden: tuple[int, ...], members: int | None = None) -> None:
        super().__init__()
        self.net = mlp([obs_dim, *hidden, 1], members)

    def forward(self, obs: Tensor) -> Tensor:
        """Return values [B]."""
        return torch.squeeze(self.net(obs), -1)


class IQL:
    """IQL (Kostrikov et al. 2021, algorithm 1); an `Agent`.

    Its policy is deterministic: the weighted squared error is the log density of a unit Gaussian.
    Several seeds are a population of K (`population.py`): batches, losses, metrics are [K, ...].
    """

    columns: tuple[str, ...] = ()
    saved = ("actor", "critic", "value", "target_critic", "optimizers")
    initial_state = no_memory

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        config: IQLConfig | Sequence[IQLConfig] | None = None,
        *,
        device: str | torch.device = "cpu",
        seed: Seeds = 0,
        actor: nn.Module | None = None,
    ) -> None:
        """Build the networks; an `actor` of your own (obs [B, O] to [-1, 1]) keeps its weights."""
        self.config = c = joined(config, IQLConfig(), seed, MAY_DIFFER, device)
        if str(c.critic_norm) == "batch":
            raise ValueError("critic_norm='batch' needs CrossQ's joint update, which SAC has")
        self.obs_dim, self.act_dim, self.device = obs_dim, act_dim, torch.device(device)
        self.lead = lead = lead_of(seed)
        if lead and actor is not None:
            raise ValueError("a population has actors of its own: give one seed with an `actor`")
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws from the global generator
            own = DeterministicActor(obs_dim, act_dim, c.hidden, *lead) if actor is None else actor
            self.actor: nn.Module = own
            self.value = Value(obs_dim, c.hidden, *lead)
        self.critic = Critic(obs_dim, act_dim, c.hidden, 2, c.critic_norm, 0.0, *lead)
        weights = generator(seed, "weights")
        first = weights if actor is None else None
        parts = {
            "actor": trained(self.actor, c.lr, first, device),
            "critic": trained(self.critic, c.lr, weights, device),
            "value": trained(self.value, c.lr, weights, device),
        }
        self.optimizers = {k: optimizer for k, (_, optimizer) in parts.items()}
        self.target_critic, self._target_flat = lagging(self.critic)
        self._critic_flat = parts["critic"][0].detach()
        self._tau = spread(c.tau, self.critic.parameters())
        self.regulariser: Callable[[], Tensor] | None = None  # added to the actor's loss
        self.actor_step: Callable[[torch.optim.Optimizer, Tensor], None] = step  # to be changed

    @torch.no_grad()
    def act(self, obs: Tensor, state: State = (), *, explore: bool = False) -> tuple[Tensor, State]:
        """Return the actor's action, the same whether exploring or not."""
        action = self.actor(obs.to(self.device).view(*self.lead, -1, self.obs_dim))
        return action.view(-1, self.act_dim), state

    def update(self, batch: Transitions, **more: Transitions) -> Metrics:
        """Take one gradient step on value, critics and actor, in this order; U on [U, ...]."""
        if batch.reward.dim() > 1 + len(self.lead):
            return each(self.update, batch)
        c = self.config
        with torch.no_grad():
            best = self.target_critic(batch.obs, batch.action).min(-2).values
        advantage = best - self.value(batch.obs)
        value_loss = expectile_loss(advantage, c.expectile)
        step(self.optimizers["value"], value_loss)
        with torch.no_grad():
            next_value = self.value(batch.next_obs)
            target = losses.td_target(batch.reward, next_value, batch.terminated, c.gamma)
        q = self.critic(batch.obs, batch.action)
        critic_loss = losses.critic_loss(q, target)
        step(self.optimizers["critic"], critic_loss)
        weight = advantage_weights(advantage.detach(), c.temperature)
        actor_loss = weighted_cloning_loss(self.actor(batch.obs), batch.action, weight)
        if self.regulariser is not None:
            actor_loss = actor_loss + self.regulariser()
        self.actor_step(self.optimizers["actor"], actor_loss)
        self._target_flat.lerp_(self._critic_flat, self._tau)
        return {
            "critic_loss": critic_loss.detach(),
            "value_loss": value_loss.detach(),
            "actor_loss": actor_loss.detach(),
            "q": q.detach().mean((-2, -1)),
        }

    def state_dict(self) -> dict[str, Any]:
        """Networks, target and optimisers."""
        return pack(self, self.saved)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        unpack(self, self.saved, state)
