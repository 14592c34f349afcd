"""What is saved of the continual learner inside a task, and how it goes on from there."""

import copy
from collections.abc import Mapping
from typing import Any

from ...buffers.source import load_state
from ...buffers.source import state_of as state_of_source

PARTS = ("rival", "merging")  # of a learner: each may be None


def state_of(learner: Any) -> dict[str, Any]:
    """Return everything that a continuation needs."""
    penalty, start = learner.penalty, learner.start
    kept = {k: v for k, v in vars(penalty).items() if k not in ("parameters",)} if penalty else None
    parts = {name: getattr(learner, name) for name in PARTS}
    return {
        "task": learner.task,
        "updates": learner.updates,
        "policy": learner.policy.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "inner": learner.inner.state_dict(),
        "memories": [state_of_source(memory) for memory in learner.memories],
        "penalty": kept,
        "start": None if start is None else start.state_dict(),
        **{name: None if part is None else part.state_dict() for name, part in parts.items()},
    }


def load(learner: Any, state: Mapping[str, Any]) -> None:
    """Continue from `state_of`: the task is begun anew, and all that it holds is put back."""
    task = int(state["task"])
    learner.memories = [learner.memory() for _ in state["memories"]]
    for memory, kept in zip(learner.memories, state["memories"], strict=True):
        load_state(memory, kept)
    policy = learner.policy
    policy.load_state_dict(state["policy"])
    learner.begin(task, policy.mean[task].clone(), policy.std[task].clone())
    policy.load_state_dict(state["policy"])
    learner.inner.load_state_dict(state["inner"])
    learner.updates = int(state["updates"])
    learner.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
    if learner.penalty is not None:
        for name, value in state["penalty"].items():
            setattr(learner.penalty, name, copy.deepcopy(value))
    for name in PARTS:
        if state[name] is not None:
            getattr(learner, name).load_state_dict(state[name])
    if state["start"] is not None:
        learner.start = learner.own_actor()
        learner.start.load_state_dict(state["start"])
