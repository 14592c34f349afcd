"""Which of a trunk's shared weights each task plays with: a bit for each weight and task."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

POWERS = 2 ** torch.arange(8)


def pack(mask: Tensor) -> Tensor:
    """Return the bits of a mask, eight to a byte [ceil(numel / 8)], the first one lowest."""
    bits = nn.functional.pad(mask.flatten().long(), (0, -mask.numel() % 8))
    return (bits.view(-1, 8) * POWERS).sum(1).to(torch.uint8)


def unpack(packed: Tensor, shape: torch.Size) -> Tensor:
    """Return the mask of a shape that was packed."""
    bits = (packed.long()[:, None] & POWERS) != 0
    return bits.flatten()[: shape.numel()].view(shape)


class Supermasks(nn.Module):
    """Masks of all layers, for each task; kept, and saved, as bits."""

    def __init__(self, shapes: Sequence[torch.Size], tasks: int) -> None:
        super().__init__()
        self.shapes = list(shapes)
        self.now = -1  # the task whose masks stand in `live`, as numbers with gradients
        self.live: list[Tensor] = []
        for i, shape in enumerate(shapes):
            none = torch.zeros(tasks, -(-shape.numel() // 8), dtype=torch.uint8)
            self.register_buffer(f"packed{i}", none)

    @property
    def bytes(self) -> int:
        """Size of one task's masks."""
        return sum(-(-shape.numel() // 8) for shape in self.shapes)

    def put(self, task: int, masks: Sequence[Tensor], *, learned: bool) -> None:
        """Keep a task's masks; `learned` ones have gradients where they are played with."""
        for i, mask in enumerate(masks):
            getattr(self, f"packed{i}")[task] = pack(mask)
        self.now, self.live = task, [m.float().requires_grad_(learned) for m in masks]

    def kept(self, task: int) -> list[Tensor]:
        """Return a task's masks, true where a weight is used."""
        every = enumerate(self.shapes)
        return [unpack(getattr(self, f"packed{i}")[task], shape) for i, shape in every]

    def of(self, i: int, task: int) -> Tensor:
        """Return what a task's weights of layer i are multiplied by."""
        if task == self.now:
            return self.live[i]
        return unpack(getattr(self, f"packed{i}")[task], self.shapes[i])
