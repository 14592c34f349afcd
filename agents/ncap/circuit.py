"""The C. elegans locomotion circuit as a controller of an N-link swimmer.

Bhattasali, Zador & Engel (2022), arXiv:2201.05242, equations as in their released code: a head
oscillator drives the first pair of B neurons, the bend of joint i - 1 the i-th pair, B neurons
excite the muscle of their side and inhibit the other's. No state: the phase is a function of the
step, so that one circuit serves any number of worlds and any row of a replay buffer.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from ..api import Bounds, within
from ..controllers import Array, namespace

DORSAL, VENTRAL = 0, 1


@dataclass(frozen=True)
class CircuitConfig:
    """The wiring and its constraints; the defaults are the authors'."""

    period: int = 60
    """control steps of the head oscillator's cycle"""
    sharing: Literal["all", "sides", "none"] = "all"
    """one weight for all (segments and sides), one for each pair of sides, none: one for each"""
    constraint: Literal["clamp", "softplus", "none"] = "clamp"
    """how signs are kept: clamp (faithful, dead beyond 0), softplus (no dead zone), none"""
    init: Literal["constant", "uniform"] = "constant"
    """constant: +-1; uniform: up to that; without constraint the signs are drawn at random"""
    osc_start: float = 1.0
    """size of the oscillator's weight at the start; at 1 and above its neuron is saturated"""
    proprioception: bool = True
    """B neurons feel the joint in front of theirs"""
    oscillator: bool = True
    """the head has an oscillator"""
    speed: bool = False
    """a weight for the brake of the speed command"""
    turn: bool = False
    """a weight for the turn commands"""
    turn_joints: int = 1
    """segments from the head that the turn commands reach"""
    learn_period: bool = False
    """the period is a parameter too, as a factor of `period`; for search, it has no gradient"""
    bounds: ClassVar[Bounds] = {
        "period": (2, 10**6),
        "osc_start": (-1e3, 1e3),
        "turn_joints": (0, 64),
    }

    def __post_init__(self) -> None:
        """Refuse what is not built."""
        within(self, **self.bounds)


class Weights(NamedTuple):
    """Effective weights, signed and spread over sides and segments."""

    drive: Array  # [..., 2, N]: of the oscillator into segment 0, of joint i - 1 into segment i
    ipsi: Array  # [..., 2, N]: B neuron to the muscle of its side
    contra: Array  # [..., 2, N]: B neuron of the other side to this side's muscle
    speed: Array | None  # [..., 2, N]: the brake
    turn: Array | None  # [..., 2, N]: the turn command, 0 beyond turn_joints
    period: Array  # [...]: control steps

    def numpy(self) -> "Weights":
        """Return the weights as numpy arrays."""
        return Weights(*(None if w is None else w.numpy() for w in self))


class Activity(NamedTuple):
    """What every unit does at one step."""

    oscillator: Array  # [..., 2]
    neuron: Array  # [..., 2, N]: B neurons
    muscle: Array  # [..., 2, N]
    torque: Array  # [..., N], in [-1, 1]


def clock(obs: Array, horizon: int) -> Array:
    """Return the control step [...] from the time feature, the last column of obs [..., O]."""
    return namespace(obs).round((obs[..., -1] + 1) * (horizon / 2))


