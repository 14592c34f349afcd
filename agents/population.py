"""K learners as one: what their members may differ in, and each member's part of the whole.

A population is a learner whose tensors have a leading dimension K. Of its networks each parameter
is [K, ...], or [K E, ...] for the E critics of each member, members one after the other.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .api import within

C = TypeVar("C")
Seeds = int | Sequence[int]  # of one learner, or of the members of a population


def joined(
    config: C | Sequence[C] | None,
    default: C,
    seed: Seeds,
    may_differ: Sequence[str],
    device: str | torch.device = "cpu",
) -> C:
    """Return the settings of all members as one; where they differ in a number it is [K, 1].

    Raises ValueError for one out of bounds, for one in which they differ and may not, and where
    there is not one configuration for each seed.
    """
    every: Any = config if isinstance(config, Sequence) else [config or default]
    for c in every:
        within(c, **c.bounds)
    if not isinstance(config, Sequence):
        return config or default
    if not isinstance(seed, Sequence) or len(seed) != len(config):
        raise ValueError(f"{len(config)} configurations, and seeds {seed}: give one for each")
    own: dict[str, Tensor] = {}
    for field in dataclasses.fields(default):  # type: ignore[arg-type]
        values = [getattr(c, field.name) for c in config]
        other = next((v for v in values if v != values[0]), values[0])
        if other != values[0]:
            if field.name not in may_differ:
                raise ValueError(
                    f"members of a population have {field.name}={values[0]!r} and {other!r}: they "
                    f"may differ in {', '.join(may_differ)}, which are numbers"
                )
            own[field.name] = torch.tensor(values, device=device)[:, None]
    return dataclasses.replace(config[0], **own)  # type: ignore[type-var]


def lead_of(seed: Seeds) -> tuple[int, ...]:
    """Return the leading dimensions of a learner's tensors: (K,), or () for one learner."""
    return (len(seed),) if isinstance(seed, Sequence) else ()


def log_temperature(alpha: float | Tensor, lead: tuple[int, ...], device: Any) -> Tensor:
    """Return log alpha to be learned: a number, or [K, 1] of the members."""
    first: Any = alpha.log() if isinstance(alpha, Tensor) else math.log(alpha)
    shape = (*lead, 1) if lead else ()
    return torch.zeros(shape, device=device).add_(first).requires_grad_()


def spread(value: Any, parameters: Iterable[Tensor]) -> Any:
    """Return what is [K, 1] as a vector beside flat parameters; a number stays a number."""
    if not isinstance(value, Tensor):
        return value
    per = value.flatten()
    return torch.cat([per.repeat_interleave(p.numel() // len(per)) for p in parameters])


class MembersLinear(nn.Module):
    """The linear layers of K actors as one batched matrix product, laid out as nn.Linear's."""

    def __init__(self, members: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.weight = nn.Parameter(torch.empty(members, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(members, out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map [K, B, in] to [K, B, out]."""
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.mT)


def at_rates(adam: torch.optim.Adam, vector: Tensor, rates: Tensor) -> None:
    """Let an Adam of one vector take each element's step at its own rate; its own is the largest.

    Its step is a rate times what does not depend on it (Kingma & Ba 2015, algorithm 1): what it
    takes is gone back to each element's share.
    """
    share, x = (rates / rates.max()).to(vector).view_as(vector), vector.detach()
    before = torch.empty_like(x)

    def keep(*_: object) -> None:
        before.copy_(x)

    def go_back(*_: object) -> None:
        torch.lerp(before, x, share, out=x)

    adam.register_step_pre_hook(keep)
    adam.register_step_post_hook(go_back)


def member(weights: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """Return member k's own copy of an actor's weights [K, ...], as a learner alone has them."""
    return {name: w.detach()[k].clone() for name, w in weights.items()}


def policy_of(state: Mapping[str, Any], k: int) -> dict[str, Any]:
    """Return what acts of member k in a learner's state: what its policy is loaded from."""
    if "inner" in state:  # on z-scores, with moments [K, 1, O]
        moments = {name: state[name][k, 0].clone() for name in ("mean", "std")}
        return {"inner": policy_of(state["inner"], k), **moments}
    acting = {"acting": state["acting"][k]} if "acting" in state else {}
    return {"actor": member(state["actor"], k), **acting}
