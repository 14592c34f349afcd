"""Soft actor-critic, with REDQ, DroQ and CrossQ as settings."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..buffers import Transitions
from . import losses
from .api import Metrics, State, within
from .networks import Critic, GaussianActor, Masks, frozen, initialise, step
from .seeding import generator
from .training import flatten


@dataclass(frozen=True)
class SACConfig:
    """Settings of the learner; the defaults are those of Haarnoja et al. (2018b)."""

    gamma: float = 0.99
    """discount of future rewards per environment step"""
    tau: float = 0.005
    """fraction that target critics move towards the critics at each update"""
    lr: float = 3e-4
    """Adam learning rate of actor, critics and temperature"""
    hidden: tuple[int, ...] = (256, 256)
    """hidden layer widths of actor and critics"""
    critics: int = 2
    """critics in the ensemble (REDQ: 10)"""
    subset: int = 2
    """critics, drawn at random, whose minimum is the target (REDQ: 2)"""
    critic_norm: Literal["none", "layer", "batch"] = "none"
    """none, layer (as in RLPD), or batch (CrossQ: no target network)"""
    dropout: float = 0.0
    """critic dropout (DroQ: 0.01 with critic_norm=layer)"""
    alpha: float = 1.0
    """entropy temperature; the initial one if it is learned"""
    learn_alpha: bool = True
    """learn the temperature towards the target entropy"""
    target_entropy: float | None = None
    """nats; None is minus the number of action dimensions"""


class Noise(NamedTuple):
    """All randomness of one update, so that the rest is a pure function."""

    action: Tensor  # [B, A] standard normal, for the actor's own action
    next_action: Tensor  # [B, A]
    subset: Tensor | None  # [M] int64: critics in the target, None for all
    target_masks: Masks
    critic_masks: Masks
    actor_masks: Masks


class SAC:
    """Soft actor-critic (Haarnoja et al. 2018); an `Agent`.

    `subset < critics` gives REDQ (Chen et al. 2021), `dropout` with layer norm DroQ (Hiraoka et
    al. 2022), `critic_norm="batch"` CrossQ (Bhatt et al. 2024: joint batch, no target network;
    plain batch norm, where its authors' code uses batch renormalisation).
    """

    columns: tuple[str, ...] = ()  # extra replay columns that `update` reads

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        config: SACConfig | None = None,
        *,
        device: str | torch.device = "cpu",
        seed: int = 0,
        compile: bool = False,
        bfloat16: bool = False,
    ) -> None:
        self.config = c = config or SACConfig()
        within(c, gamma=(0, 1), tau=(0, 1), lr=(0, 1), alpha=(1e-12, 1e6), critics=(1, 1000))
        if not 1 <= c.subset <= c.critics:
            raise ValueError(f"subset must be in 1..critics={c.critics}, got {c.subset}")
        self.obs_dim, self.act_dim, self.device = obs_dim, act_dim, torch.device(device)
        self.generator = generator(seed, "updates", self.device)
        self.acting = generator(seed, "acting", self.device)
        weights = generator(seed, "weights")
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws from the global generator
            self.actor = GaussianActor(obs_dim, act_dim, c.hidden)
        self.critic = Critic(obs_dim, act_dim, c.hidden, c.critics, c.critic_norm, c.dropout)
        for module in (self.actor, self.critic):
            initialise(module, weights)
            module.to(self.device)
        self.crossq = c.critic_norm == "batch"
        self.target = self.critic if self.crossq else copy.deepcopy(self.critic)
        self._actor_flat, self._critic_flat = flatten(self.actor), flatten(self.critic)
        self._target_flat = self._critic_flat if self.crossq else flatten(self.target)
        self.target_entropy = -float(act_dim) if c.target_entropy is None else c.target_entropy
        self.log_alpha = torch.full((), math.log(c.alpha), device=self.device, requires_grad=True)
        self._critic_parameters = list(self.critic.parameters())
        self.actor_optimizer = torch.optim.Adam([self._actor_flat], lr=c.lr, fused=True)
        self.critic_optimizer = torch.optim.Adam([self._critic_flat], lr=c.lr, fused=True)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=c.lr, fused=True)
        self.bfloat16 = bfloat16
        wrap: Any = torch.compile if compile else lambda f: f
        self._critic_objective = wrap(self._critic_objective_eager)
        self._actor_objective = wrap(self._actor_objective_eager)

    def initial_state(self, n: int) -> State:
        """Return (): no memory."""
        return ()

    @torch.no_grad()
    def act(self, obs: Tensor, state: State, *, explore: bool) -> tuple[Tensor, State]:
        """Return a sampled action, or the mode without exploration."""
        obs = obs.to(self.device)
        if not explore:
            return self.actor.mode(obs), state
        mean, log_std = self.actor(obs)
        noise = torch.randn(mean.shape, generator=self.acting, device=self.device)
        return torch.tanh(mean + log_std.exp() * noise), state

    def update(self, batch: Transitions, **more: Transitions) -> Metrics:
        """Take one gradient step on critics, actor and temperature, in this order."""
        return self._update(batch, self.draw(len(batch.reward)))

    def draw(self, n: int) -> Noise:
        """Draw the randomness of one update of n transitions from the agent's generator."""
        c, g = self.config, self.generator
        both = torch.randn(2, n, self.act_dim, generator=g, device=self.device)
        subset = None
        if c.subset < c.critics:
            subset = torch.randperm(c.critics, generator=g, device=self.device)[: c.subset]
        wide = 2 * n if self.crossq else n
        masks = [self.critic.masks(k, g) for k in (n, wide, n)] if c.dropout else [(), (), ()]
        return Noise(both[0], both[1], subset, masks[0], masks[1], masks[2])

    def _update(self, batch: Transitions, noise: Noise) -> Metrics:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            action, log_prob = self.actor.sample(batch.obs, noise.action)
            alpha = self.log_alpha.detach().exp()
            critic_loss, q = self._critic_objective(batch, noise, alpha)
        step(self.critic_optimizer, critic_loss)
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16),
            frozen(self._critic_parameters),
        ):
            actor_loss = self._actor_objective(batch.obs, action, log_prob, noise, alpha)
            step(self.actor_optimizer, actor_loss)
        if self.config.learn_alpha:
            alpha_loss = losses.temperature_loss(self.log_alpha, log_prob, self.target_entropy)
            step(self.alpha_optimizer, alpha_loss)
        if not self.crossq:
            with torch.no_grad():
                self._target_flat.lerp_(self._critic_flat, self.config.tau)
        return {
            "critic_loss": critic_loss.detach(),
            "actor_loss": actor_loss.detach(),
            "q": q.detach().mean(),
            "entropy": -log_prob.detach().mean(),
            "alpha": alpha,
        }

    def _critic_objective_eager(
        self, batch: Transitions, noise: Noise, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            next_action, next_log_prob = self.actor.sample(batch.next_obs, noise.next_action)
            if not self.crossq:
                next_q = self.target(batch.next_obs, next_action, noise.target_masks)
        if self.crossq:  # one forward for both, so that both see the same batch statistics
            obs = torch.cat([batch.obs, batch.next_obs])
            both = self.critic(
                obs, torch.cat([batch.action, next_action]), noise.critic_masks, learn=True
            )
            q, next_q = both.chunk(2, dim=1)
        else:
            q = self.critic(batch.obs, batch.action, noise.critic_masks)
        next_q = next_q.detach() if noise.subset is None else next_q.detach()[noise.subset]
        value = losses.soft_value(next_q, next_log_prob, alpha)
        target = losses.td_target(batch.reward, value, batch.terminated, self.config.gamma)
        return 0.5 * losses.critic_loss(q, target), q

    def _actor_objective_eager(
        self, obs: Tensor, action: Tensor, log_prob: Tensor, noise: Noise, alpha: Tensor
    ) -> Tensor:
        q = self.critic(obs, action, noise.actor_masks)
        redq = self.config.subset < self.config.critics  # its policy climbs the mean
        return losses.soft_actor_loss(q.mean(0) if redq else q.min(0).values, log_prob, alpha)

    def state_dict(self) -> dict[str, Any]:
        """Networks, targets, optimisers, temperature and both generators."""
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "target": self.target.state_dict(),
            "log_alpha": self.log_alpha.detach().clone(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "alpha_optimizer": self.alpha_optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "acting": self.acting.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        for name in ("actor", "critic", "target"):
            getattr(self, name).load_state_dict(state[name])
        for name in ("actor_optimizer", "critic_optimizer", "alpha_optimizer"):
            # Optimizers keep the tensors they are given.
            getattr(self, name).load_state_dict(copy.deepcopy(state[name]))
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])
        self.generator.set_state(state["generator"])
        self.acting.set_state(state["acting"])
