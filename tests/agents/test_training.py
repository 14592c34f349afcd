"""Flat parameters, target networks, and the state that learners save."""

import copy

import pytest
import torch
from torch import nn

from reverie.agents import SAC, TD3, SACConfig, TD3Config
from reverie.agents.networks import Critic, DeterministicActor, initialise, step
from reverie.agents.offline.bc import BC, BCConfig
from reverie.agents.offline.iql import IQL, IQLConfig
from reverie.agents.training import flatten, lagging, pack, trained, unpack
from reverie.buffers import Transitions

OBS, ACT, HIDDEN, MEMBERS, BATCH = 5, 2, (8, 6), 3, 16


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed))


def vector(module):
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def make_batch(seed=0, n=4):
    obs, next_obs = randn(2, n, OBS, seed=seed)
    action = randn(n, ACT, seed=seed).tanh()
    return Transitions(obs, action, randn(n, seed=seed), next_obs, *torch.zeros(2, n))


def make_critic(norm="none"):
    critic = Critic(OBS, ACT, HIDDEN, MEMBERS, norm)
    initialise(critic, generator())
    return critic


def test_a_step_on_the_flat_vector_moves_the_module():
    critic, plain = make_critic("layer"), make_critic("layer")
    flat = flatten(critic)
    assert flat.numel() == sum(p.numel() for p in plain.parameters())
    optimizer = torch.optim.Adam([flat], lr=0.01)
    reference = torch.optim.Adam(plain.parameters(), lr=0.01)
    obs, action = randn(BATCH, OBS), randn(BATCH, ACT, seed=1)
    before = critic(obs, action).detach()
    torch.testing.assert_close(before, plain(obs, action), rtol=0, atol=0)
    for _ in range(3):  # the second backward must not add to the first
        step(optimizer, critic(obs, action).square().sum())
        reference.zero_grad()
        plain(obs, action).square().sum().backward()
        reference.step()
        grads = torch.cat([p.grad.reshape(-1) for p in plain.parameters()])
        torch.testing.assert_close(flat.grad, grads)
    torch.testing.assert_close(critic(obs, action), plain(obs, action))
    assert (critic(obs, action) - before).abs().max() > 0.01
    for p in critic.parameters():
        assert p.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
        assert p.grad.untyped_storage().data_ptr() == flat.grad.untyped_storage().data_ptr()


def test_loading_a_state_keeps_the_views():
    critic = make_critic()
    flat = flatten(critic)
    other = Critic(OBS, ACT, HIDDEN, MEMBERS)
    initialise(other, generator(9))
    critic.load_state_dict(other.state_dict())
    assert torch.equal(flat, torch.cat([p.reshape(-1) for p in other.parameters()]))


def test_trained_draws_the_weights_and_moves_them_by_adam():
    layer = nn.Linear(3, 1)
    flat, optimizer = trained(layer, 0.1, generator(5))
    other = nn.Linear(3, 1)
    initialise(other, generator(5))
    assert torch.equal(flat, torch.cat([other.weight[0], other.bias]))
    start = flat.detach().clone()
    step(optimizer, (layer(torch.tensor([[1.0, 2.0, 0.0]])) * torch.tensor([-3.0])).sum())
    # Adam's first step is the learning rate against the gradient's sign: (-3, -6, 0, -3)
    torch.testing.assert_close(flat - start, torch.tensor([0.1, 0.1, 0.0, 0.1]))
    kept = nn.Linear(3, 1)
    weight = kept.weight.detach().clone()
    trained(kept, 0.1)
    assert torch.equal(kept.weight, weight)
    assert optimizer.param_groups[0]["capturable"]  # a CUDA graph may record the step
    assert isinstance(optimizer.state[flat]["step"], torch.Tensor)


def test_a_lagging_copy_has_memory_of_its_own_and_no_gradients():
    layer = nn.Linear(2, 1)
    flat, _ = trained(layer, 0.1, generator())
    target, late = lagging(layer)
    start = flat.detach().clone()
    assert torch.equal(late, start)
    late.lerp_(torch.ones(3), 1.0)
    assert torch.equal(flat, start) and torch.equal(target.weight, torch.ones(1, 2))
    assert not any(p.requires_grad or p.grad is not None for p in (late, *target.parameters()))
    assert not target(torch.ones(1, 2)).requires_grad


