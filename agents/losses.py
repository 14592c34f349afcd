"""Losses and targets as pure functions of tensors; of a population all of them are [K, ...]."""

from torch import Tensor


def td_target(reward: Tensor, next_value: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """Return r + gamma (1 - terminated) V' [B]; truncation bootstraps (Sutton & Barto, 6.1)."""
    return reward + gamma * (1 - terminated) * next_value


def soft_value(next_q: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
    """Return min_e Q'_e - alpha log pi [B] for next_q [E, B] (SAC, Haarnoja et al. 2018, eq. 3)."""
    return next_q.min(-2).values - alpha * log_prob


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Return the TD error of q [E, B], squared, averaged over B, summed over E (2x SAC's eq. 5)."""
    return (q - target.unsqueeze(-2)).square().mean(-1).sum(-1)


def soft_actor_loss(q: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
    """Return mean(alpha log pi - Q) for q [B] (SAC, eq. 7)."""
    return (alpha * log_prob - q).mean(-1)


def temperature_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Return -log alpha (log pi + H) (SAC, Haarnoja et al. 2018b, eq. 18, in log alpha)."""
    return -(log_alpha * (log_prob.detach() + target_entropy)).mean(-1)


def deterministic_actor_loss(q: Tensor) -> Tensor:
    """Return -mean Q for q [B] (deterministic policy gradient, Silver et al. 2014, eq. 9)."""
    return -q.mean(-1)


def smoothed_action(action: Tensor, noise: Tensor, clip: float) -> Tensor:
    """Return clip(a + clip(noise), +-1): target smoothing (TD3, Fujimoto et al. 2018, eq. 14)."""
    return (action + noise.clamp(-clip, clip)).clamp(-1, 1)
