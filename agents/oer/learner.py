"""Dual behaviour cloning: a learner of the current task, and a policy that remembers them all."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ...buffers import Transitions
from ..api import Bounds, Metrics, within
from ..networks import DeterministicActor, step
from ..seeding import generator, stream_seed
from ..td3 import TD3, TD3Config
from ..training import trained
from .penalties import EWC, SI, project
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


class Memory:
    """What is kept of the tasks before: observations [n, K, O] and labels [n, K, A]."""

    def __init__(self, seed: int) -> None:
        self.obs: list[Tensor] = []
        self.label: list[Tensor] = []
        self.generator = generator(seed, "memory")  # apart from all other draws

    def __len__(self) -> int:
        return len(self.obs)

    @property
    def bytes(self) -> int:
        """Size of what is kept."""
        return sum(4 * x.numel() for x in (*self.obs, *self.label))

    def add(self, obs: Tensor, label: Tensor) -> None:
        """Keep a task's rows."""
        self.obs.append(obs.clone())
        self.label.append(label.clone())

    def sample(self, n: int) -> tuple[Tensor, Tensor]:
        """Return observations [T, n, O] and labels [T, n, A], n rows of each task."""
        rows = [torch.randint(len(o), (n,), generator=self.generator) for o in self.obs]
        obs = torch.stack([o[r] for o, r in zip(self.obs, rows, strict=True)])
        return obs, torch.stack([u[r] for u, r in zip(self.label, rows, strict=True)])


