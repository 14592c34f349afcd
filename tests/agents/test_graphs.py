"""U updates in a call, and the same recorded and replayed: both are U calls of one each."""

import pytest
import torch
from recorded import OnTape

from reverie.agents import SAC, TD3, SACConfig, TD3Config
from reverie.agents.graphs import MOST, drawn, most
from reverie.agents.offline.iql import IQL, IQLConfig
from reverie.agents.offline.standardised import Standardised
from reverie.buffers import Layout, ReplayBuffer, Transitions, mix

OBS, ACT, BATCH = 3, 2, 8
SMALL = {"hidden": (16, 16), "lr": 3e-3}


def batches(u, *lead, seed=0):
    """U batches [U, *lead, B]."""
    g = torch.Generator().manual_seed(seed)
    size = (u, *lead, BATCH)
    obs, next_obs = torch.randn(2, *size, OBS, generator=g)
    action = 2 * torch.rand(*size, ACT, generator=g) - 1
    ended = (torch.rand(size, generator=g) < 0.2).float()
    return Transitions(obs, action, torch.randn(size, generator=g), next_obs, ended, 0 * ended)


def one_by_one(agent, many):
    for i in range(len(many.reward)):
        metrics = agent.update(many.map(lambda x, i=i: x[i]))
    return metrics


def same(a, b, exact=True):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k], exact) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y, exact) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) if exact else torch.allclose(a, b, rtol=1e-5, atol=1e-6)
    return a == b


MAKE = {
    "sac": lambda **more: SAC(OBS, ACT, SACConfig(**SMALL), **more),
    "redq": lambda **more: SAC(OBS, ACT, SACConfig(critics=3, policy_delay=3, **SMALL), **more),
    "droq": lambda **more: SAC(
        OBS, ACT, SACConfig(critic_norm="layer", dropout=0.1, **SMALL), **more
    ),
    "crossq": lambda **more: SAC(OBS, ACT, SACConfig(critic_norm="batch", **SMALL), **more),
    "td3": lambda **more: TD3(OBS, ACT, TD3Config(**SMALL), **more),
    "population": lambda **more: TD3(OBS, ACT, TD3Config(**SMALL), seed=(0, 1), **more),
}
LEAD = {"population": (2,)}


@pytest.mark.parametrize("name", MAKE)
def test_u_updates_in_a_call_are_u_calls(name):
    many = batches(5, *LEAD.get(name, ()))
    at_once, alone = MAKE[name](), MAKE[name]()
    told, said = at_once.update(many), one_by_one(alone, many)
    assert same(told, said) and at_once.updates == 5
    assert same(at_once.state_dict(), alone.state_dict())


def test_iql_and_standardised_observations_take_u_batches_too():
    many, moments = batches(3), (torch.full((OBS,), 0.5), torch.full((OBS,), 2.0))
    at_once, alone = (Standardised(IQL(OBS, ACT, IQLConfig(**SMALL)), *moments) for _ in range(2))
    assert same(at_once.update(many), one_by_one(alone, many))
    assert same(at_once.state_dict(), alone.state_dict())


def recorded(name):
    """An agent with graphs, and what plays CUDA for it."""
    agent = MAKE[name](compile="graphs")
    assert agent.steps.where is None  # on the CPU the same steps run eagerly
    agent.steps.where = OnTape()
    return agent, agent.steps.where


@pytest.mark.parametrize("name", MAKE)
def test_what_is_recorded_is_what_runs_eagerly(name):
    """Calls of 2 and of 3 updates: with a delay of 2 or 3 each shape is met in several phases."""
    agent, cuda = recorded(name)
    eager = MAKE[name]()
    for i, u in enumerate((2, 3, 2, 3, 3, 2, 2, 3, 2, 3, 2)):
        many = batches(u, *LEAD.get(name, ()), seed=i)
        told, said = agent.update(many), one_by_one(eager, many)
        assert same(told, said, exact=False), f"call {i}"
        assert agent.updates == eager.updates
    phases = {"redq": 3, "td3": 2, "population": 2}.get(name, 1)
    assert cuda.ran == 2 * phases or (phases > 1 and cuda.ran > 2)
    assert len(cuda.tapes) >= 2
    assert same(agent.state_dict(), eager.state_dict(), exact=False)


def test_one_batch_is_recorded_too_and_its_metrics_stay():
    agent, cuda = recorded("sac")
    eager = MAKE["sac"]()
    kept = []
    for i in range(4):
        batch = batches(1, seed=i).map(lambda x: x[0])
        kept.append((agent.update(batch), eager.update(batch)))
    assert cuda.ran == len(cuda.tapes) == 1
    assert all(same(a, b, exact=False) for a, b in kept)  # a replay wrote over none of them


def test_a_loaded_state_is_recorded_anew():
    agent, cuda = recorded("td3")
    other = MAKE["td3"](seed=5)
    many = batches(2)
    for _ in range(3):
        agent.update(many)
    agent.load_state_dict(other.state_dict())
    for i in range(3):
        many = batches(2, seed=i)
        assert same(agent.update(many), other.update(many), exact=False)
    assert cuda.ran == len(cuda.tapes) == 2
    assert same(agent.state_dict(), other.state_dict(), exact=False)


def test_batches_of_a_mixture_keep_its_shares():
    parts = []
    for world in range(2):
        buffer = ReplayBuffer(Layout(1, 1, {"tag": 1}), 64, seed=world)
        o, zeros = torch.zeros(64, 1), torch.zeros(64)
        extra, count = {"tag": zeros + 7}, torch.arange(64.0)[:, None]
        buffer.add(Transitions(count, o, zeros + world, o, zeros, zeros, extra))
        parts.append((buffer, 0.5))
    many = drawn(mix(parts), 8, 3)
    assert many.reward.shape == (3, 8) and many.obs.shape == (3, 8, 1)
    assert many.reward.sum(1).tolist() == [4, 4, 4] and (many.extra["tag"] == 7).all()
    assert many.obs[:, :, 0].unique(dim=0).shape[0] == 3  # each drawn on its own


def test_the_loop_takes_all_that_is_owed_in_one_call(tmp_path):
    """Worlds of two, 1.5 updates for each transition: 3 at once; without graphs one by one."""
    from dataclasses import dataclass

    from known import Counter, Known, Options, a_run, options

    from reverie.experiments.loops import offpolicy
    from reverie.experiments.loops.session import Session

    @dataclass(frozen=True)
    class Graphs(Options):
        compile: str = "graphs"

    def sizes(config):
        buffer, agent = ReplayBuffer(Layout(3, 1), 100, 2), Counter()
        s = Session(agent, Known([[3], [7]]), Known([[2]]), buffer, buffer, 0)
        s.at_once = most(getattr(config, "compile", False))
        with a_run(config) as run:
            offpolicy.train(run, s, config)
        return [tuple(b.reward.shape) for b in agent.batches], s.debt

    config = options(tmp_path, steps=6, utd=1.5)
    graphs = Graphs(**{**vars(config), "run": options(tmp_path / "b").run})
    assert sizes(config) == ([(4,)] * 9, 0)
    assert sizes(graphs) == ([(3, 4)] * 3, 0)
    assert most("graphs") == MOST == 64 and most(True) == most(False) == 1
