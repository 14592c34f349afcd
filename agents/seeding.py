"""Independent random streams from one seed."""

import zlib

import numpy as np
import torch


def stream_seed(seed: int, stream: str) -> int:
    """Return a seed for a named stream, unrelated to those of other names and other seeds."""
    entropy = np.random.SeedSequence([seed, zlib.crc32(stream.encode())])
    return int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, stream: str, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a generator of the named stream."""
    return torch.Generator(device).manual_seed(stream_seed(seed, stream))
