"""Twin delayed deep deterministic policy gradient."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..buffers import Transitions
from . import cloning, losses
from .api import Metrics, State, within
from .networks import Critic, DeterministicActor, flatten, frozen, initialise, step
from .seeding import generator


@dataclass(frozen=True)
class TD3Config:
    """Settings of the learner; the defaults are those of Fujimoto et al. (2018)."""

    gamma: float = 0.99
    """discount of future rewards per environment step"""
    tau: float = 0.005
    """fraction that targets move towards the networks at each delayed update"""
    lr: float = 3e-4
    """Adam learning rate of actor and critics (the paper: 1e-3, its later code: 3e-4)"""
    hidden: tuple[int, ...] = (256, 256)
    """hidden layer widths of actor and critics"""
    critics: int = 2
    """critics in the ensemble; the target is the minimum of all"""
    critic_norm: Literal["none", "layer", "batch"] = "none"
    """none or layer"""
    policy_delay: int = 2
    """critic updates per update of actor and targets"""
    target_noise: float = 0.2
    """standard deviation of target policy smoothing"""
    target_clip: float = 0.5
    """bound of the smoothing noise"""
    explore_noise: float = 0.1
    """standard deviation of exploration noise"""
    bc_alpha: float = 0.0
    """weight of Q beside cloning the data's action, alpha of TD3+BC; 0 is plain TD3"""
    critic_bc: float = 0.0
    """penalty on target actions away from what the data did next, beta_2 of ReBRAC"""


class Noise(NamedTuple):
    """All randomness of one update."""

    target: Tensor  # [B, A], already scaled by target_noise


