"""The end of a task in a sequence: what is kept of it is chosen, and all tasks are judged."""

from typing import Any

import torch
from torch import Tensor

from ...agents.oer.keeping import anchor, choose, selectors_of, visited
from ...agents.playing import Evaluation
from ...agents.seeding import generator
from ..runs.run import Run
from .continual import Learning, judge_all, keeping_of, report
from .memories import MEMORIES


def clone_step(c: Any, s: Learning) -> Tensor:
    """Step pi towards mu as it stands, on a batch of the task's data; return the loss."""
    learner = s.learner
    assert learner.inner is not None
    obs = learner.scaled(s.datasets[learner.task].sample(c.batch_size)).obs
    with torch.no_grad():
        target = learner.inner.actor(obs)
    return learner.clone(obs, target)


def end_task(run: Run, c: Any, s: Learning) -> Evaluation:
    """Close a task: choose what is kept of it, and judge all tasks; every part resumes."""
    task, keeping = s.learner.task, keeping_of(c)
    data, stop = s.datasets[task], (lambda: run.stopping)
    if c.clone_finish and not s.learner.is_mu:
        with run.phase("clone finish", c.clone_finish) as fit:
            while fit.step < fit.steps:
                fit.advance({"loss": clone_step(c, s)}, s.state_dict)
    if s.anchored == task:
        anchor(s.learner, data, c.seed)
        if c.conflict:
            some = torch.randint(len(data), (1000,), generator=generator(c.seed, f"c {task}"))
            s.conflict.add(s.learner, data.gather(some).obs)
        s.anchored += 1
    if c.clone_finish and s.learner.rival is not None and s.learner.rival.retrains:
        with run.phase("retraining", c.clone_finish) as fit:
            while fit.step < fit.steps:
                fit.advance({"loss": clone_step(c, s)}, s.state_dict)
    if c.memory == "distilled":
        with run.phase("distillation", c.distilled_steps) as fit:
            if fit.step == 0:
                s.distilled.begin(task, data, c.seed)
            while fit.step < fit.steps:
                loss = s.distilled.clone_step(task, data, s.learner.mu)
                fit.advance({"loss": loss}, s.state_dict)
        s.distilled.finish(task)
    if len(s.distances) == task:
        if s.model is None:
            s.open_model(c)
        if s.model is not None and s.rows is not None:
            with run.phase("dynamics fit", c.dynamics.steps) as fit:
                while fit.step < fit.steps:
                    loss = s.model.fit_step(s.rows, data.all)
                    fit.advance({"loss": loss}, s.state_dict)
        states = None
        if c.fidelity or "online" in selectors_of(keeping):
            with run.interruptible(s.state_dict):
                states = visited(s.learner, s.judges[task], stop)
        before = s.state_dict()  # a selection draws from the models' generator
        with run.interruptible(before.copy):
            distances, chosen = choose(keeping, s.learner, data, s.model, states, c.seed, stop)
        s.distances.append(distances)
        s.model = s.rows = None
        if chosen:
            run.log(chosen, kind="selection")
    if c.memory in MEMORIES and len(s.learner.memories) == task:
        s.learner.remember(MEMORIES[c.memory].of(run, c, s))
    with run.interruptible(s.state_dict):
        judged, now = judge_all(c, s, stop)
    if len(s.matrix) == task:
        s.matrix.append(now)
        run.log(report(c, s), kind="task")
    return judged
