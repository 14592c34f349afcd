"""What every agent must keep, and what SAC, TD3 and their variants promise beyond it."""

import copy
import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from reverie.agents import SAC, TD3, Agent, Policy, RandomPolicy, SACConfig, TD3Config, reset_where
from reverie.agents.ncap import Circuit, CircuitConfig
from reverie.agents.ncap.actors import CircuitActor
from reverie.agents.norms import EnsembleNorm
from reverie.buffers import Transitions
from reverie.experiments.runs.codec import decode, encode

OBS, ACT, BATCH = 5, 2, 32


def factory(cls, config, **settings):
    """Return a function of (obs_dim, act_dim, **keywords) that builds the agent."""
    config = config(hidden=(32, 32), lr=3e-3, **settings)
    return lambda obs=OBS, act=ACT, **keywords: cls(obs, act, config, **keywords)


def with_circuit(obs=OBS, act=ACT, **keywords):
    """TD3 whose actor is NCAP's circuit, with one weight for each synapse."""
    circuit = Circuit(act, 1.0, CircuitConfig(sharing="none", constraint="softplus"))
    config = TD3Config(hidden=(32, 32), lr=3e-3)
    actor = CircuitActor(circuit, torch.Generator().manual_seed(0))
    return TD3(obs, act, config, actor=actor, **keywords)


AGENTS = [  # one line covers an agent
    ("sac", factory(SAC, SACConfig, alpha=0.1)),
    ("sac-layernorm", factory(SAC, SACConfig, alpha=0.1, critic_norm="layer")),
    ("redq", factory(SAC, SACConfig, alpha=0.1, critics=5, policy_delay=2, actor_value="mean")),
    (
        "droq",
        factory(
            SAC,
            SACConfig,
            alpha=0.1,
            critic_norm="layer",
            dropout=0.01,
            policy_delay=3,
            actor_value="mean",
        ),
    ),
    ("crossq", factory(SAC, SACConfig, alpha=0.1, critic_norm="batch")),
    ("td3", factory(TD3, TD3Config)),
    ("td3-layernorm", factory(TD3, TD3Config, critic_norm="layer")),
    ("td3-circuit", with_circuit),
]
every_agent = pytest.mark.parametrize("make", [m for _, m in AGENTS], ids=[n for n, _ in AGENTS])
MAKE = dict(AGENTS)


def make_batch(seed=0, n=BATCH):
    g = torch.Generator().manual_seed(seed)
    obs, next_obs = torch.randn(2, n, OBS, generator=g)
    action = 2 * torch.rand(n, ACT, generator=g) - 1
    terminated, truncated = (torch.rand(2, n, generator=g) < 0.3).float()
    return Transitions(obs, action, torch.randn(n, generator=g), next_obs, terminated, truncated)


def learn(agent, updates, start=0):
    return [agent.update(make_batch(i)) for i in range(start, start + updates)][-1]


def tensors(agent):
    """Every tensor and number of an agent's state, copied: {path: tensor}."""
    out = {}

    def walk(x, at):
        if isinstance(x, dict):
            for k, v in x.items():
                walk(v, f"{at}/{k}")
        elif isinstance(x, (torch.Tensor, int, float)):
            out[at] = torch.as_tensor(x).detach().clone()
        elif isinstance(x, (list, tuple)):
            walk(dict(enumerate(x)), at)

    walk(agent.state_dict(), "")
    return out


def different(a, b):
    """The names under which two dicts of tensors differ."""
    return {
        k for k in a.keys() | b.keys() if k not in a or k not in b or not torch.equal(a[k], b[k])
    }


def networks(agent):
    """Copies of the parameters and buffers in an agent's state: {network: {name: tensor}}."""
    return {
        name: {k: v.clone() for k, v in part.items()}
        for name, part in agent.state_dict().items()
        if isinstance(part, dict) and "param_groups" not in part
    }


# --- acting


@every_agent
def test_is_an_agent(make):
    assert isinstance(make(), Agent)
    assert isinstance(make(), Policy)


