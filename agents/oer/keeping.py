"""What happens at the end of a task: choose what is kept of it, and keep it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...buffers import Dataset
from ...envs import BatchEnv
from ..acting import EVAL_SEED, advance
from ..dynamics import DynamicsConfig, DynamicsEnsemble
from ..seeding import generator, stream_seed
from .distilled import Distilled
from .learner import OER
from .selectors import SELECTORS, Pick

NEEDS_MODEL = ("mbes", "model")


@dataclass(frozen=True)
class Keeping:
    """What is kept of a task, and how it is chosen; fields as in the configuration of `oer`."""

    memory: str
    selector: str
    budget: int
    gate: float | None
    match: str
    revisit: str
    walk: int
    distilled_steps: int
    fidelity: tuple[str, ...]
    dynamics: DynamicsConfig


def close(
    keeping: Keeping,
    learner: OER,
    distilled: Distilled,
    data: Dataset,
    judge: BatchEnv,
    seed: int,
) -> tuple[dict[str, float], dict[str, float]]:
    """End the current task: choose what is kept of it, and keep it.

    Returns the distances of `fidelity`'s selectors to real rollouts, and the selector's report.
    """
    c, task = keeping, learner.task
    learner.settle()
    some = torch.randint(len(data), (1000,), generator=generator(seed, f"anchor {task}"))
    learner.anchor(data.gather(some).obs)
    if c.memory == "distilled":
        distilled.distil(task, data, learner, c.distilled_steps, seed)
    model, states = None, None
    kept = (c.selector,) if c.memory == "replay" else ()
    looked_at = dict.fromkeys((*kept, *c.fidelity))
    if looked_at.keys() & {*NEEDS_MODEL}:
        shape = data.layout.obs_dim, data.layout.act_dim
        model = DynamicsEnsemble(*shape, c.dynamics, seed=stream_seed(seed, f"models {task}"))
        source = data.select(torch.arange(len(data)), seed=stream_seed(seed, f"fit {task}"))
        model.fit(source, data.all)
    if c.fidelity or "online" in kept:
        states = visited(learner, judge)
    distances, report = {}, {}
    for selector in looked_at:
        pick = Pick(
            data=data,
            budget=c.budget,
            generator=generator(seed, f"select {task}"),
            act=learner.act,
            model=model,
            td_error=lambda rows: learner.td_error(data.gather(rows)),
            visited=states,
            gate=c.gate,
            match=c.match,
            revisit=c.revisit,
            walk=c.walk,
        )
        rows = data.gather(SELECTORS[selector](pick))
        if selector in kept:
            learner.remember(rows.obs, rows.action)
            report = {f"select_{k}": v for k, v in pick.report.items()}
        if selector in c.fidelity and states is not None:
            distances[selector] = distance(states, rows.obs, data)
    return distances, report


def visited(learner: OER, judge: BatchEnv) -> Tensor:
    """Return the states [M, O] of one real episode of mu in every world of a judge."""
    obs, rows = judge.reset(EVAL_SEED + 1_000_000), []
    running = torch.ones(judge.num_envs, dtype=torch.bool)
    while bool(running.any()):
        rows.append(obs[running])
        batch, valid, obs = advance(judge, obs, learner.act(obs))
        running &= (batch.terminated + batch.truncated == 0) & valid
    return torch.cat(rows)


def distance(states: Tensor, memory: Tensor, data: Dataset) -> float:
    """Return the mean distance from visited states to the nearest of a memory, z-scored."""
    mean, std = data.moments()
    pairs = torch.cdist((states - mean) / std, (memory - mean) / std)
    return float(pairs.min(1).values.mean())
