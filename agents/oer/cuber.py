"""CUBER: no step in what old tasks' layers see, but where a step would help the old task too."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .fisher import affine, with_one
from .packnet import heads_of, step_within
from .policy import ContinualPolicy

ENERGY, MORE = 0.97, 0.003  # of a layer's inputs that its bases hold, and that each task adds
OVERLAP, AGREE, MOST = 0.5, 0.0, 2  # eps_1, eps_2, and old tasks of a layer that may be helped


class Space:
    """Orthonormal directions [I + 1, K] of a layer's inputs, and which of them each task needs."""

    def __init__(self, width: int) -> None:
        self.bases = torch.empty(width, 0)
        self.tasks: list[Tensor] = []  # column numbers

    def add(self, inputs: Tensor, energy: float) -> None:
        """Add a task's inputs [B, I + 1]: the fewest directions, old or new, of that energy.

        New ones are the singular vectors of what the old ones leave over.
        """
        rest = inputs - inputs @ self.bases @ self.bases.T
        _, sizes, new = torch.linalg.svd(rest, full_matrices=False)
        has = torch.cat([(inputs @ self.bases).square().sum(0), sizes.square()])
        order = has.argsort(descending=True)
        short = has[order].cumsum(0) < energy * inputs.square().sum()
        chosen = order[: int(short.sum()) + 1]
        chosen = chosen[has[chosen] > 1e-9 * has.sum()]  # at energy 1 no direction without any
        old = self.bases.shape[1]
        fresh = chosen[chosen >= old].sort().values
        self.bases = torch.cat([self.bases, new[fresh - old].T], 1)
        numbers = torch.arange(old, self.bases.shape[1])
        self.tasks.append(torch.cat([chosen[chosen < old].sort().values, numbers]))

    def of(self, task: int) -> Tensor:
        """Return the directions [I + 1, K_t] of a task."""
        return self.bases[:, self.tasks[task]]

    def without(self, helped: list[int]) -> Tensor:
        """Return the directions that any old task needs but those in `helped`."""
        needs = torch.zeros(self.bases.shape[1], dtype=torch.bool)
        for task, numbers in enumerate(self.tasks):
            needs[numbers] |= task not in helped
        return self.bases[:, needs]


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine between two matrices, 0 where one is 0."""
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-20))


class CUBER:
    """Lin et al. 2022 (arXiv:2211.00789) on pi's trunk; a `Rival`. Not built: its scaling matrices.

    A layer is (W, b), its inputs (x, 1). In the directions of old tasks' inputs a step is taken
    back, so that their outputs stay, but for old tasks that the new one's first gradient g agrees
    with: |g in their directions| > eps_1 |g| and cosine(g, their last gradient) > eps_2. For those
    weight |(W - W_begin) in their directions| is added to the loss, and the step is taken back
    whenever the cosine of its gradient is no longer above eps_2. It is the optimiser's step that is
    projected: its momentum would leave the gradient's directions.
    """

    from_scratch = True  # where pi is mu its last gradient is 0
    retrains = False

    def __init__(self, policy: ContinualPolicy, weight: float, seed: int = 0) -> None:
        self.policy, self.weight, self.task = policy, weight, 0
        self.spaces = [Space(m.in_features + 1) for m in policy.trunk]
        self.gradients: list[list[Tensor]] = []  # the last of each old task, [H, I + 1] each
        self.helped: list[list[int]] | None = None  # old tasks of each layer, by the first step
        self.begun = self._layers()
        self.mine = heads_of(policy, 0, trunk=True)
        self.last = self.begun  # the gradient of the last step

    @property
    def numbers(self) -> float:
        """Numbers kept beside the policy: directions, who needs them (a byte), last gradients."""
        count = float(sum(g.numel() for task in self.gradients for g in task))
        for s in self.spaces:
            count += s.bases.numel() + sum(t.numel() for t in s.tasks) / 4
        return count

    def _layers(self) -> list[Tensor]:
        """Return (W, b) [H, I + 1] of each layer as it is now."""
        return [w.detach() for w in affine(self.policy.trunk)]

    def begin(self, task: int) -> None:
        """Start a task: whom it helps, its first step says."""
        self.task, self.helped, self.begun = task, None, self._layers()
        self.mine = heads_of(self.policy, task, trunk=True)
        self.last = [torch.zeros_like(w) for w in self.begun]

    def meet(self, obs: Tensor, action: Tensor) -> None:
        """Nothing is asked of the data."""

    def choose(self, grads: list[Tensor]) -> list[list[int]]:
        """Return for each layer the old tasks that a first gradient [H, I + 1] helps."""
        helped = []
        for i, (g, space) in enumerate(zip(grads, self.spaces, strict=True)):
            inside = [float((g @ space.of(t)).norm()) for t in range(self.task)]
            near = [t for t in range(self.task) if inside[t] > OVERLAP * float(g.norm())]
            near = sorted(near, key=lambda t: -inside[t])[:MOST]
            helped.append([t for t in near if cosine(self.gradients[t][i], g) > AGREE])
        return helped

    def step(self, optimizer: Optimizer, loss: Tensor, obs: Tensor) -> None:
        """Step down the loss, without what would change the outputs of tasks not helped."""
        now = affine(self.policy.trunk)
        own = [x for m in self.policy.trunk for x in (m.weight, m.bias)]
        flat = torch.autograd.grad(loss, own, retain_graph=True)
        pairs = zip(flat[::2], flat[1::2], strict=True)
        self.last = [torch.cat([w, b[:, None]], 1) for w, b in pairs]
        if self.helped is None:
            self.helped = self.choose(self.last)
        every = zip(now, self.begun, self.spaces, self.helped, strict=True)
        moved = [((w - w0) @ s.of(t)).norm() for w, w0, s, tasks in every for t in tasks]
        total = loss + self.weight * torch.stack(moved).sum() if moved else loss
        step_within(optimizer, total, self.mine)
        self.take_back([w.detach() for w in now])

    @torch.no_grad()
    def take_back(self, before: list[Tensor]) -> None:
        """Undo the part of a step from `before` that lies in the directions of tasks not helped."""
        assert self.helped is not None
        every = zip(self.policy.trunk, self._layers(), before, self.spaces, strict=True)
        for i, (m, now, was, space) in enumerate(every):
            old = [self.gradients[t][i] for t in self.helped[i]]
            pairs = zip(self.helped[i], old, strict=True)
            bases = space.without([t for t, g in pairs if cosine(g, self.last[i]) > AGREE])
            kept = now - (now - was) @ bases @ bases.T
            m.weight.copy_(kept[:, :-1])
            m.bias.copy_(kept[:, -1])

    @torch.no_grad()
    def end(self, obs: Tensor) -> None:
        """Add the directions of the task's inputs, and keep its last gradient."""
        x = obs
        for m, space in zip(self.policy.trunk, self.spaces, strict=True):
            space.add(with_one(x), ENERGY + MORE * self.task)
            x = torch.relu(m(x))
        self.gradients.append([g.clone() for g in self.last])

    def row(self) -> dict[str, float]:
        """Return the share of all directions that is taken, and how many (layer, task) it helps."""
        taken = sum(s.bases.shape[1] for s in self.spaces) / sum(len(s.bases) for s in self.spaces)
        return {"directions": taken, "helped": float(sum(map(len, self.helped or [])))}

    def state_dict(self) -> dict[str, Any]:
        """Directions, gradients, and what the task has begun with."""
        return {
            "spaces": [(s.bases, s.tasks) for s in self.spaces],
            "gradients": self.gradients,
            "now": (self.helped, self.begun, self.last),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        for space, (bases, tasks) in zip(self.spaces, state["spaces"], strict=True):
            space.bases, space.tasks = bases, list(tasks)
        self.gradients = [list(task) for task in state["gradients"]]
        helped, begun, last = state["now"]
        self.helped = None if helped is None else [list(tasks) for tasks in helped]
        self.begun, self.last = list(begun), list(last)
