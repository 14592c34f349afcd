"""Independent random streams from one seed."""

import zlib
from collections.abc import Sequence
from typing import overload

import numpy as np
import torch

Generators = torch.Generator | tuple[torch.Generator, ...]  # one, or one for each member


def stream_seed(seed: int, stream: str) -> int:
    """Return a seed for a named stream, unrelated to those of other names and other seeds."""
    entropy = np.random.SeedSequence([seed, zlib.crc32(stream.encode())])
    return int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))


@overload
def generator(seed: int, stream: str, device: str | torch.device = "cpu") -> torch.Generator: ...
@overload
def generator(
    seed: int | Sequence[int], stream: str, device: str | torch.device = "cpu"
) -> Generators: ...
def generator(
    seed: int | Sequence[int], stream: str, device: str | torch.device = "cpu"
) -> Generators:
    """Return a generator of the named stream; of several seeds a tuple of their generators."""
    if isinstance(seed, Sequence):
        return tuple(generator(s, stream, device) for s in seed)
    return torch.Generator(device).manual_seed(stream_seed(int(seed), stream))
