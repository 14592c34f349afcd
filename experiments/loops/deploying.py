"""Between dream and reality: real steps for a model, and which controller is played there."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...agents import Policy, RandomPolicy, reset_where
from ...agents.acting import Returns, advance, over
from ...agents.actors import deterministic_policy, gaussian_policy
from ...agents.api import State, no_memory
from ...agents.controllers import Controller, ControllerPolicy
from ...agents.dreams.controllers import TanhNetwork
from ...agents.ncap import Circuit, joint_limit
from ...agents.playing import SEED_STRIDE
from ...agents.sb3 import load_mlp_ppo
from ...agents.seeding import generator, stream_seed
from ...buffers import Layout, ReplayBuffer
from ...envs import BatchEnv
from ..runs.resources import require_memory

Snapshot = Mapping[str, Any]  # what a policy is made of: tensors by name
RULES = ("dream", "last")
SWIM = "reverie/Swim-v0"  # what the circuit is for
WORLDS = 10  # real ones that are collected from together


class Controllers:
    """K controllers of one kind [K, D] as a `Policy` on K groups of as many worlds."""

    def __init__(self, controller: Controller, parameters: Tensor) -> None:
        self.controller, self.parameters = controller, parameters
        self._bound = controller.bind(parameters[:, None])

    initial_state = no_memory

    @torch.no_grad()
    def act(self, obs: Tensor, state: State = (), *, explore: bool = False) -> tuple[Tensor, State]:
        """Return actions [N, A] for obs [N, O]; worlds k N / K on are controller k's."""
        groups = obs.reshape(len(self.parameters), -1, obs.shape[1])
        action: Tensor = self.controller.act(self._bound, groups)
        return action.reshape(len(obs), -1), state