class OER:
    """Offline experience replay over a sequence of tasks (Gai et al. 2023).

    `begin(t, mean, std)` starts a task, `update(batch)` learns it from raw observations,
    `remember(obs, action)` ends it. `policy` is what is judged; `mu` acts in `label`s and in
    selection.
    """

    def __init__(
        self, obs_dim: int, act_dim: int, tasks: int, config: OERConfig | None = None, *, seed: int
    ) -> None:
        self.config = c = config or OERConfig()
        within(c, **c.bounds)
        if c.dbc and c.penalty != "none":
            raise ValueError(f"penalty={c.penalty!r} belongs to one policy: set dbc=False")
        self.obs_dim, self.act_dim, self.tasks, self.seed = obs_dim, act_dim, tasks, seed
        self.policy = ContinualPolicy(obs_dim, act_dim, c.td3.hidden, tasks)
        self.policy.initialise(generator(seed, "continual policy"))
        self.memory = Memory(seed)
        self.task = -1
        self.td3: TD3 | None = None
        self._flat, self.optimizer = trained(self.policy, c.lr)
        shared = [p for n, p in self.policy.named_parameters() if n.startswith("trunk")]
        kinds: dict[str, Any] = {"ewc": EWC, "si": SI}
        kind = kinds.get(c.penalty)
        self.penalty: EWC | SI | None = None if kind is None else kind(shared, c.penalty_weight)
        self._shared = shared

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
            self._flat = self.td3._actor_flat
            self.td3.regulariser = self._keep

    def _own_actor(self) -> DeterministicActor:
        with torch.random.fork_rng(devices=[]):
            return DeterministicActor(self.obs_dim, self.act_dim, self.config.td3.hidden)

    def update(self, batch: Transitions) -> Metrics:
        """Take one step of mu and its critics, and of pi whenever mu's actor had one."""
        assert self.td3 is not None
        c, t = self.config, self.task
        mean, std = self.policy.mean[t], self.policy.std[t]
        scaled = batch._replace(
            obs=(batch.obs - mean) / std, next_obs=(batch.next_obs - mean) / std
        )
        if not c.dbc:
            return self._one_policy(scaled)
        metrics = self.td3.update(scaled)
        if t and self.td3.updates % c.td3.policy_delay == 0:  # task 1 ends with pi = mu
            with torch.no_grad():
                target = self.td3.actor(scaled.obs)
            clone = (self.policy(scaled.obs, t, raw=False) - target).square().mean()
            loss = clone + self._replay() if len(self.memory) else clone
            step(self.optimizer, loss)
            metrics = {**metrics, "clone_loss": clone.detach()}
        return metrics

    def _replay(self) -> Tensor:
        """Return alpha / n times the sum over n memories of their cloning losses."""
        obs, label = self.memory.sample(self.config.replay_batch)
        return self.config.alpha * (self.policy.many(obs) - label).square().mean()

    def _keep(self) -> Tensor:
        """Return what keeps one policy from forgetting, as a part of its loss."""
        if self.penalty is not None:
            return self.penalty.loss()
        if len(self.memory) and self.config.penalty == "none":
            return self._replay()
        return torch.zeros(())

    def _one_policy(self, scaled: Transitions) -> Metrics:
        assert self.td3 is not None
        if isinstance(self.penalty, SI):
            return self._step_si(scaled, self.penalty)
        if self.config.penalty == "agem" and len(self.memory):
            return self._step_agem(scaled)
        return self.td3.update(scaled)

    def _step_si(self, scaled: Transitions, penalty: SI) -> Metrics:
        assert self.td3 is not None
        before = [p.detach().clone() for p in self._shared]
        metrics = self.td3.update(scaled)
        penalty.follow(before, [p.grad for p in self._shared if p.grad is not None])
        return metrics

    def _step_agem(self, scaled: Transitions) -> Metrics:
        """Project the actor's gradient before its optimiser uses it."""
        assert self.td3 is not None
        td3, flat = self.td3, self.td3._actor_flat
        real = td3.actor_optimizer.step

        def projected() -> None:
            assert flat.grad is not None
            own = flat.grad.clone()
            flat.grad.zero_()
            self._replay().backward()  # type: ignore[no-untyped-call]
            flat.grad.copy_(project(own, flat.grad.clone()))
            real()

        td3.actor_optimizer.step = projected  # type: ignore[assignment,method-assign]
        try:
            return td3.update(scaled)
        finally:
            td3.actor_optimizer.step = real  # type: ignore[method-assign]

    @torch.no_grad()
    def act(self, obs: Tensor) -> Tensor:
        """Return mu's actions for raw observations [B, O] of the current task."""
        assert self.td3 is not None
        t = self.task
        out: Tensor = self.td3.actor((obs - self.policy.mean[t]) / self.policy.std[t])
        return out

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
        return self.memory.bytes + 4 * (one * (self.task + 1) + penalty)

    def anchor(self, obs: Tensor) -> None:
        """Fix the penalty at the end of a task, by observations [B, O] of its data."""
        if isinstance(self.penalty, EWC):
            self.penalty.end_task(lambda o: self.policy(o, self.task), obs)
        elif isinstance(self.penalty, SI):
            self.penalty.end_task()

    def remember(self, obs: Tensor, action: Tensor) -> None:
        """Keep rows of the task that ends, with their labels."""
        self.memory.add(obs, self.act(obs) if self.config.label == "policy" else action)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continuation inside a task needs."""
        assert self.td3 is not None
        self.settle()
        m, p = self.memory, self.penalty
        kept = {k: v for k, v in vars(p).items() if k not in ("parameters",)} if p else None
        return {
            "task": self.task,
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "td3": self.td3.state_dict(),
            "memory": {"obs": m.obs, "label": m.label, "generator": m.generator.get_state()},
            "penalty": kept,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        task = int(state["task"])
        self.policy.load_state_dict(state["policy"])
        self.begin(task, self.policy.mean[task].clone(), self.policy.std[task].clone())
        self.policy.load_state_dict(state["policy"])
        assert self.td3 is not None
        self.td3.load_state_dict(state["td3"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        kept = state["memory"]
        self.memory.obs, self.memory.label = list(kept["obs"]), list(kept["label"])
        self.memory.generator.set_state(kept["generator"])
        if self.penalty is not None:
            for name, value in state["penalty"].items():
                setattr(self.penalty, name, copy.deepcopy(value))
