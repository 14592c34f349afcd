"""mu of a task, trained once for all runs in which it is the same.

While mu does not start from pi, nothing of a memory reaches it: runs of one seed that differ only
in what they keep have one mu, bit for bit. What pi needs of it is its actions on each batch that
pi clones, and mu as it ended: the first run writes both into a file, the others read them.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...agents import Metrics
from ...agents.oer.learner import OER
from ...buffers import Transitions
from ...buffers.aside import aside
from ...buffers.dataset import rows_digest
from ...buffers.shards import write_tensors
from ...buffers.untrusted import READING, told
from ..runs.codec import decode, encode
from ..runs.stamp import hardware

_TREE, _SHA256 = "tree", "sha256"


class Tape:
    """Takes the steps of a learner in one task, and records them or goes by what was recorded."""

    def __init__(self, path: Path, learner: OER, steps: int) -> None:
        self.path, self.learner, self.steps = path, learner, steps
        self.followed = False
        self.labels: list[Tensor] = []  # [B, A] for each step of pi
        self.metrics: list[Metrics] = []  # for each update

    def follow(self) -> bool:
        """Go by the file, if it is there: the learner has mu as it ended, from now on."""
        if not self.path.exists():
            return False
        state = _read(self.path)
        self.labels = list(state["labels"])
        rows = zip(*state["metrics"].values(), strict=True)
        self.metrics = [dict(zip(state["metrics"], row, strict=True)) for row in rows]
        assert self.learner.inner is not None
        self.learner.inner.load_state_dict(state["mu"])
        self.followed = True
        return True

    def update(self, batch: Transitions) -> Metrics:
        """Take the step of `OER.update` on raw rows; mu's part of it may be known already."""
        learner = self.learner
        assert learner.inner is not None
        scaled, k = learner.scaled(batch), learner.updates
        if not self.followed:
            self.metrics.append(learner.inner.update(scaled))
        learner.updates += 1
        metrics = self.metrics[k]
        each = learner.config.td3.policy_delay
        if not self.followed and learner.updates % each == 0:  # pi of another run may clone here
            with torch.no_grad():
                self.labels.append(learner.inner.actor(scaled.obs))
        if learner.clones:
            label = self.labels[learner.updates // each - 1]
            metrics = {**metrics, "clone_loss": learner.clone(scaled.obs, label)}
        if learner.updates == self.steps and not self.followed:
            self.write()
        return metrics

    def write(self) -> None:
        """Write the task's mu in one replace."""
        assert self.learner.inner is not None
        labels = torch.stack(self.labels) if self.labels else torch.empty(0)
        metrics = {name: torch.stack([m[name] for m in self.metrics]) for name in self.metrics[0]}
        state = {"labels": labels, "metrics": metrics, "mu": self.learner.inner.state_dict()}
        tensors, tree = encode(state)
        tensors[_TREE] = torch.frombuffer(bytearray(json.dumps(tree).encode()), dtype=torch.uint8)
        tensors[_SHA256] = torch.frombuffer(bytearray(_digest(tensors)), dtype=torch.uint8)
        with aside(self.path) as partial:
            write_tensors(partial, tensors)


def _digest(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the sha256 of names and bytes."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.digest()


def _read(path: Path) -> Any:
    """Return what `Tape.write` wrote; ValueError, naming the file, where it is damaged."""
    try:
        tensors = load_file(path)
        sha = bytes(tensors.pop(_SHA256).tolist())
        known = _digest(tensors)
    except READING as error:
        raise ValueError(f"{path} is no readable mu: {told(error)}; remove it") from error
    if sha != known:
        raise ValueError(f"{path} does not match its sha256: it is damaged, remove it")
    return decode(tensors, json.loads(bytes(tensors[_TREE].tolist())))


def tape_of(c: Any, s: Any, followed: bool | None = None) -> Tape | None:
    """Return the tape of the task that the learner has begun; None where mu is not shared.

    `followed`: of a run that was stopped inside the task. One that trained mu itself trains on and
    writes nothing; one that went by a file needs it: FileNotFoundError where it is gone.
    """
    learner = s.learner
    if not c.mu_folder or followed is False:
        return None
    tape = Tape(path_of(c, s), learner, c.task_steps)
    found = tape.follow() if followed is None or learner.updates < c.task_steps else True
    if followed and not found:
        raise FileNotFoundError(
            f"{tape.path}: the run goes by this file of mu and it is gone: put it back, or begin "
            "the run anew"
        )
    tape.followed = tape.followed or bool(followed)
    return tape


@functools.cache
def _revision() -> Any:
    return hardware()["revision"]


def path_of(c: Any, s: Any) -> Path:
    """Return the file of mu of this task: its name is the digest of all that mu depends on."""
    task = s.learner.task
    about = {
        "data": [rows_digest(d.rows) for d in s.datasets[: task + 1]],
        "mu": asdict(c.iql) if c.learner == "iql" else None,
        "td3": asdict(c.agent.td3),  # its layers are pi's, its delay too
        "init": (c.agent.mu_init, c.agent.heads),
        "batch": (c.batch_size, c.task_steps),
        "seed": (c.seed, task),
        "made by": (torch.__version__, torch.get_num_threads(), _revision()),
    }
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]
    return Path(c.mu_folder) / f"mu-s{c.seed}-{task}-{name}.safetensors"
