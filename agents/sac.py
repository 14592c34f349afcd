"""Soft actor-critic, with REDQ, DroQ and CrossQ as settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..buffers import Transitions
from . import losses, versions
from .api import Bounds, Metrics, State, no_memory
from .graphs import Steps
from .networks import Critic, GaussianActor, Masks, draw, frozen, step
from .population import Seeds, joined, lead_of, log_temperature, spread
from .seeding import generator
from .training import adam, compiler, lagging, pack, trained, unpack


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
    policy_delay: int = 1
    """updates of the critics per update of actor and temperature (REDQ, DroQ: 20, as utd)"""
    actor_value: Literal["min", "mean"] = "min"
    """what the actor climbs of the critics' values: min, or mean (REDQ, DroQ)"""
    bounds: ClassVar[Bounds] = {
        "gamma": (0, 1),
        "tau": (0, 1),
        "lr": (0, 1),
        "hidden": (1, 16_384),
        "critics": (1, 1000),
        "subset": (1, 1000),
        "dropout": (0, 0.99),
        "alpha": (1e-12, 1e6),
        "target_entropy": (-1e6, 1e6),
        "policy_delay": (1, 1000),
    }


MAY_DIFFER = ("gamma", "tau", "lr", "alpha")  # between the members of a population


class Noise(NamedTuple):
    """All randomness of one update, so that the rest is a pure function."""

    action: Tensor | None  # [B, A] standard normal, for the actor's own; None where it rests
    next_action: Tensor  # [B, A]
    subset: Tensor | None  # [M] int64: critics in the target, None for all
    target_masks: Masks
    critic_masks: Masks
    actor_masks: Masks


