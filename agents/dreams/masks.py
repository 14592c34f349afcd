"""Dropout masks as data of a dream: each one is another world (Wellmer & Kwok 2021).

A mask holds 0 or 1/(1 - p), and p = 0 leaves what it multiplies as it is, bit for bit. What is
masked is the model's business: the state's inputs and hidden layers, never an action.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from .streams import Stream

Masks = tuple[Tensor, ...]  # [N, width] for each width of the model; () leaves the model whole


def scale(p: float) -> float:
    """Return the value of what is kept: inverted dropout."""
    return 1 / (1 - p)


def parts(masks: Tensor, widths: Sequence[int]) -> Masks:
    """View masks [..., sum(widths)] as one mask for each width."""
    ends = [*accumulate(widths)]
    return tuple(masks[..., end - w : end] for w, end in zip(widths, ends, strict=True))


def kept(words: Tensor, width: int, p: float) -> Tensor:
    """Return masks [N, width] of random 64-bit words [N, width / 4], at rate p to a 65,536th.

    A word gives four: a draw of its own for each would cost more than the model's step.
    """
    bits = words.view(torch.int16)
    masks = torch.empty(bits.shape)
    torch.ge(bits, round(p * 2**16) - 2**15, out=masks)  # compares and casts at once
    return masks.mul_(scale(p))[..., :width]


def drawn(stream: Stream, width: int, p: float) -> Tensor:
    """Return masks [N, width] from each world's stream."""
    return kept(torch.from_numpy(stream.words(-(-width // 4)).view(np.int64)), width, p)


def trained(shape: Sequence[int], p: float, generator: torch.Generator) -> Tensor:
    """Return masks [*shape] for a step of a fit."""
    words = torch.empty(*shape[:-1], -(-shape[-1] // 4), dtype=torch.int64)
    return kept(words.random_(-(2**63), None, generator=generator), shape[-1], p)


def fixed(widths: Sequence[int], n: int, p: float, generator: torch.Generator) -> Tensor:
    """Return n masks [n, sum(widths)] to be kept for good (Masksembles, Durasov et al. 2021).

    Each keeps exactly its share of every width; how much two of them have in common follows from
    p: their scale S is 1/(1 - p). What is kept has the value of the share that is really kept.
    """
    out = []
    for width in widths:
        keep = max(round((1 - p) * width), 1)
        order = torch.rand(n, width, generator=generator).argsort(1)
        out.append((order.argsort(1) < keep) * (width / keep))
    return torch.cat(out, 1)
