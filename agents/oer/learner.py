"""Dual behaviour cloning: a learner of the current task, and a policy that remembers them all."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ...buffers import Source, Transitions
from ..api import Bounds, Metrics, State, no_memory, within
from ..networks import DeterministicActor, step
from ..seeding import generator, stream_seed
from ..td3 import TD3Config
from ..training import trained
from .gem import along_all
from .inner import Inner, Learns, by_td3, td_error
from .memory import Kept, size_of
from .merging import Merging
from .penalties import EWC, SI, along
from .policy import ContinualPolicy, Head
from .rivals import RIVALS, Penalty, rival_of
from .saving import load, state_of


@dataclass(frozen=True)
class OERConfig:
    """Settings of the continual learner; the defaults follow the authors' code."""

    dbc: bool = True
    """mu learns the task, pi clones mu and the memories; False is one policy for both"""
    alpha: float = 1.0
    """weight of cloning the memories"""
    label: Literal["policy", "dataset"] = "policy"
    """what a memory's action is: the learned policy's there, or the data's own"""
    mu_init: Literal["pi", "previous", "fresh", "first"] = "pi"
    """from what mu starts a task (first: the first task's mu); without dbc, "previous" copies the
    head of the task before"""
    heads: Literal["each", "one"] = "each"
    """a head and a normaliser for each task, or one of each for all, told the goal"""
    penalty: Penalty = "none"
    """what keeps the one policy (ewc, si, agem, gem: no dbc) or pi (the others) as it was"""
    penalty_weight: float = 1.0
    """weight of ewc, si, lwf, r-ewc, cuber, r-walk"""
    merge: Literal["none", "average", "arithmetic", "fisher", "ties"] = "none"
    """pi is made of the tasks' mus, whose trunks are merged; with mu_init first"""
    merge_when: Literal["at_end", "running"] = "at_end"
    """of all experts, which are kept, or one by one into the merger, which alone is kept"""
    replay_batch: int = 256
    """rows of each memory per step of pi"""
    lr: float = 3e-4
    """Adam learning rate of pi (with dbc)"""
    td3: TD3Config = field(default_factory=lambda: TD3Config(bc_alpha=2.5))
    """TD3+BC, the learner of the current task; its `policy_delay` is pi's too"""
    bounds: ClassVar[Bounds] = {
        "alpha": (0, 1e6),
        "lr": (0, 1),
        "penalty_weight": (0, 1e9),
        "replay_batch": (1, 10**9),
    }