@every_agent
def test_acts_in_the_box_with_its_own_generator(make):
    agent, twin, other = make(seed=3), make(seed=3), make(seed=4)
    other.load_state_dict(agent.state_dict() | {"acting": other.state_dict()["acting"]})
    obs = make_batch(n=64).obs * torch.logspace(0, 2, 64)[:, None]  # some rows saturate tanh
    state = agent.initial_state(64)
    before, torchs = tensors(agent), torch.get_rng_state()
    mode, after = agent.act(obs, state, explore=False)
    again, _ = agent.act(obs, state, explore=False)
    assert type(after) is tuple and len(after) == len(state)
    assert mode.shape == (64, ACT) and mode.dtype == torch.float32 and not mode.requires_grad
    assert mode.abs().max() <= 1 and (mode[0] - mode[1]).abs().max() > 1e-4
    assert torch.equal(mode, again)
    if not state:  # without a memory the observations are enough
        assert torch.equal(agent.act(obs)[0], mode) and agent.act(obs)[1] == ()
    assert not different(tensors(agent), before)  # a judged agent goes on as if it had not been
    draws = [agent.act(obs, state, explore=True)[0] for _ in range(3)]
    assert all(d.shape == mode.shape and d.abs().max() <= 1 for d in draws)
    assert not any(d.requires_grad for d in draws)
    assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], mode)
    for d in draws:
        assert torch.equal(d, twin.act(obs, state, explore=True)[0])
    assert not torch.equal(draws[0], other.act(obs, state, explore=True)[0])
    assert torch.equal(torch.get_rng_state(), torchs)
    rows, _ = agent.act(obs[5:9], agent.initial_state(4), explore=False)
    torch.testing.assert_close(rows, mode[5:9])


@pytest.mark.parametrize("discrete", [False, True])
def test_random_policy(discrete):
    policy = RandomPolicy(3, discrete=discrete, seed=1)
    assert isinstance(policy, Policy) and not isinstance(policy, Agent)
    obs, torchs = torch.zeros(3000, OBS), torch.get_rng_state()
    action, state = policy.act(obs, policy.initial_state(3000), explore=True)
    twin, _ = RandomPolicy(3, discrete=discrete, seed=1).act(obs, (), explore=False)
    assert state == () and action.shape == (3000, 3) and torch.equal(action, twin)
    assert torch.equal(torch.get_rng_state(), torchs)
    if discrete:
        assert torch.equal(action.sum(1), torch.ones(3000))
        assert set(action.unique().tolist()) == {0, 1}
        assert (action.mean(0) - 1 / 3).abs().max() < 0.05
    else:
        assert action.abs().max() <= 1
        assert action.mean(0).abs().max() < 0.05 and (action.var(0) - 1 / 3).abs().max() < 0.02


def test_reset_where_replaces_the_rows_of_ended_episodes():
    state = (torch.ones(3, 2), torch.ones(3, 2, 4), torch.ones(3))
    initial = tuple(torch.zeros_like(s) for s in state)
    for s in reset_where(torch.tensor([False, True, False]), state, initial):
        assert s[0].all() and not s[1].any() and s[2].all()
    assert reset_where(torch.tensor([True]), (), ()) == ()


# --- learning


@every_agent
def test_update_returns_scalars_and_moves_every_network(make):
    agent, batch = make(), make_batch()
    before, kept = networks(agent), [t.clone() for t in batch[:6]]
    torchs = torch.get_rng_state()
    acting = agent.state_dict()["acting"].clone()
    for _ in range(4):
        metrics = agent.update(batch)
        assert metrics and all(isinstance(k, str) for k in metrics)
        for name, value in metrics.items():
            assert value.shape == () and not value.requires_grad and value.isfinite(), name
    assert set(before) >= {"actor", "critic"}
    for network, part in networks(agent).items():
        for name, value in part.items():
            assert value.isfinite().all(), (network, name)
            assert not torch.equal(value, before[network][name]), (network, name)
    assert all(torch.equal(a, b) for a, b in zip(batch[:6], kept, strict=True))
    assert torch.equal(agent.state_dict()["acting"], acting), "updates must not change exploration"
    assert torch.equal(torch.get_rng_state(), torchs)


