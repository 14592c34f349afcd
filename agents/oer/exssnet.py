"""ExSSNeT: each task finds a mask of weights, and trains those that no task before it uses."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..seeding import generator
from ..training import adam
from .packnet import step_within
from .policy import ContinualPolicy

KEEP = 0.1  # of a layer's weights, in a mask
SCORE_LR = 0.01  # the authors' README
NEIGHBOURS, SHARE = 100, 0.66  # of KKT: neighbours asked, and rows that they are of


def neighbours_r2(features: Tensor, action: Tensor, k: int = NEIGHBOURS) -> float:
    """Return how well neighbours by features [N, H] tell actions [N, A]: R^2 of held-out rows.

    The first 66 % are asked; 1 - squared error over that of the held-out rows' own mean.
    """
    n = round(SHARE * len(features))
    nearest = torch.cdist(features[n:], features[:n]).topk(min(k, n), largest=False).indices
    rest = action[n:]
    error = (action[:n][nearest].mean(1) - rest).square().sum()
    return 1 - float(error / (rest - rest.mean(0)).square().sum())


class ExSSNeT:
    """Yadav & Bansal 2022 (arXiv:2210.10209) on pi; a `Rival`.

    The trunk's weights begin as constants of random sign, without biases. A task learns scores S,
    and plays with the tenth of each layer that is largest in |S| (straight through: a mask's
    gradient is that of its |S|). At its end the mask stays, and the weights in it that no earlier
    task's mask has are trained, the others never. The optimiser's step is masked, not the gradient:
    its momentum would move what is frozen. KKT: if actions of the new data can be told by
    neighbours in an old task's features, S begins with that task's mask on top.
    """

    from_scratch = retrains = True

    def __init__(self, policy: ContinualPolicy, weight: float = 0.0, seed: int = 0) -> None:
        assert policy.masks is not None
        self.policy, self.masks, self.seed = policy, policy.masks, seed
        self.task, self.fixed = 0, False  # whether its mask is found
        self.source = -1.0, 0.0  # of KKT: the task whose mask is begun with, and its R^2
        self.mine = self.scores = torch.empty(0)
        self.optimizer: torch.optim.Adam | None = None
        with torch.no_grad():
            for layer in policy.trunk:
                size = (2 / (KEEP * layer.in_features)) ** 0.5  # Kaiming's, of a tenth of the fan
                layer.weight.copy_(torch.where(layer.weight > 0, size, -size))
                layer.bias.zero_()

    @property
    def numbers(self) -> float:
        """Numbers kept beside the policy: a bit for each weight and task."""
        return self.masks.bytes * (self.task + 1) / 4

    def begin(self, task: int) -> None:
        """Draw the task's scores, and play with the mask that they make."""
        self.task, self.fixed, self.source = task, False, (-1.0, 0.0)
        draws = generator(self.seed, f"scores {task}")
        parts = []
        for layer in self.policy.trunk:
            uniform = torch.rand(layer.weight.numel(), generator=draws)
            parts.append((2 * uniform - 1) * layer.in_features**-0.5)
        self._score(torch.cat(parts))

    def _score(self, scores: Tensor) -> None:
        """Begin with these scores, and an optimiser of their own."""
        self.scores = nn.Parameter(scores)
        self.scores.grad = torch.zeros_like(scores)
        self.optimizer = adam(self.scores, SCORE_LR)
        self._choose()
        self._see()

    def _layers(self, flat: Tensor) -> list[Tensor]:
        """Return views of a flat vector, one for each layer's weights."""
        shapes = self.masks.shapes
        parts = torch.split(flat, [shape.numel() for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    @torch.no_grad()
    def _choose(self) -> None:
        """Play with the masks that the scores make; their own weights stand still."""
        masks = []
        for scores in self._layers(self.scores.detach()):
            count = max(1, round(KEEP * scores.numel()))
            mask = torch.zeros(scores.numel(), dtype=torch.bool)
            mask[scores.abs().flatten().topk(count).indices] = True
            masks.append(mask.view_as(scores))
        self.masks.put(self.task, masks, learned=True)

    def used(self) -> list[Tensor]:
        """Return which weights of each layer are in a mask of an earlier task."""
        used = [torch.zeros(shape, dtype=torch.bool) for shape in self.masks.shapes]
        for task in range(self.task):
            used = [u | m for u, m in zip(used, self.masks.kept(task), strict=True)]
        return used

    def _see(self) -> None:
        """Note which numbers of the flat policy may move: the head, later the new weights."""
        parts, pairs = [], zip(self.masks.kept(self.task), self.used(), strict=True)
        new = iter([mask & ~used & self.fixed for mask, used in pairs])
        for name, p in self.policy.named_parameters():
            may = torch.zeros_like(p, dtype=torch.bool)
            if name.startswith("head"):
                may[self.task] = True
            elif name.endswith("weight"):
                may = next(new)
            parts.append(may.flatten())
        self.mine = torch.cat(parts)

    @torch.no_grad()
    def meet(self, obs: Tensor, action: Tensor) -> None:
        """Begin with the mask of the old task whose features tell the data's actions best."""
        told = [neighbours_r2(self.policy.features(obs, t), action) for t in range(self.task)]
        if not told or max(told) <= 0:
            return
        best = told.index(max(told))
        self.source = float(best), told[best]
        masks = [m.flatten() for m in self.masks.kept(best)]
        raised = []
        for scores, mask in zip(self._layers(self.scores.detach()), masks, strict=True):
            size, order = scores.abs().flatten(), scores.abs().flatten().add(mask)
            ranked = torch.empty_like(size)
            ranked[order.argsort(descending=True)] = size.sort(descending=True).values
            raised.append(ranked.copysign(scores.flatten()))
        self._score(torch.cat(raised))

    def step(self, optimizer: Optimizer, loss: Tensor, obs: Tensor) -> None:
        """Step down the loss: the head, and the scores, or the new weights once these stand."""
        step_within(optimizer, loss, self.mine)
        if self.fixed:
            return
        assert self.optimizer is not None and self.scores.grad is not None
        gradients = [m.grad.flatten() for m in self.masks.live if m.grad is not None]
        self.scores.grad.copy_(torch.cat(gradients) * self.scores.detach().sign())
        self.optimizer.step()
        self._choose()

    def end(self, obs: Tensor) -> None:
        """Fix the mask; what is left of the task trains its new weights."""
        self.fixed = True
        self._stand()

    def _stand(self) -> None:
        self.masks.put(self.task, self.masks.kept(self.task), learned=False)
        self._see()

    def row(self) -> dict[str, float]:
        """Return the mask's share that older ones use, what no task uses, and what KKT found."""
        masks, used = self.masks.kept(self.task), self.used()
        own, old = (torch.cat([x.flatten() for x in parts]) for parts in (masks, used))
        return {
            "mask_overlap": float((own & old).sum() / own.sum()),
            "free": float((~(own | old)).float().mean()),
            "transfer_from": self.source[0],
            "transfer_r2": self.source[1],
        }

    def state_dict(self) -> dict[str, Any]:
        """Scores with their optimiser, whether they are done, what KKT found."""
        assert self.optimizer is not None
        scores = self.scores.detach()
        made = {"scores": scores, "optimizer": self.optimizer.state_dict()}
        return {**made, "fixed": self.fixed, "source": self.source}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`, with the policy's masks as they were saved."""
        self.source = state["source"]
        self._score(state["scores"].clone())
        assert self.optimizer is not None
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.fixed = bool(state["fixed"])
        if self.fixed:
            self._stand()
