"""A sequence of tasks: their data, who plays them now, what is said of them."""

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...agents import Metrics, Policy
from ...agents.actors import ActorPolicy
from ...agents.dynamics import DynamicsEnsemble
from ...agents.oer.conflict import Conflict
from ...agents.oer.distilled import Distilled
from ...agents.oer.keeping import Keeping, model_of
from ...agents.oer.learner import OER
from ...agents.oer.metrics import frozen_at_best, libero, normalise, summary
from ...agents.oer.policy import TaskPolicy
from ...agents.playing import EVAL_SEED, Evaluation, evaluate, never
from ...agents.seeding import stream_seed
from ...buffers import Card, Dataset, Source, load_dataset, mix
from ...buffers.source import load_state, state_of
from ...envs import BatchEnv, Contexts, make
from ...envs.families import members
from ..runs import zoo
from ..runs.rows import read_rows
from .collecting import CollectOptions, collect_dataset


def task_data(c: Any, task: int, threads: int, stop: Callable[[], bool] = never) -> Dataset:
    """Return a task's data, made by `reverie collect`'s code once and kept in `data_folder`.

    Raises Stopped as `collect_dataset`: then nothing of this task's is kept.
    """
    contexts = members(c.env, c.members, c.goals)
    value = float(contexts.table[task, 0])
    name = c.env.removeprefix("reverie/").removesuffix("-v0").lower()
    kind = "+".join(p.replace("zoo:", "").replace("/", "_") for p in c.policy)
    # The zoo's policies and the task's options are part of the name: other data, another file.
    made_of = [options_of(c), *(zoo.policy_digest(p) for p in c.policy)]
    mark = f"{zlib.crc32(json.dumps(made_of, sort_keys=True).encode()):08x}"
    # A goal's data is the same at every place in the list; a preset's members have numbers.
    which = f"goal-{value!r}" if c.goals else f"{c.members}-{task}"
    path = Path(c.data_folder) / f"{name}-{kind}-{which}-{c.transitions}-{mark}"
    seed = stream_seed(c.seed, f"data {task}")
    if not path.with_name(path.name + ".json").exists():
        reference = next((p for p in c.policy if p != "random"), None)
        options = CollectOptions(
            out=path,
            env=c.env,
            policy=c.policy,
            transitions=c.transitions,
            num_envs=50,
            seed=zlib.crc32(which.encode()) >> 1 if c.goals else task,
            env_options=options_of(c),
            context=(f"{contexts.names[0]}={value!r}",),
            reference=reference,
            threads=threads,
        )
        collect_dataset(options, stop).save(path)
    data = load_dataset(path, seed=seed)
    if data.card.env != c.env:  # a card may name any environment, the run has one
        raise ValueError(f"{path} holds data of {data.card.env}, expected {c.env}: remove it")
    return data


def options_of(c: Any) -> dict[str, Any]:
    """Return the options of the worlds: one head for all tasks has to be shown the goal."""
    return {**({"show_goal": True} if c.agent.heads == "one" else {}), **c.env_options}


def make_judge(card: Card, options: Mapping[str, Any], **kwargs: Any) -> BatchEnv:
    """Return worlds like those that a dataset was recorded in."""
    merged = {"max_episode_steps": card.max_episode_steps, **card.env_options, **options}
    return make(card.env, context=Contexts.grid(card.context), **merged, **kwargs)