@every_agent
def test_the_seed_decides_everything(make):
    torch.manual_seed(0)
    a = make(seed=5)
    learn(a, 5)
    torch.manual_seed(1)
    b, c = make(seed=5), make(seed=6)
    learn(b, 5)
    learn(c, 5)
    assert not different(tensors(a), tensors(b))
    for network, part in networks(a).items():
        assert different(part, networks(c)[network]), network


@every_agent
def test_a_saved_agent_continues_bit_for_bit(make):
    agent, obs = make(seed=1), make_batch().obs
    state = agent.initial_state(BATCH)
    learn(agent, 5)
    agent.act(obs, state, explore=True)
    parts, tree = encode(agent.state_dict())
    saved = save(parts), json.dumps(tree)
    fresh = make(seed=2)
    learn(fresh, 3, start=50)
    fresh.load_state_dict(decode(load(saved[0]), json.loads(saved[1])))
    assert not different(tensors(agent), tensors(fresh))
    for one in (agent, fresh):
        learn(one, 5, start=5)
    assert not different(tensors(agent), tensors(fresh))
    for explore in (True, False):
        one, other = (x.act(obs, state, explore=explore)[0] for x in (agent, fresh))
        assert torch.equal(one, other)
    metrics = [learn(x, 1, start=10) for x in (agent, fresh)]
    assert not different(*metrics)


@every_agent
def test_terminated_stops_bootstrapping_and_truncated_does_not(make):
    def after(gamma, terminated, truncated):
        agent = make()
        agent.config = replace(agent.config, gamma=gamma)
        ends = {
            "terminated": torch.full((BATCH,), terminated),
            "truncated": torch.full((BATCH,), truncated),
        }
        for i in range(3):
            agent.update(make_batch(i)._replace(**ends))
        return tensors(agent)

    base = after(0.9, 0.0, 0.0)
    assert not different(base, after(0.9, 0.0, 1.0))
    assert different(base, after(0.9, 1.0, 0.0))
    assert different(base, after(0.0, 0.0, 0.0))
    assert not different(after(0.9, 1.0, 0.0), after(0.0, 1.0, 1.0))


@every_agent
def test_agents_loaded_from_each_other_share_nothing(make):
    agent, copied, saved = make(seed=1), make(seed=2), make(seed=3)
    learn(agent, 2)
    saved.load_state_dict(decode(*encode(agent.state_dict())))
    copied.load_state_dict(agent.state_dict())
    learn(agent, 3, start=50)
    for one in (copied, saved):
        learn(one, 3, start=2)
    assert not different(tensors(copied), tensors(saved))


@every_agent
def test_construction_leaves_torchs_generator_alone(make):
    torchs = torch.get_rng_state()
    make()
    assert torch.equal(torch.get_rng_state(), torchs)


@every_agent
def test_bfloat16_stays_near_float32(make):
    agents = make(), make(bfloat16=True)
    before = networks(agents[0])
    metrics = [agent.update(make_batch(n=256)) for agent in agents]
    for name, value in metrics[0].items():
        torch.testing.assert_close(metrics[1][name], value, rtol=0.05, atol=0.01)
    # Adam's first step is lr up or down, so compare directions
    ours, theirs = (
        torch.cat([(p - before[k][name]).flatten() for k in before for name, p in after[k].items()])
        for after in map(networks, agents)
    )
    assert not torch.equal(ours, theirs)
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.9


def compare_compiled(make):
    torch._dynamo.reset()
    graphs = torch._dynamo.utils.counters["stats"]
    eager, compiled = make(), make(compile=True)
    for i in range(6):
        # From the same state every time: Adam makes steps of the rounding of zero gradients, as
        # those of biases before a batch norm are.
        compiled.load_state_dict(eager.state_dict())
        metrics = [agent.update(make_batch(i)) for agent in (eager, compiled)]
        for name, value in metrics[0].items():
            torch.testing.assert_close(metrics[1][name], value, rtol=1e-3, atol=1e-3)
        if i == 2:
            traced = graphs["unique_graphs"]
    assert graphs["unique_graphs"] == traced > 0, "traced again, or not at all"
    obs, state = make_batch().obs, eager.initial_state(BATCH)
    actions = [agent.act(obs, state, explore=False)[0] for agent in (eager, compiled)]
    torch.testing.assert_close(*actions, rtol=0, atol=5e-3)


