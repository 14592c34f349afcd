"""What the stages on a GPU have in common: measurements, toy sizes, waiting, rates."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .report import measure


class Measure(NamedTuple):
    """One number of one case."""

    case: str
    what: str
    value: float
    unit: str


Case = tuple[str, Callable[[], Iterator[Measure]]]


@dataclass(frozen=True)
class Toy:
    """Sizes at which everything runs on a CPU in a second or two."""

    worlds: int = 2
    tasks: tuple[str, ...] = ("HalfCheetah-v5",)
    hidden: tuple[int, ...] = (8, 8)
    batch: int = 8
    seconds: float = 0.001


def wait(device: str | torch.device) -> None:
    """Wait for what was launched on a GPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def rate(work: Callable[[], int], device: str, seconds: float) -> float:
    """Return how much per second `work` gets done, after two calls that do not count.

    The device is waited for after each call: `work` launches much.
    """

    def whole() -> int:
        done = work()
        wait(device)
        return done

    for _ in range(2):
        whole()
    return measure(whole, seconds)
