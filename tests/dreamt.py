"""World models of the tests, and what they are fitted to."""

import torch

from reverie.agents.dreams.config import ModelConfig
from reverie.agents.dreams.fit import Fit
from reverie.buffers import Layout, ReplayBuffer, Transitions

KINDS = ("mlp", "lstm", "gru", "ensemble")


def config(kind="mlp", **settings):
    hidden = (16,) if kind in ("lstm", "gru") else (16, 16)
    more = {
        "window": 6,
        "burn_in": 2,
        "batch_size": 32,
        "updates": 200 if len(hidden) > 1 else 120,
        "judge_every": 50,
    }
    return ModelConfig(**{"kind": kind, "hidden": hidden, **more, **settings})


def adding(episodes=20, length=12, seed=0, scale=1.0):
    """A store in which s' = s + a and the reward is the first number of s', times `scale`."""
    draw = torch.Generator().manual_seed(seed)
    store = ReplayBuffer(Layout(2, 2), episodes * length)
    for _ in range(episodes):
        action = 2 * torch.rand(length, 2, generator=draw) - 1
        states = torch.cat([torch.randn(1, 2, generator=draw), action]).cumsum(0)
        last = (torch.arange(length) == length - 1).float()
        store.add(
            Transitions(states[:-1], action, scale * states[1:, 0], states[1:], 0 * last, last)
        )
    return store


def fitted(model, store, **keywords):
    fit = Fit(model, **keywords)
    fit.begin(store)
    while not fit.done:
        fit.fit_step(store)
    return fit
