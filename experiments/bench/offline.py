"""Offline gradient steps per second, beside TD3+BC in the plain single-file way; and MBES' time."""

import copy
import time
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...agents import TD3, TD3Config
from ...agents.dynamics import DynamicsEnsemble
from ...agents.oer.selectors import Pick, mbes
from ...agents.offline.standardised import Standardised
from ...buffers import Card, Dataset, Transitions
from .report import OURS, BenchOptions, Peer, Report, Row, interleave, torch_threads, version

PLAIN = "plain TD3+BC"
EPISODE, KEPT = 200, 1000
OBS, ACT, BATCH, BURST = 17, 6, 256, 10


def run(options: BenchOptions, rows: int = 100_000) -> Report:
    """Measure sampling and one update, batch 256, 2x256, as many threads for both."""
    same = f"{options.threads} threads, batch {BATCH}, two layers of 256, {rows:,} rows"
    peers = (
        Peer(OURS, version("reverie"), f"{same}, observations standardised in each step"),
        Peer(PLAIN, version("torch"), f"{same}, one module and one Adam for each network, eager"),
    )
    report = Report("offline", "gradient steps/s", peers)
    data = _data(rows)
    contestants: dict[str, Any] = {OURS: Ours(data), PLAIN: Plain(data)}
    with torch_threads(options.threads):
        rates = interleave(contestants, options.repeats, options.seconds)
        picks = [_select(data) for _ in range(options.repeats)]
    report.rows.extend(Row("TD3+BC", who, values) for who, values in rates.items())
    report.costs["TD3+BC"] = {f"s for MBES of {KEPT:,}": median(picks)}
    return report


def _select(data: Dataset) -> float:
    """Return the seconds of a selection by untrained models and an untrained policy."""
    agent, model = TD3(OBS, ACT), DynamicsEnsemble(OBS, ACT)
    model.scale(data.all)
    pick = Pick(
        data,
        KEPT,
        torch.Generator().manual_seed(0),
        act=lambda obs: agent.act(obs, (), explore=False)[0],
        model=model,
        walk=2 * KEPT,  # the default of `reverie oer`
    )
    start = time.perf_counter()
    mbes(pick)
    return time.perf_counter() - start


def _data(rows: int) -> Dataset:
    g = torch.Generator().manual_seed(0)
    obs, action = torch.randn(rows, OBS, generator=g), torch.rand(rows, ACT, generator=g) * 2 - 1
    ends = torch.zeros(rows)
    ends[EPISODE - 1 :: EPISODE] = 1
    ends[-1] = 1
    reward = torch.randn(rows, generator=g)
    return Dataset.of(
        Transitions(obs, action, reward, obs.roll(-1, 0), torch.zeros(rows), ends),
        Card(env="bench"),
    )


class Ours:
    """The loop of `reverie td3bc` without its bookkeeping."""

    def __init__(self, data: Dataset) -> None:
        self.data = data
        agent = TD3(OBS, ACT, TD3Config(bc_alpha=2.5))
        self.learner = Standardised(agent, *data.moments())

    def __call__(self) -> int:
        """Take some gradient steps."""
        for _ in range(BURST):
            self.learner.update(self.data.sample(BATCH))
        return BURST


def _net(inputs: int, outputs: int) -> nn.Sequential:
    hidden = [nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(256, outputs))


class Plain:
    """TD3+BC as single-file repositories write it: a tensor for each field, a loop for targets."""

    def __init__(self, data: Dataset) -> None:
        batch, (mean, std) = data.all, data.moments()
        self.obs, self.next_obs = (batch.obs - mean) / std, (batch.next_obs - mean) / std
        self.action = batch.action.clone()
        self.reward, self.done = batch.reward[:, None].clone(), batch.terminated[:, None].clone()
        self.actor = nn.Sequential(_net(OBS, ACT), nn.Tanh())
        self.critics = nn.ModuleList([_net(OBS + ACT, 1), _net(OBS + ACT, 1)])
        self.target_actor = copy.deepcopy(self.actor)
        self.target_critics = copy.deepcopy(self.critics)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=3e-4)
        self.critic_optimizers = [torch.optim.Adam(c.parameters(), lr=3e-4) for c in self.critics]
        self.steps = 0

    def _q(self, critics: nn.ModuleList, obs: Tensor, action: Tensor) -> list[Tensor]:
        x = torch.cat([obs, action], 1)
        return [critic(x) for critic in critics]

    def __call__(self) -> int:
        """Take some gradient steps."""
        for _ in range(BURST):
            self._step()
        return BURST

    def _step(self) -> None:
        index = np.random.randint(0, len(self.obs), size=BATCH)
        obs, action, reward, next_obs, done = (
            x[index] for x in (self.obs, self.action, self.reward, self.next_obs, self.done)
        )
        self.steps += 1
        with torch.no_grad():
            noise = (torch.randn_like(action) * 0.2).clamp(-0.5, 0.5)
            next_action = (self.target_actor(next_obs) + noise).clamp(-1, 1)
            target = torch.min(*self._q(self.target_critics, next_obs, next_action))
            target = reward + (1 - done) * 0.99 * target
        loss = torch.stack(
            [F.mse_loss(q, target) for q in self._q(self.critics, obs, action)]
        ).sum()
        for optimizer in self.critic_optimizers:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.critic_optimizers:
            optimizer.step()
        if self.steps % 2:
            return
        pi = self.actor(obs)
        q = self.critics[0](torch.cat([obs, pi], 1))
        scale = 2.5 / q.abs().mean().detach()
        actor_loss = -scale * q.mean() + F.mse_loss(pi, action)
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()
        pairs = ((self.actor, self.target_actor), (self.critics, self.target_critics))
        for source, goal in pairs:
            for p, t in zip(source.parameters(), goal.parameters(), strict=True):
                t.data.copy_(0.005 * p.data + 0.995 * t.data)
