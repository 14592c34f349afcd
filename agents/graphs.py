"""U gradient steps in one call; on CUDA recorded as one graph, draws included, and replayed.

What is recorded is what runs eagerly. A graph reads its batches from one place and leaves its
metrics in another, goes on from where parameters, moments and generators are, and leaves them
there. Python's part of a step, the counter of updates, is done by hand.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..buffers import Source, Transitions
from ..buffers.transitions import stack
from .api import Metrics

MOST = 64  # updates of one call: a graph has as many times the launches of one


def each(update: Callable[[Transitions], Metrics], batches: Transitions) -> Metrics:
    """Take a step on each of U batches [U, ...], in turn; return the metrics of the last."""
    metrics: Metrics = {}
    for i in range(len(batches.reward)):
        metrics = update(batches.map(lambda x, i=i: x[i]))  # type: ignore[misc]
    return metrics


def most(compile: bool | str) -> int:
    """Return how many updates one call may take: several where they are recorded, else 1."""
    return MOST if compile == "graphs" else 1


def drawn(source: Source, n: int, updates: int) -> Transitions:
    """Return `updates` batches of n [U, n], each drawn on its own: mixtures keep their shares."""
    return stack([source.sample(n) for _ in range(updates)])


class OnCuda:
    """Launches on a stream of their own: run there once, which loads kernels, then recorded."""

    def __init__(self, device: torch.device) -> None:
        stream: Any = torch.cuda.Stream  # whose stubs have no types
        self.device, self.stream = device, stream(device)

    def run(self, launches: Callable[[], Metrics]) -> Metrics:
        """Run them, and let what follows wait for them."""
        now = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(now)
        with torch.cuda.stream(self.stream):
            out = launches()
        now.wait_stream(self.stream)
        return out

    def record(
        self, launches: Callable[[], None], generators: tuple[torch.Generator, ...]
    ) -> Callable[[], None]:
        """Return what replays them; the generators go on with each replay. Runs nothing yet."""
        graph = torch.cuda.CUDAGraph()
        for g in generators:
            graph.register_generator_state(g)
        with torch.cuda.device(self.device), torch.cuda.graph(graph, stream=self.stream):
            launches()
        return graph.replay


class Recorded:
    """U steps of an agent on batches of one shape, from one place in the actor's delay."""

    def __init__(
        self, step: Callable[[Transitions], Metrics], agent: Any, batches: Transitions, where: Any
    ) -> None:
        self.step, self.agent, self.where = step, agent, where
        self.batches = batches.map(torch.clone)
        self.replay: Callable[[], None] | None = None
        self.names: list[str] = []
        self.metrics: Tensor | None = None  # [M, ...], where the graph leaves them

    def take(self) -> Metrics:
        """Take the steps on what lies in `batches`."""
        return each(self.step, self.batches)

    def launch(self) -> None:
        """Take them, and leave the metrics in one tensor."""
        metrics = self.take()
        self.names, self.metrics = list(metrics), torch.stack(list(metrics.values()))

    def __call__(self, batches: Transitions) -> Metrics:
        """Record at the first call, of a shape that ran before, and replay."""
        for to, x in zip(_tensors(self.batches), _tensors(batches), strict=True):
            to.copy_(x)
        if self.replay is None:
            g = self.agent.generator
            self.replay = self.where.record(self.launch, g if isinstance(g, tuple) else (g,))
        else:
            self.agent.updates += len(batches.reward)
        self.replay()
        assert self.metrics is not None
        return dict(zip(self.names, self.metrics.clone(), strict=True))


class Steps:
    """What an agent does with a batch, or with U of them [U, ...]: `compile="graphs"` records it.

    The first call of a shape runs, the second records. Whatever loads another state calls `forget`:
    it may put tensors elsewhere.
    """

    def __init__(self, agent: Any, compile: bool | str) -> None:
        self.agent, self.wanted = agent, most(compile) > 1
        self.where = OnCuda(agent.device) if self.wanted and agent.device.type == "cuda" else None
        self.forget()

    def forget(self) -> None:
        """Drop what is recorded."""
        self.seen: dict[tuple[int, ...], Recorded] = {}

    def take(self, batch: Transitions) -> Metrics:
        """Take one step, its draws included; return its metrics."""
        metrics: Metrics = self.agent._update(batch, self.agent.draw(batch.reward.shape[-1]))
        return metrics

    def __call__(self, batch: Transitions) -> Metrics:
        """Take one step, or U; return the metrics of the last."""
        one = batch.reward.dim() == 1 + len(self.agent.lead)
        batches = batch.map(lambda x: x[None]) if one else batch
        if self.where is None:
            return each(self.take, batches)
        delay = self.agent.updates % self.agent.config.policy_delay
        key = (*batches.reward.shape, delay)
        if key not in self.seen:
            self.seen[key] = Recorded(self.take, self.agent, batches, self.where)
            out: Metrics = self.where.run(self.seen[key].take)
            return out
        return self.seen[key](batches)


def _tensors(batch: Transitions) -> tuple[Tensor, ...]:
    return (*batch[:-1], *batch.extra.values())
