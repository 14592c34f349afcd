"""What happens at the end of a task: choose what is kept of it, and keep it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...buffers import Dataset
from ...envs import BatchEnv
from ..acting import advance
from ..dynamics import DynamicsConfig, DynamicsEnsemble
from ..playing import EVAL_SEED, Stopped, cap_of, never
from ..seeding import generator, stream_seed
from .learner import OER
from .memory import Kept
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


def anchor(learner: OER, data: Dataset, seed: int) -> None:
    """End a task for the learner: pi settles, penalties are fixed by the data's states."""
    learner.settle()
    some = torch.randint(len(data), (1000,), generator=generator(seed, f"anchor {learner.task}"))
    learner.anchor(data.gather(some).obs)


def selectors_of(c: Keeping) -> list[str]:
    """Return the selectors asked at a task's end: the one that keeps, and those compared."""
    return list(dict.fromkeys([*((c.selector,) if c.memory == "replay" else ()), *c.fidelity]))


def model_of(c: Keeping, data: Dataset, task: int, seed: int) -> DynamicsEnsemble | None:
    """Return dynamics models to be fitted to a task's data, None if no selector asks for any."""
    if not {*selectors_of(c)} & {*NEEDS_MODEL}:
        return None
    shape = data.layout.obs_dim, data.layout.act_dim
    return DynamicsEnsemble(*shape, c.dynamics, seed=stream_seed(seed, f"models {task}"))


def choose(
    c: Keeping,
    learner: OER,
    data: Dataset,
    model: DynamicsEnsemble | None,
    states: Tensor | None,
    seed: int,
    stop: Callable[[], bool] = never,
) -> tuple[dict[str, float], dict[str, float]]:
    """Choose what is kept of the current task, and keep it.

    `states` [M, O]: what mu really visits, for the oracle and for `fidelity`. Returns the distances
    of `fidelity`'s selectors to them, and the keeping selector's report. Raises Stopped where
    `stop` says so: then nothing is kept yet, but draws of the models' generator are gone.
    """
    task = learner.task
    picks, distances, report = {}, {}, {}
    for selector in selectors_of(c):
        pick = Pick(
            data=data,
            budget=c.budget,
            generator=generator(seed, f"select {task}"),
            act=learner.mu,
            model=model,
            td_error=lambda rows: learner.td_error(data.gather(rows)),
            visited=states,
            gate=c.gate,
            match=c.match,
            revisit=c.revisit,
            walk=c.walk,
            stop=stop,
        )
        picks[selector] = pick, data.gather(SELECTORS[selector](pick))
    for selector, (pick, rows) in picks.items():
        if c.memory == "replay" and selector == c.selector:
            label = learner.label(rows.obs, rows.action)
            learner.remember(Kept(rows.obs, label, stream_seed(seed, f"kept {task}")))
            report = {f"select_{k}": v for k, v in pick.report.items()}
        if selector in c.fidelity and states is not None:
            distances[selector] = distance(states, rows.obs, data)
    return distances, report


def visited(learner: OER, judge: BatchEnv, stop: Callable[[], bool] = never) -> Tensor:
    """Return the states [M, O] of one real episode of mu in every world of a judge.

    An episode is cut as in an evaluation. Raises Stopped where `stop` says so.
    """
    obs, rows = judge.reset(EVAL_SEED + 1_000_000), []
    running = torch.ones(judge.num_envs, dtype=torch.bool)
    for _ in range(cap_of(judge)):
        if not bool(running.any()):
            break
        if stop():
            raise Stopped("an episode was told to stop")
        rows.append(obs[running])
        batch, valid, obs = advance(judge, obs, learner.mu(obs))
        running &= ~batch.ended & valid
    return torch.cat(rows)


def distance(states: Tensor, memory: Tensor, data: Dataset) -> float:
    """Return the mean distance from visited states to the nearest of a memory, z-scored."""
    mean, std = data.moments()
    pairs = torch.cdist((states - mean) / std, (memory - mean) / std)
    return float(pairs.min(1).values.mean())
