"""A trained actor alone: what of a learner acts, without its critics and optimisers."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .api import State, no_memory
from .networks import DeterministicActor, GaussianActor
from .seeding import generator


class ActorPolicy:
    """A network that acts; a `Policy` with tensors of its own, so that it can be sent elsewhere.

    `noise`: of exploration, the standard deviation of a Gaussian, or None for the actor's own
    distribution. `mean`, `std` [O]: of the observations, where it was trained on z-scores.
    """

    def __init__(
        self,
        actor: nn.Module,
        noise: float | None = 0.0,
        *,
        seed: int = 0,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        self.actor, self.noise = actor.requires_grad_(False), noise
        self.mean, self.std = (None if x is None else x.clone() for x in (mean, std))
        self.acting = generator(seed, "acting")

    initial_state = no_memory

    @torch.no_grad()
    def act(self, obs: Tensor, state: State = (), *, explore: bool = False) -> tuple[Tensor, State]:
        """Return actions [N, A] on the CPU, as the agent would have."""
        obs = obs.cpu()
        if self.mean is not None and self.std is not None:
            obs = (obs - self.mean) / self.std
        if self.noise is None:
            gaussian: Any = self.actor
            if not explore:
                return gaussian.mode(obs), state
            mean, log_std = gaussian(obs)
            draw = torch.randn(mean.shape, generator=self.acting)
            return torch.tanh(mean + log_std.exp() * draw), state
        action = self.actor(obs)
        if explore and self.noise:
            draw = torch.randn(action.shape, generator=self.acting)
            action = (action + self.noise * draw).clamp(-1, 1)
        return action, state


def mlp_sizes(weights: Mapping[str, Tensor], prefix: str = "net.") -> list[int]:
    """Return the widths of an MLP from its state_dict, inputs first; ValueError if it is none.

    Each layer takes what the one before gives: whoever builds it again allocates no more than
    the weights take.
    """
    layers = [k for k in weights if k.startswith(prefix) and k.endswith(".weight")]
    layers.sort(key=lambda k: int(k.removeprefix(prefix).removesuffix(".weight")))
    shapes = [tuple(weights[k].shape) for k in layers]
    fits = all(len(s) == 2 for s in shapes) and all(a[0] == b[1] for a, b in pairwise(shapes))
    if not shapes or not fits:
        raise ValueError(f"no network in {sorted(weights)}: layers of shapes {shapes}")
    return [shapes[0][1], *(s[0] for s in shapes)]


def _filled(actor: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    actor.load_state_dict(weights)  # copies
    return actor


def gaussian_policy(weights: Mapping[str, Tensor], *, seed: int = 0) -> tuple[ActorPolicy, int]:
    """Return SAC's actor of these weights as a policy, and the width of its observations."""
    obs_dim, *hidden, out = mlp_sizes(weights)
    with torch.random.fork_rng(devices=[]):  # nn.Linear draws from the global generator
        actor = GaussianActor(obs_dim, out // 2, hidden)
    return ActorPolicy(_filled(actor, weights), None, seed=seed), obs_dim


def deterministic_policy(
    weights: Mapping[str, Tensor],
    noise: float = 0.0,
    *,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> tuple[ActorPolicy, int]:
    """Return a deterministic actor of these weights as a policy, and its observations' width."""
    obs_dim, *hidden, act_dim = mlp_sizes(weights)
    with torch.random.fork_rng(devices=[]):
        actor = DeterministicActor(obs_dim, act_dim, hidden)
    policy = ActorPolicy(_filled(actor, weights), noise, mean=mean, std=std)
    return policy, obs_dim


def go_on(policy: ActorPolicy, acting: Tensor | None) -> ActorPolicy:
    """Return the policy with the exploration noise of a saved agent going on where it was.

    Noise that another kind of device drew cannot go on here: it starts from the policy's seed.
    """
    if acting is not None and len(acting) == len(policy.acting.get_state()):
        policy.acting.set_state(acting)
    return policy