@pytest.mark.parametrize("make", [
    pytest.param(m, id=n, marks=[] if n in ("sac", "td3", "crossq") else [pytest.mark.slow])
    for n, m in AGENTS
])  # fmt: skip
def test_objectives_trace_as_one_graph(make, monkeypatch):
    whole = functools.partial(torch.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", whole)
    compare_compiled(make)


@pytest.mark.slow
@every_agent
def test_compiled_equals_eager(make):
    compare_compiled(make)


@pytest.mark.parametrize("name", [n for n in MAKE if n != "td3-circuit"])  # it can only swim
def test_learns_a_bandit(name):
    make = MAKE[name]
    agent, n = make(1, 1), 64
    g = torch.Generator().manual_seed(1)
    for _ in range(300):
        obs, action = 1.8 * torch.rand(2, n, 1, generator=g) - 0.9
        reward = -(action - obs).square().sum(-1)
        agent.update(Transitions(obs, action, reward, obs, torch.ones(n), torch.zeros(n)))
    obs = torch.linspace(-0.9, 0.9, n)[:, None]
    action, _ = agent.act(obs, agent.initial_state(n), explore=False)
    assert -(action - obs).square().mean() > -0.05


# --- the variants


def moving(agent):
    """The agent at an update of SAC at which its actor moves."""
    agent.updates = agent.config.policy_delay - 1
    return agent


@pytest.mark.parametrize("name", ["sac", "sac-layernorm", "redq", "droq", "crossq"])
def test_one_step_of_a_sac_variant_by_hand(name):
    agent, batch = moving(MAKE[name]()), make_batch()
    with torch.no_grad():  # targets apart, so that it matters which of them are in the subset
        agent.target.head.bias.copy_(torch.arange(agent.critic.members)[:, None])
    critic, noise, alpha = copy.deepcopy(agent.critic), agent.draw(BATCH), 0.1
    actor = copy.deepcopy(agent.actor)
    with torch.no_grad():
        next_action, next_log_prob = agent.actor.sample(batch.next_obs, noise.next_action)
        next_q = agent.target(batch.next_obs, next_action, noise.target_masks)
    if name == "crossq":
        obs = torch.cat([batch.obs, batch.next_obs])
        both = critic(obs, torch.cat([batch.action, next_action]), learn=True)
        q, next_q = both[:, :BATCH], both[:, BATCH:].detach()
    else:
        q = critic(batch.obs, batch.action, noise.critic_masks)
    least = next_q[noise.subset if name == "redq" else slice(None)].min(0).values
    target = batch.reward + 0.99 * (1 - batch.terminated) * (least - alpha * next_log_prob)
    loss = 0.5 * (q - target).square().mean(1).sum()
    grads = torch.autograd.grad(loss, list(critic.parameters()))
    metrics = agent._update(batch, noise)
    torch.testing.assert_close(metrics["critic_loss"], loss.detach())
    for p, grad in zip(agent.critic.parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, grad, rtol=1e-4, atol=1e-6)
    # the actor climbs the critics after their step
    action, log_prob = actor.sample(batch.obs, noise.action)
    q = agent.critic(batch.obs, action, noise.actor_masks)
    q = q.mean(0) if name in ("redq", "droq") else q.min(0).values
    loss = (alpha * log_prob - q).mean()
    torch.testing.assert_close(metrics["actor_loss"], loss.detach())
    torch.testing.assert_close(metrics["entropy"], -log_prob.detach().mean())
    grads = torch.autograd.grad(loss, list(actor.parameters()))
    for p, grad in zip(agent.actor.parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, grad, rtol=1e-4, atol=1e-6)
    for ours, by_hand in zip(agent.critic.buffers(), critic.buffers(), strict=True):
        torch.testing.assert_close(ours, by_hand)


def test_redq_draws_different_subsets():
    agent = MAKE["redq"]()
    subsets = [tuple(sorted(agent.draw(4).subset.tolist())) for _ in range(200)]
    assert len(set(subsets)) == 10  # all pairs of five
    assert all(len(set(s)) == 2 and set(s) <= set(range(5)) for s in subsets)
    assert MAKE["sac"]().draw(4).subset is None


def test_droq_draws_fresh_masks_for_every_pass():
    agent = moving(MAKE["droq"]())
    noise = agent.draw(64)
    masks = [
        m for part in (noise.target_masks, noise.critic_masks, noise.actor_masks) for m in part
    ]
    masks += agent.draw(64).critic_masks
    assert len(masks) == 8 and {m.shape for m in masks} == {(2, 64, 32)}
    assert all(0 < (m == 0).float().mean() < 0.03 for m in masks)
    assert len({m.numpy().tobytes() for m in masks}) == 8
    assert MAKE["sac"]().draw(4).critic_masks == ()


def test_crossq_has_no_target_and_judges_with_running_statistics():
    agent, batch = MAKE["crossq"](), make_batch()
    learn(agent, 3)
    assert agent.target is agent.critic
    state = agent.state_dict()
    assert not different(state["target"], state["critic"])
    statistics = [(m.mean.clone(), m.var.clone()) for m in agent.critic.norms]
    agent.critic(batch.obs, batch.action)
    agent.act(batch.obs, (), explore=True)
    for m, (mean, var) in zip(agent.critic.norms, statistics, strict=True):
        assert torch.equal(m.mean, mean) and torch.equal(m.var, var)
    one, rows = agent.critic(batch.obs[:1], batch.action[:1]), agent.critic(batch.obs, batch.action)
    torch.testing.assert_close(one, rows[:, :1])
    assert not any(isinstance(m, EnsembleNorm) for m in agent.actor.modules())


def test_td3_smooths_with_the_set_noise():
    noise = MAKE["td3"]().draw(20_000).target
    assert noise.shape == (20_000, ACT)
    assert abs(noise.std().item() - 0.2) < 0.005 and noise.mean().abs() < 0.005


def test_streams_of_neighbouring_seeds_and_of_one_seed_differ():
    agents = [SAC(OBS, ACT, SACConfig(hidden=(8,)), seed=seed) for seed in range(3)]
    streams = [g for agent in agents for g in (agent.generator, agent.acting)]
    assert len({torch.rand(1, generator=g).item() for g in streams}) == 6
    same = (SAC(3, 1, seed=s).actor for s in (np.int64(1), 1))  # a seed as NumPy counts
    assert torch.equal(*(next(a.parameters()) for a in same))


@pytest.mark.parametrize(
    ("cls", "config", "words"),
    [
        (SAC, SACConfig(critics=2, subset=3), r"subset.*critics=2.*3"),
        (SAC, SACConfig(subset=0), r"subset.*1.*got 0"),
        (SAC, SACConfig(critic_norm="layr"), "critic_norm.*layer.*'layr'"),
        (SAC, SACConfig(dropout=1.5), r"dropout.*\[0, 0.99\].*1.5"),
        (
            TD3,
            TD3Config(critic_norm="batch"),
            r"critic_norm .*'layer'\), got 'batch'",
        ),
        (TD3, TD3Config(critic_norm="spectral"), "critic_norm.*'spectral'"),
        (SAC, SACConfig(policy_delay=0), r"policy_delay must be in \[1, 1000\], got 0"),
        (
            SAC,
            SACConfig(actor_value="max"),
            r"actor_value must be one of \('min', 'mean'\), got 'max'",
        ),
        (SAC, SACConfig(gamma=2.0), r"gamma must be in \[0, 1\], got 2.0"),
        (SAC, SACConfig(tau=-0.1), "tau must be in"),
        (SAC, SACConfig(alpha=0.0), "alpha must be in"),
        (TD3, TD3Config(critics=0, policy_delay=1), "critics must be in"),
        (TD3, TD3Config(policy_delay=0), "policy_delay must be in"),
    ],
)
def test_bad_settings_say_what_is_wrong(cls, config, words):
    with pytest.raises(ValueError, match=words):
        cls(OBS, ACT, config)