class OER:
    """Offline experience replay over a sequence of tasks (Gai et al. 2023); an `Agent`.

    `begin(t, mean, std)` starts a task, `update(batch)` learns it from raw observations,
    `remember(source)` ends it: rows of that task, whose actions are labels. `policy` is what is
    judged; mu acts, in `label` and in selection. `memory` makes what a saved source is loaded into,
    `learns` what learns a task (`inner.py`; None is TD3+BC).
    """

    initial_state = no_memory

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        tasks: int,
        config: OERConfig | None = None,
        *,
        seed: int = 0,
        memory: Callable[[], Source] = Kept.empty,
        learns: Learns | None = None,
    ) -> None:
        self.config = c = config or OERConfig()
        within(c, **c.bounds)
        if c.dbc and c.penalty not in ("none", *RIVALS):
            raise ValueError(f"penalty={c.penalty!r} belongs to one policy: set dbc=False")
        self.obs_dim, self.act_dim, self.tasks, self.seed = obs_dim, act_dim, tasks, seed
        one = c.heads == "one"
        shape = obs_dim, act_dim, c.td3.hidden, tasks
        self.policy = ContinualPolicy(*shape, one_head=one, kind=c.penalty)
        self.policy.initialise(generator(seed, "continual policy"))
        self.memories: list[Source] = []  # one for each finished task of which rows are kept
        self.memory = memory
        self.columns = ("next_action",) if c.td3.critic_bc else ()
        self.task = -1
        self.updates = 0  # of this task
        self.learns = learns or by_td3(obs_dim, act_dim, c.td3)
        self.inner: Inner | None = None
        _, self.optimizer = trained(self.policy, c.lr)
        self.rival = rival_of(c.penalty, c.mu_init, self.policy, c.penalty_weight, seed)
        self.merging = None if c.merge == "none" else Merging(c.merge, c.merge_when == "running")
        self.start: Any = None  # the first task's mu, where all start from it
        shared = [p for n, p in self.policy.named_parameters() if n.startswith("trunk")]
        kinds: dict[str, Any] = {"ewc": EWC, "si": SI}
        kind = kinds.get(c.penalty)
        self.penalty: EWC | SI | None = None if kind is None else kind(shared, c.penalty_weight)

    # -- the life of a task

    def begin(self, task: int, mean: Tensor, std: Tensor) -> None:
        """Start a task: fresh critics, mu from where `mu_init` says, moments of its data."""
        c, before = self.config, self.inner
        self.task, self.updates = task, 0
        self.policy.scale(task, mean, std)
        seed = stream_seed(self.seed, f"task {task}")
        actor: Any = None
        if not c.dbc:
            if task and c.mu_init == "previous":  # the trunk is shared anyway
                self.policy.inherit(task)
            actor = Head(self.policy, task)
        elif task and c.mu_init == "pi":
            actor = self.own_actor()
            self.policy.give(task, actor)
        elif task and c.mu_init == "previous" and before is not None:
            actor = copy.deepcopy(before.actor)
        elif task and c.mu_init == "first" and before is not None:
            self.start = self.start or copy.deepcopy(before.actor)
            actor = copy.deepcopy(self.start)
        if self.rival is not None:
            self.rival.begin(task)
        self.inner = self.learns(seed, actor)
        if not c.dbc:
            self.inner.regulariser = self._keep
            if isinstance(self.penalty, SI):
                self.inner.actor_step = self.penalty.step
            elif c.penalty == "agem" and self.memories:
                self.inner.actor_step = along(self._replay)
            elif c.penalty == "gem" and self.memories:
                self.inner.actor_step = along_all(self._replays)

    def own_actor(self) -> DeterministicActor:
        """Return an actor with the layers of mu, its weights not drawn."""
        with torch.random.fork_rng(devices=[]):
            return DeterministicActor(self.obs_dim, self.act_dim, self.config.td3.hidden)

    def mu_actor(self) -> DeterministicActor:
        """Return mu of the current task as an actor of its own."""
        actor = self.own_actor()
        if self.config.dbc:
            assert self.inner is not None
            actor.load_state_dict(self.inner.actor.state_dict())
        else:
            self.policy.give(self.task, actor)
        return actor

    def update(self, batch: Transitions, **more: Transitions) -> Metrics:
        """Take one step of mu and its critics, and of pi whenever it clones."""
        assert self.inner is not None
        scaled = self.scaled(batch)
        metrics = self.inner.update(scaled)
        self.updates += 1
        if self.clones:
            with torch.no_grad():
                target = self.inner.actor(scaled.obs)
            metrics = {**metrics, "clone_loss": self.clone(scaled.obs, target)}
        return metrics

    def scaled(self, batch: Transitions) -> Transitions:
        """Return raw transitions in the z-scores of the current task."""
        mean, std = self.policy.mean[self.task], self.policy.std[self.task]
        return batch._replace(obs=(batch.obs - mean) / std, next_obs=(batch.next_obs - mean) / std)

    @property
    def clones(self) -> bool:
        """Whether pi steps with the last update; not in task 1 where that ends with pi = mu."""
        c = self.config
        if not c.dbc or self.is_mu or self.merging is not None:
            return False
        return self.updates % c.td3.policy_delay == 0

    @property
    def is_mu(self) -> bool:
        """Whether pi is mu now, exactly: in the first task, unless a rival trains pi there too."""
        return self.task == 0 and (self.rival is None or not self.rival.from_scratch)

    def clone(self, obs: Tensor, target: Tensor) -> Tensor:
        """Step pi towards actions [B, A] at z-scores [B, O], and the memories'; return the loss."""
        clone = (self.policy(obs, self.task, raw=False) - target).square().mean()
        if self.rival is not None:
            self.rival.step(self.optimizer, clone, obs)
        else:
            step(self.optimizer, clone + self._replay() if self.memories else clone)
        loss: Tensor = clone.detach()
        return loss

    def _replay(self) -> Tensor:
        """Return alpha / n times the sum over n memories of their cloning losses."""
        return self._replays().mean()

    def _replays(self) -> Tensor:
        """Return alpha times the cloning loss of each memory [n]."""
        batches = [memory.sample(self.config.replay_batch) for memory in self.memories]
        obs, label = (torch.stack(x) for x in zip(*(b[:2] for b in batches), strict=True))
        gap = self.policy.many(obs) - label
        return self.config.alpha * gap.square().mean((1, 2))

    def _keep(self) -> Tensor:
        """Return what keeps one policy from forgetting, as a part of its loss."""
        if self.penalty is not None:
            return self.penalty.loss()
        if self.memories and self.config.penalty == "none":
            return self._replay()
        return torch.zeros(())

    @torch.no_grad()
    def act(self, obs: Tensor, state: State = (), *, explore: bool = False) -> tuple[Tensor, State]:
        """Return mu's actions for raw observations [B, O] of the current task."""
        assert self.inner is not None
        t = self.task
        scaled = (obs - self.policy.mean[t]) / self.policy.std[t]
        return self.inner.act(scaled, state, explore=explore)

    def mu(self, obs: Tensor) -> Tensor:
        """Return what mu does for raw observations [B, O], without noise."""
        return self.act(obs)[0]

    def td_error(self, batch: Transitions) -> Tensor:
        """Return the TD error [B] of raw transitions, as `inner.td_error`."""
        return td_error(self.inner, self.scaled(batch))

    def settle(self) -> None:
        """In the first task pi is mu, exactly: call before it is judged, saved or left."""
        if self.config.dbc and self.is_mu and self.inner is not None:
            actor = self.inner.actor
            assert isinstance(actor, DeterministicActor)
            self.policy.take(0, actor)

    @property
    def bytes(self) -> int:
        """Size of what is kept of the tasks met: rows, heads, scales, and penalties."""
        head, scale = self.policy.numbers
        count = 1 if self.policy.one_head else self.task + 1
        keepers = (self.penalty, self.rival, self.merging)
        penalty = sum(k.numbers for k in keepers if k is not None)
        return sum(map(size_of, self.memories)) + int(4 * ((head + scale) * count + penalty))

    def anchor(self, obs: Tensor) -> None:
        """Fix the penalty at the end of a task, by observations [B, O] of its data."""
        if isinstance(self.penalty, EWC):
            self.penalty.end_task(lambda o: self.policy(o, self.task), obs)
        elif isinstance(self.penalty, SI):
            self.penalty.end_task()
        t, p = self.task, self.policy
        z = (obs - p.mean[t]) / p.std[t]
        if self.rival is not None:
            self.rival.end(z)
        elif self.merging is not None:
            self.merging.add(t, self.mu_actor(), z, p)

    def label(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the labels [B, A] of rows of the current task: mu's actions, or the data's."""
        return self.mu(obs) if self.config.label == "policy" else action

    def remember(self, memory: Source) -> None:
        """Keep rows of the task that ends, whose actions are their labels."""
        self.memories.append(memory)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continuation inside a task needs (`saving.py`)."""
        self.settle()
        return state_of(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        load(self, state)
