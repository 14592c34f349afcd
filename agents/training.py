"""What makes networks learn, and what is saved of a learner: none of it runs in a step."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..buffers.dataset import rows_digest
from .networks import initialise
from .population import at_rates, spread
from .seeding import Generators

M = TypeVar("M", bound=nn.Module)


def flatten(module: nn.Module) -> nn.Parameter:
    """Lay a module's parameters, and their gradients, into one vector and return it.

    The module's parameters become views of it, so that an optimiser step or a polyak step is one
    operation on one tensor instead of a Python loop over all of them.
    """
    parameters = list(module.parameters())
    flat = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
    flat.grad = torch.zeros_like(flat)
    at = 0
    for p in parameters:
        p.data = flat.data[at : at + p.numel()].view_as(p)
        p.grad = flat.grad[at : at + p.numel()].view_as(p)
        at += p.numel()
    return flat


def adam(
    vector: Tensor, lr: float | Tensor, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.Adam:
    """Return the optimiser that every learner here uses, of one tensor; `lr` may be one like it.

    It counts its steps where the tensor is, so that a CUDA graph may record them (`capturable`).
    """
    most = float(lr.max()) if isinstance(lr, Tensor) else lr
    optimizer = torch.optim.Adam([vector], most, betas, fused=True, capturable=True)
    if isinstance(lr, Tensor):
        at_rates(optimizer, vector, lr)
    return optimizer


def trained(
    module: nn.Module,
    lr: float | Tensor,
    generator: Generators | None = None,
    device: str | torch.device = "cpu",
) -> tuple[nn.Parameter, torch.optim.Adam]:
    """Move a module, draw its weights, and return them flat with their Adam.

    Without a generator the module keeps the weights that it has. `lr`: [K, 1] where the members of
    a population differ in it.
    """
    if generator is not None:
        initialise(module, generator)
    flat = flatten(module.to(device))
    return flat, adam(flat, spread(lr, module.parameters()))


def compiler(wanted: bool | str, device: str | torch.device) -> Any:
    """Return torch.compile, or what leaves a function as it is: False, or "graphs" (`graphs.py`).

    Raises ValueError where the CPU's code cannot be compiled: no C++ compiler is there.
    """
    if wanted is not True:
        return lambda f: f
    if torch.device(device).type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            raise ValueError(
                "compile=True, and torch.compile finds no C++ compiler: install g++ (or name one "
                "in CXX), or give --compile False, which is slower and otherwise the same"
            ) from None
    return torch.compile


def digest(rows: Tensor) -> int:
    """Return the first 64 bits of the sha256 of the rows that a model was fitted to."""
    return int(rows_digest(rows)[:16], 16)


def facts(fit: Any) -> dict[str, Any]:
    """Return what a model was fitted on, and how: numbers and text for its file."""
    return {
        "fits": fit.fits,
        "updates": fit.updates,
        "rows": fit.rows,
        "rows_sha256": f"{fit.digest:016x}",  # its first 16 digits
        "held_out_loss": float(fit.best_loss) if fit.best_loss < math.inf else None,
    }


def lagging(module: M) -> tuple[M, nn.Parameter]:
    """Return a copy of a module, its target network, and that flat; no gradient reaches it."""
    target = copy.deepcopy(module)
    flat = flatten(target)
    for p in (flat, *target.parameters()):
        p.requires_grad_(False).grad = None
    return target, flat


def pack(owner: object, names: Sequence[str]) -> dict[str, Any]:
    """Return the state of a learner's named parts: what has a state, tensors, numbers, dicts."""
    return {name: _packed(getattr(owner, name)) for name in names}


def unpack(owner: object, names: Sequence[str], state: Mapping[str, Any]) -> None:
    """Put back what `pack` returned; a state that lacks a part is refused before any is changed."""
    if lacking := [name for name in names if name not in state]:
        kind = type(owner).__name__
        raise ValueError(
            f"{kind}: the state lacks {', '.join(lacking)}; it has {', '.join(state)}: another "
            "learner or another version saved it"
        )
    for name in names:
        setattr(owner, name, _unpacked(getattr(owner, name), state[name]))


def _packed(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _packed(one) for name, one in part.items()}
    if isinstance(part, tuple):
        return [_packed(one) for one in part]
    if isinstance(part, torch.Generator):
        return part.get_state()
    if isinstance(part, Tensor):
        return part.detach().clone()
    return part if isinstance(part, int) else part.state_dict()


def _unpacked(part: Any, state: Any) -> Any:
    if isinstance(part, dict):
        return {name: _unpacked(one, state[name]) for name, one in part.items()}
    if isinstance(part, tuple):
        return tuple(_unpacked(one, kept) for one, kept in zip(part, state, strict=True))
    if isinstance(part, int):
        return int(state)
    if isinstance(part, Tensor) and not part.requires_grad:  # the old one may have been handed out
        return state.detach().to(part.device, copy=True)
    if isinstance(part, Tensor):
        with torch.no_grad():
            part.copy_(state)  # its optimiser holds it
    elif isinstance(part, torch.Generator):
        part.set_state(state)
    else:
        part.load_state_dict(copy.deepcopy(state))  # optimisers keep the tensors they are given
    return part
