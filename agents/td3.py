"""Twin delayed deep deterministic policy gradient."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..buffers import Transitions
from . import cloning, losses
from .api import Bounds, Metrics, State, no_memory
from .graphs import Steps
from .networks import Critic, DeterministicActor, draw, frozen, step
from .population import Seeds, joined, lead_of, spread
from .seeding import generator
from .training import compiler, lagging, pack, trained, unpack


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
    critic_norm: Literal["none", "layer"] = "none"
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
    bounds: ClassVar[Bounds] = {
        "gamma": (0, 1),
        "tau": (0, 1),
        "lr": (0, 1),
        "hidden": (1, 16_384),
        "critics": (1, 1000),
        "policy_delay": (1, 1000),
        "target_noise": (0, 100),
        "target_clip": (0, 100),
        "explore_noise": (0, 100),
        "bc_alpha": (0, 1e6),
        "critic_bc": (0, 1e6),
    }


MAY_DIFFER = ("gamma", "tau", "lr", "bc_alpha")  # between the members of a population


class Noise(NamedTuple):
    """All randomness of one update."""

    target: Tensor  # [B, A], already scaled by target_noise


class TD3:
    """TD3 (Fujimoto et al. 2018, algorithm 1); an `Agent`.

    Several seeds are a population of K (`population.py`): batches, losses, metrics are [K, ...].
    """

    columns: tuple[str, ...] = ()  # extra replay columns that `update` reads
    saved = ("actor", "critic", "target_actor", "target_critic", "actor_optimizer",
        "critic_optimizer", "updates", "actor_loss", "generator", "acting")  # fmt: skip
    initial_state = no_memory

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        config: TD3Config | Sequence[TD3Config] | None = None,
        *,
        device: str | torch.device = "cpu",
        seed: Seeds = 0,
        compile: bool | str = False,
        bfloat16: bool = False,
        actor: nn.Module | None = None,
    ) -> None:
        """Build the networks; an `actor` of your own (obs [B, O] to [-1, 1]) keeps its weights."""
        self.config = c = joined(config, TD3Config(), seed, MAY_DIFFER, device)
        if c.critic_bc:
            self.columns = ("next_action",)
        self.obs_dim, self.act_dim, self.device = obs_dim, act_dim, torch.device(device)
        self.generator, self.acting = (generator(seed, s, device) for s in ("updates", "acting"))
        self.lead = lead = lead_of(seed)
        if lead and actor is not None:
            raise ValueError("a population has actors of its own: give one seed with an `actor`")
        weights = generator(seed, "weights")
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws from the global generator
            own = DeterministicActor(obs_dim, act_dim, c.hidden, *lead) if actor is None else actor
        self.actor: nn.Module = own
        self.critic = Critic(obs_dim, act_dim, c.hidden, c.critics, c.critic_norm, 0.0, *lead)
        first = weights if actor is None else None
        self._actor_flat, self.actor_optimizer = trained(self.actor, c.lr, first, device)
        self._critic_flat, self.critic_optimizer = trained(self.critic, c.lr, weights, device)
        self._critic_parameters = list(self.critic.parameters())
        self.target_actor, actor_flat = lagging(self.actor)
        self.target_critic, critic_flat = lagging(self.critic)
        self._targets: list[Tensor] = [actor_flat, critic_flat]
        self._online = [self._actor_flat.detach(), self._critic_flat.detach()]
        taus = [spread(c.tau, net.parameters()) for net in (self.actor, self.critic)]
        self._tau: Any = taus if isinstance(taus[0], Tensor) else c.tau
        self.updates = 0
        self.actor_loss = torch.zeros(self.lead, device=self.device)  # of its last step
        self._bc_alpha = bc_alpha = spread(c.bc_alpha, [self.actor_loss])  # a number, or [K]
        self._clones = isinstance(bc_alpha, Tensor) or bc_alpha > 0
        if isinstance(bc_alpha, Tensor) and not bool(bc_alpha.all()):
            raise ValueError("bc_alpha=0 is another loss, of plain TD3: give it to all or to none")
        self.regulariser: Callable[[], Tensor] | None = None  # added to the actor's loss
        self.actor_step: Callable[[torch.optim.Optimizer, Tensor], None] = step  # to be changed
        self._autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16)
        wrap = compiler(compile, self.device)
        self._critic_objective = wrap(self._value_loss)
        self._actor_objective = wrap(self._policy_loss)
        self.steps = Steps(self, compile)

    @torch.no_grad()
    def act(self, obs: Tensor, state: State = (), *, explore: bool = False) -> tuple[Tensor, State]:
        """Return the actor's action, with Gaussian noise when exploring."""
        action = self.actor(obs.to(self.device).view(*self.lead, -1, self.obs_dim))
        if explore:
            noise = draw(torch.randn, self.acting, *action.shape[-2:])
            action = (action + self.config.explore_noise * noise).clamp(-1, 1)
        return action.view(-1, self.act_dim), state

    def update(self, batch: Transitions, **more: Transitions) -> Metrics:
        """Step the critics, every `policy_delay`-th time the actor; U times on [U, ...]."""
        if self.steps.wanted or batch.reward.dim() > 1 + len(self.lead):
            return self.steps(batch)
        return self._update(batch, self.draw(batch.reward.shape[-1]))

    def draw(self, n: int) -> Noise:
        """Draw the randomness of one update of n transitions from the agent's generator."""
        noise = draw(torch.randn, self.generator, n, self.act_dim)
        return Noise(noise * self.config.target_noise)

    def _update(self, batch: Transitions, noise: Noise) -> Metrics:
        self.updates += 1
        with self._autocast:
            critic_loss, q = self._critic_objective(batch, noise)
        step(self.critic_optimizer, critic_loss)
        if self.updates % self.config.policy_delay == 0:
            with self._autocast, frozen(self._critic_parameters):
                actor_loss = self._actor_objective(batch)
                self.actor_step(self.actor_optimizer, actor_loss)
            self.actor_loss.copy_(actor_loss.detach())  # in place: a graph may read it later
            torch._foreach_lerp_(self._targets, self._online, self._tau)
        return {
            "critic_loss": critic_loss.detach(),
            "actor_loss": self.actor_loss.clone(),
            "q": q.detach().mean((-2, -1)),
        }

    def _value_loss(self, batch: Transitions, noise: Noise) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            next_action = losses.smoothed_action(
                self.target_actor(batch.next_obs), noise.target, self.config.target_clip
            )
            next_q = self.target_critic(batch.next_obs, next_action).min(-2).values
            if self.config.critic_bc:
                gap = cloning.next_action_gap(next_action, batch)
                next_q = next_q - self.config.critic_bc * gap
            target = losses.td_target(batch.reward, next_q, batch.terminated, self.config.gamma)
        q = self.critic(batch.obs, batch.action)
        return losses.critic_loss(q, target), q

    def _policy_loss(self, batch: Transitions) -> Tensor:
        action = self.actor(batch.obs)
        if self.config.critic_bc:  # as ReBRAC's authors; TD3 and TD3+BC take the first critic
            q = self.critic(batch.obs, action).min(-2).values
        else:
            q = self.critic.first(batch.obs, action)
        if self._clones:
            loss = cloning.td3_bc_loss(q, action, batch.action, self._bc_alpha)
        else:
            loss = losses.deterministic_actor_loss(q)
        return loss if self.regulariser is None else loss + self.regulariser()

    def state_dict(self) -> dict[str, Any]:
        """Networks, targets, optimisers, the delay's counter and both generators."""
        return pack(self, self.saved)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.steps.forget()
        unpack(self, self.saved, state)