class TD3:
    """TD3 (Fujimoto et al. 2018, algorithm 1); an `Agent`."""

    columns: tuple[str, ...] = ()  # extra replay columns that `update` reads

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        config: TD3Config | None = None,
        *,
        device: str | torch.device = "cpu",
        seed: int = 0,
        compile: bool = False,
        bfloat16: bool = False,
        actor: nn.Module | None = None,
    ) -> None:
        """Build the networks; an `actor` of your own (obs [B, O] to [-1, 1]) keeps its weights."""
        self.config = c = config or TD3Config()
        within(c, gamma=(0, 1), tau=(0, 1), lr=(0, 1), critics=(1, 1000), policy_delay=(1, 1000))
        within(c, bc_alpha=(0, 1e6), critic_bc=(0, 1e6))
        if c.critic_bc:
            self.columns = ("next_action",)
        if c.critic_norm == "batch":
            raise ValueError("critic_norm='batch' needs CrossQ's joint update, which SAC has")
        self.obs_dim, self.act_dim, self.device = obs_dim, act_dim, torch.device(device)
        self.generator = generator(seed, "updates", self.device)
        self.acting = generator(seed, "acting", self.device)
        weights = generator(seed, "weights")
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws from the global generator
            own = DeterministicActor(obs_dim, act_dim, c.hidden) if actor is None else actor
        self.actor: nn.Module = own
        self.critic = Critic(obs_dim, act_dim, c.hidden, c.critics, c.critic_norm)
        if actor is None:
            initialise(self.actor, weights)
        initialise(self.critic, weights)
        self.actor.to(self.device)
        self.critic.to(self.device)
        self.target_actor, self.target_critic = (
            copy.deepcopy(self.actor),
            copy.deepcopy(self.critic),
        )
        self._actor_flat, self._critic_flat = flatten(self.actor), flatten(self.critic)
        self._targets: list[Tensor] = [flatten(self.target_actor), flatten(self.target_critic)]
        self._critic_parameters = list(self.critic.parameters())
        self.actor_optimizer = torch.optim.Adam([self._actor_flat], lr=c.lr, fused=True)
        self.critic_optimizer = torch.optim.Adam([self._critic_flat], lr=c.lr, fused=True)
        self.updates = 0
        self.bfloat16 = bfloat16
        self._actor_loss = torch.zeros((), device=self.device)
        self.regulariser: Callable[[], Tensor] | None = None  # added to the actor's loss
        wrap: Any = torch.compile if compile else lambda f: f
        self._critic_objective = wrap(self._critic_objective_eager)
        self._actor_objective = wrap(self._actor_objective_eager)

    def initial_state(self, n: int) -> State:
        """Return (): no memory."""
        return ()

    @torch.no_grad()
    def act(self, obs: Tensor, state: State, *, explore: bool) -> tuple[Tensor, State]:
        """Return the actor's action, with Gaussian noise when exploring."""
        action = self.actor(obs.to(self.device))
        if explore:
            noise = torch.randn(action.shape, generator=self.acting, device=self.device)
            action = (action + self.config.explore_noise * noise).clamp(-1, 1)
        return action, state

    def update(self, batch: Transitions, **more: Transitions) -> Metrics:
        """Take one gradient step on the critics, and every `policy_delay`-th on the actor."""
        return self._update(batch, self.draw(len(batch.reward)))

    def draw(self, n: int) -> Noise:
        """Draw the randomness of one update of n transitions from the agent's generator."""
        noise = torch.randn(n, self.act_dim, generator=self.generator, device=self.device)
        return Noise(noise * self.config.target_noise)

    def _update(self, batch: Transitions, noise: Noise) -> Metrics:
        self.updates += 1
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            critic_loss, q = self._critic_objective(batch, noise)
        step(self.critic_optimizer, critic_loss)
        if self.updates % self.config.policy_delay == 0:
            with (
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16),
                frozen(self._critic_parameters),
            ):
                actor_loss = self._actor_objective(batch)
                step(self.actor_optimizer, actor_loss)
            self._actor_loss = actor_loss.detach()
            with torch.no_grad():
                online: list[Tensor] = [self._actor_flat, self._critic_flat]
                torch._foreach_lerp_(self._targets, online, self.config.tau)
        return {
            "critic_loss": critic_loss.detach(),
            "actor_loss": self._actor_loss,
            "q": q.detach().mean(),
        }

    def _critic_objective_eager(self, batch: Transitions, noise: Noise) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            next_action = losses.smoothed_action(
                self.target_actor(batch.next_obs), noise.target, self.config.target_clip
            )
            next_q = self.target_critic(batch.next_obs, next_action).min(0).values
            if self.config.critic_bc:
                gap = cloning.next_action_gap(next_action, batch)
                next_q = next_q - self.config.critic_bc * gap
            target = losses.td_target(batch.reward, next_q, batch.terminated, self.config.gamma)
        q = self.critic(batch.obs, batch.action)
        return losses.critic_loss(q, target), q

    def _actor_objective_eager(self, batch: Transitions) -> Tensor:
        action = self.actor(batch.obs)
        if self.config.critic_bc:  # as ReBRAC's authors; TD3 and TD3+BC take the first critic
            q = self.critic(batch.obs, action).min(0).values
        else:
            q = self.critic.first(batch.obs, action)
        if self.config.bc_alpha:
            loss = cloning.td3_bc_loss(q, action, batch.action, self.config.bc_alpha)
        else:
            loss = losses.deterministic_actor_loss(q)
        return loss if self.regulariser is None else loss + self.regulariser()

    def state_dict(self) -> dict[str, Any]:
        """Networks, targets, optimisers, the delay's counter and both generators."""
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "target_actor": self.target_actor.state_dict(),
            "target_critic": self.target_critic.state_dict(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "updates": self.updates,
            "actor_loss": self._actor_loss.clone(),
            "generator": self.generator.get_state(),
            "acting": self.acting.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        for name in ("actor", "critic", "target_actor", "target_critic"):
            getattr(self, name).load_state_dict(state[name])
        for name in ("actor_optimizer", "critic_optimizer"):
            # Optimizers keep the tensors they are given.
            getattr(self, name).load_state_dict(copy.deepcopy(state[name]))
        self.updates = int(state["updates"])
        self._actor_loss = state["actor_loss"].to(self.device)
        self.generator.set_state(state["generator"])
        self.acting.set_state(state["acting"])
