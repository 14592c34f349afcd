"""SAC and TD3 take the steps of Stable-Baselines3's from the same weights, batches and noise."""

import gymnasium
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn

from reverie.agents import SAC, TD3, SACConfig, TD3Config, sac, td3
from reverie.agents.networks import GaussianActor, initialise
from reverie.buffers import Transitions

OBS, ACT, BATCH, HIDDEN = 11, 3, 256, (64, 64)
# In float32, rounding decides the sign of a gradient near zero, and Adam makes a whole step of it:
# exact agreement over many steps is for float64 to show.
# dtype: steps, tolerance, share of each network's parameters that must be within it
CLOSE = {torch.float64: (50, 1e-9, 1.0), torch.float32: (10, 1e-5, 0.999)}


@pytest.fixture(params=CLOSE, ids=str)
def dtype(request, monkeypatch):
    if request.param is torch.float64:  # our heads and SB3's observations are made float32
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


class Spaces(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBS,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (ACT,), np.float32)


class Prepared:
    """A replay buffer that hands out prepared batches in order."""

    def __init__(self, batches):
        self.batches = iter(batches)

    def sample(self, batch_size, env=None):
        b = next(self.batches)
        return ReplayBufferSamples(
            b.obs, b.action, b.next_obs, b.terminated[:, None], b.reward[:, None]
        )


def make_batches(steps):
    g = torch.Generator().manual_seed(1)
    out = []
    for _ in range(steps):
        obs, next_obs = torch.randn(2, BATCH, OBS, generator=g)
        action = 2 * torch.rand(BATCH, ACT, generator=g) - 1
        reward = torch.randn(BATCH, generator=g)
        terminated, truncated = (torch.rand(2, BATCH, generator=g) < 0.2).float()
        out.append(Transitions(obs, action, reward, next_obs, terminated, truncated))
    return out


def peer(algorithm, critics=2, **settings):
    torch.manual_seed(0)
    net = {"net_arch": list(HIDDEN), "n_critics": critics}
    model = algorithm(
        "MlpPolicy", Spaces(), device="cpu", buffer_size=1, policy_kwargs=net, **settings
    )
    model.set_logger(Logger(None, []))
    return model


def linears(net):
    return [m for m in net if isinstance(m, nn.Linear)]


def actor_layout(actor):
    """SB3's actor parameters in the order and shapes of ours."""
    if isinstance(actor, sb3.td3.policies.Actor):
        return [t for m in linears(actor.mu) for t in (m.weight, m.bias)]
    out = [t for m in linears(actor.latent_pi) for t in (m.weight, m.bias)]
    head = (actor.mu, actor.log_std)
    return [*out, torch.cat([m.weight for m in head]), torch.cat([m.bias for m in head])]


def critic_layout(critic):
    """SB3's critic parameters in the order and shapes of ours."""
    *body, head = zip(*(linears(q) for q in critic.q_networks), strict=True)
    out = []
    for layer in body:
        out.append(torch.stack([m.weight.T for m in layer]))
        out.append(torch.stack([m.bias[None] for m in layer]))
    return [*out, torch.stack([m.weight for m in head]), torch.stack([m.bias for m in head])]


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


class Pair:
    """The networks of ours and the layouts of theirs, by name."""

    def __init__(self, agent, model, names):
        self.agent, self.model, self.names = agent, model, names
        with torch.no_grad():
            for ours, theirs in self.tensors().values():
                for a, b in zip(ours, theirs, strict=True):
                    a.copy_(b)
        self.start = {name: flat(ours) for name, (ours, _) in self.tensors().items()}

    def tensors(self):
        out = {}
        for ours, theirs in self.names.items():
            layout = actor_layout if "actor" in theirs else critic_layout
            network = getattr(self.agent, ours)
            out[ours] = (list(network.parameters()), layout(getattr(self.model, theirs)))
        return out

    def check(self, dtype):
        _, tolerance, share = CLOSE[dtype]
        for name, (ours, theirs) in self.tensors().items():
            distance = (flat(ours) - flat(theirs)).abs()
            close = (distance <= tolerance).double().mean().item()
            assert close >= share, f"{name}: {close} within, up to {distance.max()}"
            moved = (flat(ours) - self.start[name]).abs().max()
            assert moved > 1e-4 or dtype is torch.float32, f"{name} moved by {moved}"