class Circuit:
    """Maps a flat parameter vector [..., D] and observations to joint torques in [-1, 1].

    Observations begin with the N joint angles (rad) and end with the time feature, -1 at the
    reset and +1 after `horizon` steps. `limit` (rad) is the joints' range.
    """

    def __init__(
        self, joints: int, limit: float, config: CircuitConfig | None = None, horizon: int = 1000
    ) -> None:
        self.joints, self.limit, self.horizon = joints, limit, horizon
        self.config = c = config or CircuitConfig()
        self.names: list[str] = []
        signs: list[float] = []

        def index(name: str, sign: float, segments: int, first: int = 0) -> Tensor:
            """Return the parameter's place for each side and segment; -1 where there is none."""
            where = torch.full((2, joints), -1)
            for side in (DORSAL, VENTRAL):
                for i in range(first, first + segments):
                    place = {"all": "", "sides": f"{i}", "none": f"_{'dv'[side]}{i}"}
                    full = name + place[c.sharing]
                    if full not in self.names:
                        self.names.append(full)
                        signs.append(sign)
                    where[side, i] = self.names.index(full)
            return where

        n_turn = min(c.turn_joints, joints)
        self._drive = torch.where(
            torch.arange(joints) == 0, index("osc", 1, 1), index("prop", 1, joints - 1, first=1)
        )
        self._ipsi = index("ipsi", 1, joints)
        self._contra = index("contra", -1, joints)
        self._speed = index("speed", -1, joints) if c.speed else None
        self._turn = index("turn", 1, n_turn) if c.turn else None
        mask = torch.full((joints,), float(c.proprioception))
        mask[0] = float(c.oscillator)
        self._mask = mask
        self.signs = torch.tensor(signs, dtype=torch.float32)
        self._start = torch.tensor([c.osc_start if "osc" in n else 1.0 for n in self.names])
        if c.learn_period:
            self.names.append("period")
        self.size = len(self.names)

    def initial(self, generator: torch.Generator | None = None) -> Tensor:
        """Return parameters [D] to start from; effective weights are +-1 where init is constant.

        Without a sign constraint the signs are drawn too, as in the authors' ablation.
        """
        c, n = self.config, len(self.signs)
        draw = torch.rand(n, generator=generator)
        if c.constraint == "none":
            free = torch.where(draw < 0.5, -1.0, 1.0)
            weights = free * self._start if c.init == "constant" else 2 * draw - 1
        else:
            weights = self.signs * (self._start if c.init == "constant" else draw)
        if c.constraint == "softplus":
            weights = self.signs * _softplus_inverse(weights.abs().clamp(min=1e-3))
        return torch.cat([weights, torch.ones(1)]) if c.learn_period else weights

    def effective(self, parameters: Tensor) -> Tensor:
        """Return signed weights [..., D] (without the period) for parameters [..., D]."""
        raw = parameters[..., : len(self.signs)]
        signs = self.signs.to(raw)
        if self.config.constraint == "none":
            return raw
        if self.config.constraint == "clamp":
            return signs * torch.clamp(signs * raw, min=0)
        return signs * torch.nn.functional.softplus(signs * raw)

    def bind(self, parameters: Tensor) -> Weights:
        """Spread parameters [..., D] over the segments, once for many steps."""
        weights = self.effective(parameters)
        padded = torch.cat([weights, torch.zeros_like(weights[..., :1])], dim=-1)  # place -1
        period = torch.full(weights.shape[:-1], float(self.config.period)).to(weights)
        if self.config.learn_period:
            period = period * parameters[..., -1].clamp(0.1, 10)
        return Weights(
            padded[..., self._drive] * self._mask.to(weights),
            padded[..., self._ipsi],
            padded[..., self._contra],
            None if self._speed is None else padded[..., self._speed],
            None if self._turn is None else padded[..., self._turn],
            period,
        )

    def step_of(self, obs: Array) -> Array:
        """Return the control step [...] of observations [..., O] from their time feature."""
        return clock(obs, self.horizon)

    def act(self, weights: Weights, obs: Array) -> Array:
        """Return torques [..., N] for observations [..., O]."""
        return self.activity(weights, obs[..., : self.joints], self.step_of(obs)).torque

    def activity(
        self,
        w: Weights,
        angles: Array,
        step: Array,
        *,
        right: Any = 0.0,
        left: Any = 0.0,
        speed: Any = 1.0,
    ) -> Activity:
        """Return what every unit does: angles [..., N] (rad), step [...]; commands in [0, 1].

        `right` goes to the dorsal side. Equations of section 3 of the method's sheet; g clips to
        [0, 1].
        """
        xp = namespace(angles)
        dorsal = step % w.period < w.period // 2
        oscillator = xp.stack([dorsal, ~dorsal], -1)
        bend = angles[..., :-1] * (1 / self.limit)
        bends = xp.clip(xp.stack([bend, -bend], -2), 0, 1)
        inputs = xp.concatenate([oscillator[..., None], bends], -1)
        drive = w.drive * inputs
        if w.turn is not None:
            command = xp.stack([_unit(right, step), _unit(left, step)], -1)
            drive = drive + w.turn * command[..., None]
        if w.speed is not None:
            drive = drive + w.speed * (1 - _unit(speed, step))[..., None, None]
        neuron = xp.clip(drive, 0, 1)
        muscle = xp.clip(w.ipsi * neuron + w.contra * xp.flip(neuron, (-2,)), 0, 1)
        torque = muscle[..., DORSAL, :] - muscle[..., VENTRAL, :]
        return Activity(oscillator, neuron, muscle, torque)


def _unit(command: Any, like: Array) -> Array:
    return namespace(like).clip(like * 0 + command, 0, 1)


def _softplus_inverse(x: Tensor) -> Tensor:
    return x + torch.log(-torch.expm1(-x))


def joint_limit(links: int) -> float:
    """Return the swimmer's joint range, 2 pi / links rad (360 / links degrees)."""
    return 2 * math.pi / links
