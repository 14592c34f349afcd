"""Dual behaviour cloning: a learner of the current task, and a policy that remembers them all."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ...buffers import Source, Transitions
from ...buffers.source import load_state, state_of
from ..api import Bounds, Metrics, State, no_memory, within
from ..networks import DeterministicActor, step
from ..seeding import generator, stream_seed
from ..td3 import TD3, TD3Config
from ..training import trained
from .memory import Kept, size_of
from .penalties import EWC, SI, along
from .policy import ContinualPolicy, Head


@dataclass(frozen=True)
class OERConfig:
    """Settings of the continual learner; the defaults follow the authors' code."""

    dbc: bool = True
    """mu learns the task, pi clones mu and the memories; False is one policy for both"""
    alpha: float = 1.0
    """weight of cloning the memories"""
    label: Literal["policy", "dataset"] = "policy"
    """what a memory's action is: the learned policy's there, or the data's own"""
    mu_init: Literal["pi", "previous", "fresh"] = "pi"
    """from what mu starts a task; without dbc, "previous" copies the head of the task before"""
    penalty: Literal["none", "ewc", "si", "agem"] = "none"
    """regularisation of the one policy (without dbc)"""
    penalty_weight: float = 1.0
    """its weight"""
    replay_batch: int = 256
    """rows of each memory per step of pi"""
    lr: float = 3e-4
    """Adam learning rate of pi (with dbc)"""
    td3: TD3Config = field(default_factory=lambda: TD3Config(bc_alpha=2.5))
    """the learner of the current task"""
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
    judged; mu acts, in `label` and in selection. `memory` makes what a saved source is loaded into.
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
    ) -> None:
        self.config = c = config or OERConfig()
        within(c, **c.bounds)
        if c.dbc and c.penalty != "none":
            raise ValueError(f"penalty={c.penalty!r} belongs to one policy: set dbc=False")
        self.obs_dim, self.act_dim, self.tasks, self.seed = obs_dim, act_dim, tasks, seed
        self.policy = ContinualPolicy(obs_dim, act_dim, c.td3.hidden, tasks)
        self.policy.initialise(generator(seed, "continual policy"))
        self.memories: list[Source] = []  # one for each finished task of which rows are kept
        self.memory = memory
        self.columns = ("next_action",) if c.td3.critic_bc else ()
        self.task = -1
        self.td3: TD3 | None = None
        _, self.optimizer = trained(self.policy, c.lr)
        shared = [p for n, p in self.policy.named_parameters() if n.startswith("trunk")]
        kinds: dict[str, Any] = {"ewc": EWC, "si": SI}
        kind = kinds.get(c.penalty)
        self.penalty: EWC | SI | None = None if kind is None else kind(shared, c.penalty_weight)

    # -- the life of a task

    def begin(self, task: int, mean: Tensor, std: Tensor) -> None:
        """Start a task: fresh critics, mu from where `mu_init` says, moments of its data."""
        c, before = self.config, self.td3
        self.task = task
        self.policy.scale(task, mean, std)
        seed = stream_seed(self.seed, f"task {task}")
        actor: Any = None
        if not c.dbc:
            if task and c.mu_init == "previous":  # the trunk is shared anyway
                self.policy.inherit(task)
            actor = Head(self.policy, task)
        elif task and c.mu_init == "pi":
            actor = self._own_actor()
            self.policy.give(task, actor)
        elif task and c.mu_init == "previous" and before is not None:
            actor = copy.deepcopy(before.actor)
        self.td3 = TD3(self.obs_dim, self.act_dim, c.td3, seed=seed, actor=actor)
        if not c.dbc:
            self.td3.regulariser = self._keep
            if isinstance(self.penalty, SI):
                self.td3.actor_step = self.penalty.step
            elif c.penalty == "agem" and self.memories:
                self.td3.actor_step = along(self._replay)

    def _own_actor(self) -> DeterministicActor:
        with torch.random.fork_rng(devices=[]):
            return DeterministicActor(self.obs_dim, self.act_dim, self.config.td3.hidden)

    def update(self, batch: Transitions, **more: Transitions) -> Metrics:
        """Take one step of mu and its critics, and of pi whenever mu's actor had one."""
        assert self.td3 is not None
        c, t = self.config, self.task
        mean, std = self.policy.mean[t], self.policy.std[t]
        scaled = batch._replace(
            obs=(batch.obs - mean) / std, next_obs=(batch.next_obs - mean) / std
        )
        if not c.dbc:
            return self.td3.update(scaled)
        metrics = self.td3.update(scaled)
        if t and self.td3.updates % c.td3.policy_delay == 0:  # task 1 ends with pi = mu
            with torch.no_grad():
                target = self.td3.actor(scaled.obs)
            clone = (self.policy(scaled.obs, t, raw=False) - target).square().mean()
            loss = clone + self._replay() if self.memories else clone
            step(self.optimizer, loss)
            metrics = {**metrics, "clone_loss": clone.detach()}
        return metrics

    def _replay(self) -> Tensor:
        """Return alpha / n times the sum over n memories of their cloning losses."""
        batches = [memory.sample(self.config.replay_batch) for memory in self.memories]
        obs, label = (torch.stack(x) for x in zip(*(b[:2] for b in batches), strict=True))
        return self.config.alpha * (self.policy.many(obs) - label).square().mean()

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
        assert self.td3 is not None
        t = self.task
        scaled = (obs - self.policy.mean[t]) / self.policy.std[t]
        return self.td3.act(scaled, state, explore=explore)

    def mu(self, obs: Tensor) -> Tensor:
        """Return what mu does for raw observations [B, O], without noise."""
        return self.act(obs)[0]

    @torch.no_grad()
    def td_error(self, batch: Transitions) -> Tensor:
        """Return |r + gamma min Q'(s', mu'(s')) - Q_1(s, a)| [B] of raw transitions."""
        assert self.td3 is not None
        t, td3 = self.task, self.td3
        obs, next_obs = (
            (x - self.policy.mean[t]) / self.policy.std[t] for x in (batch.obs, batch.next_obs)
        )
        value = td3.target_critic(next_obs, td3.target_actor(next_obs)).min(0).values
        target = batch.reward + td3.config.gamma * (1 - batch.terminated) * value
        error: Tensor = (target - td3.critic(obs, batch.action)[0]).abs()
        return error

    def settle(self) -> None:
        """In the first task pi is mu, exactly: call before it is judged, saved or left."""
        if self.config.dbc and self.task == 0 and self.td3 is not None:
            actor = self.td3.actor
            assert isinstance(actor, DeterministicActor)
            self.policy.take(0, actor)

    @property
    def bytes(self) -> int:
        """Size of what is kept of the tasks met: rows, heads, scales, and penalties."""
        p = self.policy
        one = p.head_weight[0].numel() + p.head_bias[0].numel() + 2 * self.obs_dim
        penalty = 0 if self.penalty is None else self.penalty.numbers
        return sum(map(size_of, self.memories)) + 4 * (one * (self.task + 1) + penalty)

    def anchor(self, obs: Tensor) -> None:
        """Fix the penalty at the end of a task, by observations [B, O] of its data."""
        if isinstance(self.penalty, EWC):
            self.penalty.end_task(lambda o: self.policy(o, self.task), obs)
        elif isinstance(self.penalty, SI):
            self.penalty.end_task()

    def label(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the labels [B, A] of rows of the current task: mu's actions, or the data's."""
        return self.mu(obs) if self.config.label == "policy" else action

    def remember(self, memory: Source) -> None:
        """Keep rows of the task that ends, whose actions are their labels."""
        self.memories.append(memory)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continuation inside a task needs."""
        assert self.td3 is not None
        self.settle()
        p = self.penalty
        kept = {k: v for k, v in vars(p).items() if k not in ("parameters",)} if p else None
        return {
            "task": self.task,
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "td3": self.td3.state_dict(),
            "memories": [state_of(memory) for memory in self.memories],
            "penalty": kept,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        task = int(state["task"])
        self.memories = [self.memory() for _ in state["memories"]]
        for memory, kept in zip(self.memories, state["memories"], strict=True):
            load_state(memory, kept)
        self.policy.load_state_dict(state["policy"])
        self.begin(task, self.policy.mean[task].clone(), self.policy.std[task].clone())
        self.policy.load_state_dict(state["policy"])
        assert self.td3 is not None
        self.td3.load_state_dict(state["td3"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        if self.penalty is not None:
            for name, value in state["penalty"].items():
                setattr(self.penalty, name, copy.deepcopy(value))
