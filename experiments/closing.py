"""What `reverie oer` does at the end of a task: choose what is kept of it, and keep it."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..agents.dynamics import DynamicsEnsemble
from ..agents.oer.distilled import Frozen
from ..agents.oer.learner import OER
from ..agents.oer.selectors import SELECTORS, Pick
from ..agents.seeding import generator, stream_seed
from ..buffers import Dataset
from ..envs import BatchEnv
from .offpolicy import EVAL_SEED
from .rollout import advance
from .run import Run

if TYPE_CHECKING:
    from .oer import Config

NEEDS_MODEL = ("mbes", "model")


def close(
    run: Run, c: "Config", learner: OER, frozen: Frozen, data: Dataset, judge: BatchEnv
) -> dict[str, float]:
    """End the current task: choose what is kept of it, and keep it; return `distances`."""
    task, seed = learner.task, c.seed
    learner.settle()
    some = torch.randint(len(data), (1000,), generator=generator(seed, f"anchor {task}"))
    learner.anchor(data.gather(some).obs)
    if c.memory == "distilled":
        frozen.distil(task, data, learner, c.distilled_steps, seed)
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
    distances = {}
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
            if pick.report:
                run.log({f"select_{k}": v for k, v in pick.report.items()}, kind="selection")
        if selector in c.fidelity and states is not None:
            distances[selector] = distance(states, rows.obs, data)
    return distances


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