@dataclass
class Learning:
    """All that a run changes outside its directory."""

    learner: OER
    distilled: Distilled
    datasets: list[Dataset]
    judges: list[BatchEnv]
    source: Any = None  # what the current task's batches are of
    metrics: Metrics = field(default_factory=dict)  # of the last update
    tape: Any = None  # what records mu of this task, or gives it as it was recorded
    conflict: Conflict = field(default_factory=Conflict)  # of the tasks closed, if it is asked for
    anchored: int = 0  # tasks that are over for the learner
    model: DynamicsEnsemble | None = None  # of the task that is being closed
    rows: Source | None = None  # what it is fitted to
    generator: Any = None  # of the rows of that task, while it is fitted: a memory
    distances: list[dict[str, float]] = field(default_factory=list)  # of each task closed
    matrix: list[list[float]] = field(default_factory=list)  # returns on all tasks, after each
    curve: list[tuple[int, float]] = field(default_factory=list)  # task, its return, inside it

    def state_dict(self) -> dict[str, Any]:
        """What a continuation needs, also inside the end of a task."""
        learner = self.learner
        agent = {"learner": learner.state_dict(), "frozen": self.distilled.state_dict()}
        return {
            "agent": agent,
            "data": [data.state_dict() for data in self.datasets],
            "model": None if self.model is None else self.model.state_dict(),
            "rows": None if self.rows is None else state_of(self.rows),
            "generator": None if self.generator is None else self.generator.state_dict(),
            "followed": self.tape is not None and self.tape.followed,
            "conflict": self.conflict.state_dict(),
            "counts": (self.metrics, self.anchored, self.distances, self.matrix, self.curve),
        }

    def load_state_dict(self, c: Any, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.learner.load_state_dict(state["agent"]["learner"])
        self.distilled.load_state_dict(state["agent"]["frozen"])
        for data, kept in zip(self.datasets, state["data"], strict=True):
            data.load_state_dict(kept)
        self.source = source_of(c, self.datasets, self.learner.task)
        self.conflict.load_state_dict(state["conflict"], self.learner)
        self.metrics, self.anchored, self.distances, self.matrix, curve = state["counts"]
        self.curve = [(int(task), float(value)) for task, value in curve]
        if state["model"] is not None:
            self.open_model(c)
            assert self.model is not None and self.rows is not None
            self.model.load_state_dict(state["model"])
            load_state(self.rows, state["rows"])

    def open_model(self, c: Any) -> None:
        """Begin the dynamics models of the task that ends, if a selector asks for any."""
        task, data = self.learner.task, self.datasets[self.learner.task]
        self.model = model_of(keeping_of(c), data, task, c.seed)
        if self.model is not None:
            every = torch.arange(len(data))
            self.rows = data.select(every, seed=stream_seed(c.seed, f"fit {task}"))


def source_of(c: Any, datasets: list[Dataset], task: int) -> Source:
    """Return what a task's batches are of: its data, or that of all tasks in equal shares."""
    return mix([(d, 1.0) for d in datasets]) if c.memory == "joint" else datasets[task]


def keeping_of(c: Any) -> Keeping:
    """Return the part of a configuration that says what is kept of a task."""
    return Keeping(**{f.name: getattr(c, f.name) for f in fields(Keeping)})


def policy_of(c: Any, s: Learning, task: int) -> Policy:
    """Return what plays a task now: its distilled policy, or the continual one."""
    d = s.distilled
    if c.memory == "distilled" and task < d.done:
        return ActorPolicy(d.nets[task], mean=d.mean[task], std=d.std[task])
    return TaskPolicy(s.learner.policy, task)


def judge_all(
    c: Any, s: Learning, stop: Callable[[], bool] = never
) -> tuple[Evaluation, list[float]]:
    """Return the evaluations on all tasks, joined, and mean returns; Stopped as `evaluate`."""
    parts, learner = [], s.learner
    learner.settle()
    for task, judge in enumerate(s.judges):
        # Its head and its moments are not there yet.
        if task > learner.task and not learner.policy.one_head:
            mean, std = s.datasets[learner.task].moments()
            learner.policy.scale(task, mean, std)
        parts.append(evaluate(policy_of(c, s, task), judge, seed=EVAL_SEED, stop=stop))
    returns = np.concatenate([p.returns for p in parts])
    lengths = np.concatenate([p.lengths for p in parts])
    return Evaluation(returns, lengths, cut=sum(p.cut for p in parts)), [p.mean for p in parts]


def returns_of(returns: list[float], task: int) -> dict[str, float]:
    """Return what to log of returns on all tasks: each, and the mean of those met so far."""
    row = {f"task{j}": value for j, value in enumerate(returns)}
    return {**row, "return": float(np.mean(returns[: task + 1])), "tasks_met": task + 1}


def report(c: Any, s: Learning) -> dict[str, float]:
    """Return what to log after a task: the matrix's row, and the metrics of the tasks so far."""
    n = len(s.matrix)
    row = returns_of(s.matrix[-1], n - 1)
    row["bytes"] = s.distilled.bytes if c.memory == "distilled" else s.learner.bytes
    if c.memory == "joint":  # which needs all rows of all tasks at once
        row["bytes"] += 4 * sum(d.rows.numel() for d in s.datasets)
    trunk = 4 * sum(p.numel() for p in s.learner.policy.trunk.parameters())
    row["bytes_total"] = row["bytes"] + (0 if c.memory == "distilled" else trunk)
    far = {name: float(np.mean([d[name] for d in s.distances])) for name in c.fidelity}
    row |= {f"distance_{name}": value for name, value in far.items()}
    if {"random", "online"} <= far.keys():  # 0 is as random transitions, 1 as the oracle
        gap = far["random"] - far["online"]
        if gap:
            row |= {f"fidelity_{n}": (far["random"] - value) / gap for n, value in far.items()}
    row |= s.conflict.row() if c.conflict else {}
    row |= s.learner.rival.row() if s.learner.rival else {}
    cards = [d.card for d in s.datasets[:n]]
    if all(card.has_references for card in cards):
        low = np.array([card.random_return for card in cards], float)
        high = np.array([card.reference_return for card in cards], float)
        scores = normalise(np.array(s.matrix)[:, :n], low, high)
        row |= summary(scores) | {f"score{j}": float(value) for j, value in enumerate(scores[-1])}
        if s.curve:
            row |= along(s, low, high)
    return row


def along(s: Learning, low: Any, high: Any) -> dict[str, float]:
    """Return LIBERO's metrics by the scores of each task along its own training, to its end."""
    matrix = normalise(np.array(s.matrix)[:, : len(low)], low, high)
    own = []
    for k in range(len(low)):
        inside = [value for task, value in s.curve if task == k]
        scores = normalise(np.array([inside]).T, low[k], high[k])[:, 0]
        own.append(float(np.mean(frozen_at_best(np.append(scores, matrix[k, k])))))
    return libero(matrix, np.array(own))


def matrix_of(run: Path) -> Any:
    """Return the matrix of returns [N, N] of a run, row by row after each task."""
    rows = [row for row in read_rows(run / "metrics.jsonl") if row["kind"] == "task"]
    n = sum(key.removeprefix("task").isdigit() for key in rows[0])
    return np.array([[row[f"task{j}"] for j in range(n)] for row in rows])
