"""The begin of a task in a sequence."""

from typing import Any

import torch

from ...agents.seeding import generator
from .continual import Learning, source_of
from .shared import tape_of

MEET = 3000  # rows of a task's data that a rival of the memories may look at


def begin_task(c: Any, s: Learning, task: int) -> None:
    """Begin a task: the learner, what a rival makes of its data, and mu from a file or to one."""
    data, learner = s.datasets[task], s.learner
    s.source = source_of(c, s.datasets, task)
    if c.memory == "joint":
        return join(s, task)
    learner.begin(task, *data.moments())
    if learner.rival is not None:
        some = torch.randint(len(data), (MEET,), generator=generator(c.seed, f"meet {task}"))
        rows = learner.scaled(data.gather(some))
        learner.rival.meet(rows.obs, rows.action)
    s.tape = tape_of(c, s)


def join(s: Learning, task: int) -> None:
    """Begin all tasks as one, with the moments of all their data; later ones are names only."""
    learner = s.learner
    if task == 0:
        learner.begin(0, *s.datasets[0].moments())
        for t, data in enumerate(s.datasets):
            learner.policy.scale(t, *data.moments())
    learner.task, learner.updates = task, 0