class SAC:
    """Soft actor-critic (Haarnoja et al. 2018); an `Agent`.

    With `actor_value="mean"`, `subset < critics` is REDQ (Chen et al. 2021), `dropout` and layer
    norm are DroQ (Hiraoka et al. 2022); `critic_norm="batch"` is CrossQ (Bhatt et al. 2024).
    Several seeds are a population of K (`population.py`): batches, losses, metrics are [K, ...].
    """

    columns: tuple[str, ...] = ()  # extra replay columns that `update` reads
    saved = ("actor", "critic", "target", "log_alpha", "actor_optimizer", "critic_optimizer",
        "alpha_optimizer", "updates", "actor_loss", "entropy", "generator", "acting")  # fmt: skip
    initial_state = no_memory

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        config: SACConfig | Sequence[SACConfig] | None = None,
        *,
        device: str | torch.device = "cpu",
        seed: Seeds = 0,
        compile: bool | str = False,
        bfloat16: bool = False,
    ) -> None:
        self.config = c = joined(config, SACConfig(), seed, MAY_DIFFER, device)
        if not 1 <= c.subset <= c.critics:
            raise ValueError(f"subset must be in 1..critics={c.critics}, got {c.subset}")
        self.obs_dim, self.act_dim, self.device = obs_dim, act_dim, torch.device(device)
        self.generator, self.acting = (generator(seed, s, device) for s in ("updates", "acting"))
        self.lead = lead = lead_of(seed)
        weights = generator(seed, "weights")
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws from the global generator
            self.actor = GaussianActor(obs_dim, act_dim, c.hidden, *lead)
        self.critic = Critic(obs_dim, act_dim, c.hidden, c.critics, c.critic_norm, c.dropout, *lead)
        _, self.actor_optimizer = trained(self.actor, c.lr, weights, device)
        self._critic_flat, self.critic_optimizer = trained(self.critic, c.lr, weights, device)
        self._critic_parameters = list(self.critic.parameters())
        self.crossq = c.critic_norm == "batch"
        self.target, self._target_flat = (
            (self.critic, self._critic_flat) if self.crossq else lagging(self.critic)
        )
        self._tau = spread(c.tau, self._critic_parameters)
        self.target_entropy = -float(act_dim) if c.target_entropy is None else c.target_entropy
        self.log_alpha = log_temperature(c.alpha, lead, device)
        self.alpha_optimizer = adam(self.log_alpha, spread(c.lr, [self.log_alpha]))
        self.updates = 0
        self.actor_loss, self.entropy = torch.zeros(2, *lead, device=device)  # of its last step
        self._autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16)
        wrap = compiler(compile, self.device)
        self._critic_objective = wrap(self._value_loss)
        self._actor_objective = wrap(self._policy_loss)
        self.steps = Steps(self, compile)

    @torch.no_grad()
    def act(self, obs: Tensor, state: State = (), *, explore: bool = False) -> tuple[Tensor, State]:
        """Return a sampled action, or the mode without exploration."""
        mean, log_std = self.actor(obs.to(self.device).view(*self.lead, -1, self.obs_dim))
        if explore:
            mean = mean + log_std.exp() * draw(torch.randn, self.acting, *mean.shape[-2:])
        return torch.tanh(mean).view(-1, self.act_dim), state

    def update(self, batch: Transitions, **more: Transitions) -> Metrics:
        """Step the critics, every `policy_delay`-th time actor and alpha; U times on [U, ...]."""
        if self.steps.wanted or batch.reward.dim() > 1 + len(self.lead):
            return self.steps(batch)
        return self._update(batch, self.draw(batch.reward.shape[-1]))

    def draw(self, n: int) -> Noise:
        """Draw the randomness of one update of n transitions from the agent's generator."""
        c, g = self.config, self.generator
        moves = (self.updates + 1) % c.policy_delay == 0
        normal = draw(torch.randn, g, 1 + moves, n, self.act_dim).unbind(-3)
        subset = None
        if c.subset < c.critics:
            subset = draw(torch.randperm, g, c.critics)[..., : c.subset]
        target, critic = (self.critic.masks(k, g) for k in (n, 2 * n if self.crossq else n))
        actor = self.critic.masks(n, g) if moves else ()
        return Noise(normal[0] if moves else None, normal[-1], subset, target, critic, actor)

    def _update(self, batch: Transitions, noise: Noise) -> Metrics:
        self.updates += 1
        alpha = self.log_alpha.detach().exp()
        with self._autocast:
            critic_loss, q = self._critic_objective(batch, noise, alpha)
        step(self.critic_optimizer, critic_loss)
        if self.updates % self.config.policy_delay == 0:
            with self._autocast, frozen(self._critic_parameters):
                actor_loss, log_prob = self._actor_objective(batch.obs, noise, alpha)
                step(self.actor_optimizer, actor_loss)
            if self.config.learn_alpha:
                alpha_loss = losses.temperature_loss(self.log_alpha, log_prob, self.target_entropy)
                step(self.alpha_optimizer, alpha_loss)
            self.actor_loss.copy_(actor_loss.detach())  # in place: a graph may read it later
            self.entropy.copy_(-log_prob.detach().mean(-1))
        if not self.crossq:
            self._target_flat.lerp_(self._critic_flat.detach(), self._tau)
        return {
            "critic_loss": critic_loss.detach(),
            "actor_loss": self.actor_loss.clone(),
            "q": q.detach().mean((-2, -1)),
            "entropy": self.entropy.clone(),
            "alpha": alpha.view(self.lead),
        }

    def _value_loss(self, batch: Transitions, noise: Noise, alpha: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            next_action, next_log_prob = self.actor.sample(batch.next_obs, noise.next_action)
        if self.crossq:  # one forward for both, so that both see the same batch statistics
            obs, action = (
                torch.cat([batch.obs, batch.next_obs], -2),
                torch.cat([batch.action, next_action], -2),
            )
            q, next_q = self.critic(obs, action, noise.critic_masks, learn=True).chunk(2, dim=-1)
        else:
            next_q = self.target(batch.next_obs, next_action, noise.target_masks)
            q = self.critic(batch.obs, batch.action, noise.critic_masks)
        next_q = next_q.detach()
        if noise.subset is not None:
            next_q = next_q.take_along_dim(noise.subset.unsqueeze(-1), -2)
        value = losses.soft_value(next_q, next_log_prob, alpha)
        target = losses.td_target(batch.reward, value, batch.terminated, self.config.gamma)
        return 0.5 * losses.critic_loss(q, target), q

    def _policy_loss(self, obs: Tensor, noise: Noise, alpha: Tensor) -> tuple[Tensor, Tensor]:
        assert noise.action is not None, "these draws are for an update at which the actor rests"
        action, log_prob = self.actor.sample(obs, noise.action)
        q = self.critic(obs, action, noise.actor_masks)
        value = q.mean(-2) if self.config.actor_value == "mean" else q.min(-2).values
        return losses.soft_actor_loss(value, log_prob, alpha), log_prob

    def state_dict(self) -> dict[str, Any]:
        """Networks, targets, optimisers, temperature, the delay's counter and both generators."""
        return pack(self, self.saved)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.steps.forget()
        unpack(self, self.saved, versions.sac_state(state, self.config))
