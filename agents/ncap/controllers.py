"""The controls of the circuit: what the same search makes of a clock, feedback, a network."""

import itertools
import math

import torch
from torch import Tensor

from ..controllers import Array, namespace
from .circuit import clock


class SineCPG:
    """Open-loop travelling wave: clip(amplitude_i sin(2 pi f t / period - lag i) + offset).

    Parameters: amplitude, frequency as a factor of 1 / period, lag per joint (rad), change of the
    amplitude from head to tail, offset. Works on bodies of any length.
    """

    names = ("amplitude", "frequency", "lag", "slope", "offset")
    size = len(names)

    def __init__(self, joints: int, period: int = 60, horizon: int = 1000) -> None:
        self.period, self.horizon = period, horizon
        self._joint = torch.arange(joints, dtype=torch.float32)
        self._along = self._joint / max(joints - 1, 1) - 0.5

    def initial(self, generator: torch.Generator | None = None) -> Tensor:
        """Return a full-strength wave of the circuit's period, one radian behind at each joint."""
        return torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])

    def bind(self, parameters: Tensor) -> tuple[Tensor, ...]:
        """Return amplitude and phase of each joint [..., N], rate and offset [..., 1]."""
        amplitude, rate, lag, slope, offset = parameters[..., None].unbind(-2)
        strength = amplitude * (1 + slope * self._along.to(parameters))
        return strength, lag * self._joint.to(parameters), rate, offset

    def act(self, bound: tuple[Array, ...], obs: Array) -> Array:
        """Return torques [..., N]; only the time feature is looked at."""
        xp = namespace(obs)
        strength, phase, rate, offset = bound
        turn = clock(obs, self.horizon)[..., None] * (2 * math.pi / self.period)
        return xp.clip(strength * xp.sin(rate * turn - phase) + offset, -1, 1)


class Features:
    """What linear policies and networks see: angles over the limit, velocities over 0.1 m/s.

    With a clock also its sine and cosine, at the circuit's period.
    """

    def __init__(self, joints: int, limit: float, timed: bool, period: int, horizon: int) -> None:
        self.timed, self.period, self.horizon = timed, period, horizon
        self.joints, self.limit = joints, limit
        self.size = 4 * joints + 3 + 2 * timed

    def __call__(self, obs: Array) -> Array:
        """Return features [..., F] of observations [..., O]; their last column is the time."""
        xp = namespace(obs)
        parts = [obs[..., : self.joints] / self.limit, obs[..., self.joints : -1] * 10]
        if self.timed:
            turn = clock(obs, self.horizon)[..., None] * (2 * math.pi / self.period)
            parts += [xp.sin(turn), xp.cos(turn)]
        return xp.concatenate(parts, -1)


class Network:
    """A tanh network, or a linear policy when `hidden` is empty, with clipped linear output."""

    def __init__(
        self,
        joints: int,
        limit: float,
        hidden: tuple[int, ...] = (64, 64),
        *,
        timed: bool = False,
        period: int = 60,
        horizon: int = 1000,
    ) -> None:
        self.features = Features(joints, limit, timed, period, horizon)
        widths = [self.features.size, *hidden, joints]
        self.shapes = list(itertools.pairwise(widths))
        self.size = sum(a * b + b for a, b in self.shapes)
        self.linear = not hidden

    def initial(self, generator: torch.Generator | None = None) -> Tensor:
        """Return zeros for a linear policy, else uniform within 1 / sqrt(inputs)."""
        if self.linear:
            return torch.zeros(self.size)
        parts = []
        for a, b in self.shapes:
            parts.append((2 * torch.rand(a * b + b, generator=generator) - 1) / math.sqrt(a))
        return torch.cat(parts)

    def bind(self, parameters: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """Return weights [..., in, out] and biases [..., out] of every layer."""
        layers, at = [], 0
        for a, b in self.shapes:
            weight = parameters[..., at : at + a * b].reshape(*parameters.shape[:-1], a, b)
            layers.append((weight, parameters[..., at + a * b : at + a * b + b]))
            at += a * b + b
        return tuple(layers)

    def act(self, bound: tuple[tuple[Array, Array], ...], obs: Array) -> Array:
        """Return actions [..., N]."""
        xp = namespace(obs)
        x = self.features(obs)[..., None, :]
        for i, (weight, bias) in enumerate(bound):
            x = x @ weight + bias[..., None, :]
            if i < len(bound) - 1:
                x = xp.tanh(x)
        return xp.clip(x[..., 0, :], -1, 1)