SAC_CASES = [
    ({}, {}),
    (
        {"critics": 3, "ent_coef": 0.2, "gamma": 0.9, "tau": 0.05, "learning_rate": 1e-3},
        {"critics": 3, "subset": 3, "alpha": 0.2, "learn_alpha": False}
        | {"gamma": 0.9, "tau": 0.05, "lr": 1e-3},
    ),
]


@pytest.mark.parametrize(("theirs", "ours"), SAC_CASES, ids=["default", "other"])
def test_sac(theirs, ours, dtype, monkeypatch):
    steps, tolerance, _ = CLOSE[dtype]
    model, batches = peer(sb3.SAC, **theirs), make_batches(steps)
    # SB3 has log(1 - a^2 + 1e-6) in the log density, ours is exact (see the test below).
    model.actor.action_dist.epsilon = 0.0
    agent = SAC(OBS, ACT, SACConfig(hidden=HIDDEN, **ours))
    names = {"actor": "actor", "critic": "critic", "target": "critic_target"}
    pair = Pair(agent, model, names)
    noise = torch.randn(steps, 2, BATCH, ACT, generator=torch.Generator().manual_seed(2))
    draws = iter(noise.flatten(0, 1))  # SB3 draws for the observations, then their successors
    monkeypatch.setattr(
        torch.distributions.Normal, "rsample", lambda self: self.loc + self.scale * next(draws)
    )
    model.replay_buffer = Prepared(batches)
    for batch, (now, then) in zip(batches, noise, strict=True):
        model.train(1, BATCH)
        agent._update(batch, sac.Noise(now, then, None, (), (), ()))
    assert next(draws, None) is None
    pair.check(dtype)
    if agent.config.learn_alpha:
        assert abs(model.log_ent_coef.item() - agent.log_alpha.item()) <= tolerance
        assert agent.log_alpha.item() < -1e-3


TD3_CASES = [
    ({"learning_rate": 3e-4}, {}),
    (
        {"learning_rate": 1e-3, "gamma": 0.9, "tau": 0.05, "policy_delay": 3, "critics": 3}
        | {"target_policy_noise": 0.5, "target_noise_clip": 0.3},
        {"lr": 1e-3, "gamma": 0.9, "tau": 0.05, "policy_delay": 3, "critics": 3}
        | {"target_noise": 0.5, "target_clip": 0.3},
    ),
]


@pytest.mark.parametrize(("theirs", "ours"), TD3_CASES, ids=["default", "other"])
def test_td3(theirs, ours, dtype):
    steps = CLOSE[dtype][0]
    model, batches = peer(sb3.TD3, **theirs), make_batches(steps)
    agent = TD3(OBS, ACT, TD3Config(hidden=HIDDEN, **ours))
    names = {"actor": "actor", "critic": "critic"}
    pair = Pair(
        agent, model, names | {"target_actor": "actor_target", "target_critic": "critic_target"}
    )
    model.replay_buffer = Prepared(batches)
    for i, batch in enumerate(batches):
        torch.manual_seed(i)
        noise = torch.empty(BATCH, ACT).normal_(0, agent.config.target_noise)
        torch.manual_seed(i)  # SB3 fills its noise from the global generator
        model.train(1, BATCH)
        agent._update(batch, td3.Noise(noise))
    pair.check(dtype)


@pytest.mark.parametrize("dtype", [torch.float64], indirect=True)
def test_log_density_differs_by_sb3s_epsilon(dtype):
    actor = GaussianActor(OBS, ACT, (8,))
    initialise(actor, torch.Generator().manual_seed(2))
    obs = torch.randn(512, OBS, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(512, ACT, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        action, ours = actor.sample(obs, noise)
        mean, log_std = actor(obs)
        theirs = SquashedDiagGaussianDistribution(ACT).proba_distribution(mean, log_std)
        log_prob = theirs.log_prob(action, mean + log_std.exp() * noise)
    gap = torch.log1p(1e-6 / (1 - action.square())).sum(-1)
    torch.testing.assert_close(ours - log_prob, gap, rtol=0, atol=1e-10)
    assert gap.max() > 1e-5