def test_an_actor_that_is_given_to_td3_keeps_its_weights():
    actor = DeterministicActor(OBS, ACT, HIDDEN)
    weights = copy.deepcopy(actor.state_dict())
    agent = TD3(OBS, ACT, TD3Config(hidden=HIDDEN), actor=actor)
    assert agent.actor is actor
    for part in (agent.actor, agent.target_actor):
        for name, value in part.state_dict().items():
            assert torch.equal(value, weights[name]), name


def test_iqls_targets_follow_its_critics_by_tau():
    agent = IQL(OBS, ACT, IQLConfig(hidden=HIDDEN, tau=0.25))
    for seed in range(2):
        before = vector(agent.target_critic)
        agent.update(make_batch(seed))
        expected = 0.75 * before + 0.25 * vector(agent.critic)
        torch.testing.assert_close(vector(agent.target_critic), expected, rtol=0, atol=1e-6)
    assert not torch.equal(before, vector(agent.critic))


# --- what learners save


class Owner:
    """One part of each kind."""

    saved = ("layer", "optimizers", "generator", "weight", "last", "updates")

    def __init__(self, value):
        self.layer = nn.Linear(1, 1)
        flat, adam = trained(self.layer, 0.1, generator(value))
        self.optimizers = {"layer": adam}
        self.generator = generator(value)
        self.weight = torch.tensor(float(value), requires_grad=True)
        self.last, self.updates, self.flat = torch.tensor(float(value)), value, flat


def test_a_learner_unpacks_what_another_packed():
    one, other = Owner(1), Owner(2)
    step(one.optimizers["layer"], one.layer(torch.ones(1, 1)).sum())
    leaf, handed_out = other.weight, other.last
    state = pack(one, Owner.saved)
    assert list(state) == list(Owner.saved)
    unpack(other, Owner.saved, copy.deepcopy(state))
    assert torch.equal(other.flat, one.flat) and other.updates == 1
    assert other.weight is leaf and leaf.item() == 1 and leaf.requires_grad  # Adam holds it
    assert other.last.item() == 1 and handed_out.item() == 2  # a metric that someone may hold
    assert torch.equal(*(torch.rand(3, generator=x.generator) for x in (one, other)))
    for x in (one, other):
        step(x.optimizers["layer"], x.layer(torch.full((1, 1), -2.0)).sum())
    assert torch.equal(other.flat, one.flat)
    one.weight.data.fill_(7)  # what was packed is a copy
    assert state["weight"].item() == 1


def test_a_state_that_lacks_a_part_is_refused_before_any_is_changed():
    one, other = Owner(1), Owner(2)
    state = pack(one, Owner.saved)
    del state["weight"], state["updates"]
    before = other.flat.detach().clone()
    with pytest.raises(ValueError, match=r"Owner: the state lacks weight, updates; it has layer"):
        unpack(other, Owner.saved, state)
    assert torch.equal(other.flat, before) and other.updates == 2


NETWORKS = {"actor", "critic"}
OPTIMIZERS = {"actor_optimizer", "critic_optimizer"}
TWO = {"generator", "acting"}
FORMATS = {  # checkpoints of earlier versions have these names
    SAC: {*NETWORKS, *OPTIMIZERS, *TWO, "target", "log_alpha", "alpha_optimizer"}
    | {"updates", "actor_loss", "entropy"},
    TD3: {*NETWORKS, *OPTIMIZERS, *TWO, "target_actor", "target_critic", "updates", "actor_loss"},
    IQL: {*NETWORKS, "value", "target_critic", "optimizers"},
    BC: {"actor", "optimizer"},
}
CONFIGS = {SAC: SACConfig, TD3: TD3Config, IQL: IQLConfig, BC: BCConfig}


@pytest.mark.parametrize("cls", FORMATS, ids=lambda cls: cls.__name__)
def test_the_names_in_a_state_are_those_on_disk(cls):
    agents = [cls(OBS, ACT, CONFIGS[cls](hidden=(4,)), seed=seed) for seed in (0, 1)]
    state = agents[0].state_dict()
    assert set(state) == FORMATS[cls]
    if cls is IQL:
        assert set(state["optimizers"]) == {"actor", "critic", "value"}
    batch = make_batch()
    agents[0].update(batch)
    agents[1].load_state_dict(agents[0].state_dict())
    for agent in agents:
        agent.update(batch)
    assert torch.equal(*(vector(agent.actor) for agent in agents))