class Collector:
    """Real steps for a store: of uniform actions, or of a policy and Gaussian noise.

    Each world holds a uniform action for 1 to `hold` steps, as many as are drawn. `steps` counts
    all real transitions that its run took, those of evaluations too.
    """

    def __init__(
        self, env: BatchEnv, store: ReplayBuffer, noise: float, seed: int, hold: int = 1
    ) -> None:
        self.env, self.store, self.noise, self.seed, self.hold = env, store, noise, seed, hold
        self.random = RandomPolicy(env.act_dim, seed=stream_seed(seed, "random steps"))
        self.held = torch.zeros(env.num_envs, env.act_dim)
        self.left = torch.zeros(env.num_envs, dtype=torch.int64)  # steps that it is held for yet
        self.generator = generator(seed, "collecting")
        self.returns = Returns(env.num_envs)
        self.played: list[float] = []  # returns of this collection's whole episodes
        self.steps = 0
        self.memory: State = ()
        self.obs = env.reset()

    def begin(self, policy: Policy | None) -> None:
        """Start a collection: new episodes."""
        self.obs = self.env.reset()
        self.store.break_episodes()
        self.returns, self.played = Returns(self.env.num_envs), []
        self.memory = policy.initial_state(self.env.num_envs) if policy else ()

    def step(self, policy: Policy | None) -> int:
        """Store one step of every world; return how many transitions there were."""
        initial = policy.initial_state(self.env.num_envs) if policy else ()
        if policy is None:
            action = self._held_action()
        else:
            action, self.memory = policy.act(self.obs, self.memory or initial, explore=False)
            noise = torch.randn(action.shape, generator=self.generator)
            action = (action + self.noise * noise).clamp(-1, 1)
        batch, valid, self.obs = advance(self.env, self.obs, action)
        self.store.add(batch, valid)
        self.memory = reset_where(over(batch, valid), self.memory, initial)
        self.played += [total for _, total, _ in self.returns.add(batch, valid)]
        self.steps += int(valid.sum())
        return int(valid.sum())

    def _held_action(self) -> torch.Tensor:
        """Return uniform actions [N, A], drawn anew where the last one's time is over."""
        drawn, _ = self.random.act(self.obs)
        times = torch.randint(1, self.hold + 1, self.left.shape, generator=self.generator)
        over = self.left == 0
        self.held = torch.where(over[:, None], drawn, self.held)
        self.left = torch.where(over, times, self.left) - 1
        return self.held

    def row(self) -> dict[str, float]:
        """Return what to log of a collection: its episodes, their returns, all real steps."""
        played = torch.tensor(self.played, dtype=torch.float64)
        spread = {"return": played.mean(), "std": played.std(correction=0)} if self.played else {}
        told = {k: float(v) for k, v in spread.items()}
        return {**told, "episodes": len(self.played), **self.counted}

    @property
    def counted(self) -> dict[str, float]:
        """All real steps so far, as rows of the log say them."""
        return {"real_steps": self.steps}

    def state_dict(self) -> dict[str, Any]:
        """Everything but the rows."""
        return {
            "env": self.env.state_dict(),
            "generators": (self.random.generator.get_state(), self.generator.get_state()),
            "returns": self.returns.state_dict(),
            "played": list(self.played),
            "steps": self.steps,
            "memory": self.memory,
            "held": (self.held, self.left),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; worlds without a state of their own start new episodes."""
        self.env.load_state_dict(state["env"])
        for mine, saved in zip((self.random.generator, self.generator), state["generators"],
                               strict=True):  # fmt: skip
            mine.set_state(saved)
        self.returns.load_state_dict(state["returns"])
        self.played, self.steps = list(state["played"]), int(state["steps"])
        self.memory = state["memory"]
        self.held, self.left = (x.clone() for x in state["held"])
        if self.env.restores:
            self.obs = self.env.current_obs()
        else:
            self.obs = self.env.reset(self.seed * SEED_STRIDE + self.steps)
            self.store.break_episodes()
            self.returns = Returns(self.env.num_envs)
            self.memory = ()


class Chosen:
    """The controllers of K searches that did best in held-out dreams, and those of now.

    `take` returns K snapshots of now; `facts` are saved with them, for whoever loads a policy.
    """

    def __init__(
        self, take: Callable[[], list[Snapshot]], facts: Callable[[], Mapping[str, Any]]
    ) -> None:
        self.take, self.facts = take, facts
        self.selected: list[Snapshot] = []  # none before the first look
        self.scores: list[float] = []
        self.last_scores: list[float] = []

    def look(self, scores: Sequence[float]) -> None:
        """Hear how the controllers of now did; each is kept that did better than its own best."""
        now, self.last_scores = self.take(), [float(s) for s in scores]
        if not self.selected:
            self.selected, self.scores = now, list(self.last_scores)
        for i, score in enumerate(self.last_scores):
            if score > self.scores[i]:
                self.selected[i], self.scores[i] = now[i], score

    def clear(self) -> None:
        """Forget what did well in a model that is no more."""
        self.selected, self.scores, self.last_scores = [], [], []

    def by(self, rule: str) -> list[Snapshot]:
        """Return the K snapshots that a rule deploys: `dream` or `last`."""
        return self.selected if rule == "dream" and self.selected else self.take()

    def state_dict(self) -> dict[str, Any]:
        """What a continuation needs, and what a policy is loaded from."""
        return {
            "selected": list(self.selected),
            "scores": list(self.scores),
            "last": self.take(),
            "last_scores": list(self.last_scores),
            **self.facts(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.selected, self.scores = list(state["selected"]), list(state["scores"])
        self.last_scores = list(state["last_scores"])


def deployed(state: Mapping[str, Any], rule: str) -> Snapshot:
    """Return the one snapshot of `Chosen`'s state that a rule deploys.

    Of several controllers, the one that did best in held-out dreams.
    """
    mine = rule == "dream" and len(state["selected"]) > 0
    snapshots, scores = (
        (state["selected"], state["scores"]) if mine else (state["last"], state["last_scores"])
    )
    best = max(range(len(scores)), key=lambda i: scores[i]) if scores else 0
    found: Snapshot = snapshots[best]
    return found


def real_worlds(c: Any) -> int:
    """Return how many real worlds are collected from: the same number for each controller."""
    return int(c.controllers * max(WORLDS // c.controllers, 1))


def store_for(c: Any, real: BatchEnv) -> ReplayBuffer:
    """Return an empty store of real steps."""
    layout, worlds = Layout(real.obs_dim, real.act_dim), real_worlds(c)
    require_memory(c.real_size, ReplayBuffer.row_bytes(layout), "real_size", "cpu")
    size, seed = max(c.real_size // worlds, 1) * worlds, stream_seed(c.seed, "real")
    return ReplayBuffer(layout, size, worlds, seed=seed)


def build_controller(c: Any, obs_dim: int, act_dim: int) -> Controller:
    """Return what a search trains, on observations of this width."""
    if c.controller != "circuit":
        return TanhNetwork(obs_dim, act_dim, () if c.controller == "linear" else c.hidden)
    if obs_dim != 4 * act_dim + 4:
        raise ValueError(
            f"the circuit swims: it needs {SWIM}, and no features; {c.env} shows {obs_dim} numbers "
            f"for {act_dim} actions"
        )
    return Circuit(act_dim, joint_limit(act_dim + 1), c.circuit)


def policy_of(c: Any, snapshots: Sequence[Snapshot], obs_dim: int, act_dim: int) -> Policy:
    """Return the policy of snapshots, on what a dream shows."""
    first = snapshots[0]
    if c.learner == "ppo":
        return load_mlp_ppo(first)[0]
    if c.learner == "sac":
        return gaussian_policy(first["actor"])[0]
    if c.learner == "td3":
        return deterministic_policy(first["actor"], 0.0)[0]
    parameters = torch.stack([torch.as_tensor(s["parameters"]) for s in snapshots])
    controller = build_controller(c, obs_dim, act_dim)
    if len(parameters) == 1:
        return ControllerPolicy(controller, parameters[0])
    return Controllers(controller, parameters)
