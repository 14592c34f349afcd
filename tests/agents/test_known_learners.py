"""One update of each learner, what it logs, and what acts, against plain formulas."""

import copy
from types import SimpleNamespace

import pytest
import torch
from known import Counter

from reverie.agents import SAC, TD3, SACConfig, TD3Config
from reverie.agents.candidates import population_returns
from reverie.agents.ncap import Circuit, joint_limit, transfer
from reverie.agents.offline.bc import BC, BCConfig
from reverie.agents.offline.iql import IQL, IQLConfig
from reverie.agents.offline.standardised import Standardised
from reverie.agents.search import SEARCHES, SearchConfig
from reverie.buffers import Transitions
from reverie.envs import make
from reverie.envs.api import StepResult

N = 6


def a_batch(**extra):
    g = torch.Generator().manual_seed(0)
    obs, next_obs = torch.randn(2, N, 3, generator=g)
    action = 2 * torch.rand(N, 2, generator=g) - 1
    terminated = torch.tensor([0.0, 1.0] * 3)
    truncated = torch.tensor([1.0, 1.0, 0.0] * 2)
    reward = torch.randn(N, generator=g)
    return Transitions(obs, action, reward, next_obs, terminated, truncated, extra)


def moved(before, online, tau):
    """Targets after an update: tau of the way to the networks as they are after it."""
    return [t + tau * (p - t) for t, p in zip(before, online, strict=True)]


def close_all(got, want):
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-4, atol=1e-6)


def test_a_sac_update_logs_what_it_did_and_moves_its_targets():
    agent, batch = SAC(3, 2, SACConfig(hidden=(8,), alpha=0.3, tau=0.1, lr=1e-2)), a_batch()
    before, target = copy.deepcopy(agent.critic), copy.deepcopy(list(agent.target.parameters()))
    actor, state = copy.deepcopy(agent.actor), agent.generator.get_state()
    metrics = agent.update(batch)
    agent.generator.set_state(state)
    noise = agent.draw(N)
    _, log_prob = actor.sample(batch.obs, noise.action)
    assert torch.isclose(metrics["q"], before(batch.obs, batch.action).mean())
    assert torch.isclose(metrics["entropy"], -log_prob.mean())
    assert torch.isclose(metrics["alpha"], torch.tensor(0.3))
    close_all(agent.target.parameters(), moved(target, agent.critic.parameters(), 0.1))
    # the entropy is wanted at minus the number of actions: Adam's first step is lr down or up
    up = -1.0 if -log_prob.mean() > -2 else 1.0
    assert torch.isclose(agent.log_alpha, torch.tensor(0.3).log() + 1e-2 * up)


@pytest.mark.parametrize("rebrac", [False, True])
def test_a_td3_update_by_hand(rebrac):
    """Critics at every update; at every second the actor, then all targets."""
    extra = {"next_action": torch.full((N, 2), 0.25)} if rebrac else {}
    more = {"bc_alpha": 2.5, "critic_bc": 0.5} if rebrac else {}
    config = TD3Config(hidden=(8,), tau=0.1, target_noise=3.0, target_clip=0.5, **more)
    agent, batch = TD3(3, 2, config), a_batch(**extra)
    for _ in range(3):  # so that targets and networks have parted
        agent.update(batch)
    nets = ("actor", "critic", "target_actor", "target_critic")
    old = {name: copy.deepcopy(getattr(agent, name)) for name in nets}
    state = agent.generator.get_state()
    metrics = agent.update(batch)
    agent.generator.set_state(state)
    noise = 3.0 * torch.randn(N, 2, generator=agent.generator)
    next_action = (old["target_actor"](batch.next_obs) + noise.clamp(-0.5, 0.5)).clamp(-1, 1)
    next_q = old["target_critic"](batch.next_obs, next_action).min(0).values
    if rebrac:  # not where the recording was cut
        next_q = next_q - 0.5 * (next_action - 0.25).square().sum(1) * (1 - batch.truncated)
    target = (batch.reward + 0.99 * (1 - batch.terminated) * next_q).detach()
    q = old["critic"](batch.obs, batch.action)
    assert torch.isclose(metrics["critic_loss"], ((q - target) ** 2).mean(1).sum())
    assert torch.isclose(metrics["q"], q.mean())
    action = old["actor"](batch.obs)
    values = agent.critic(batch.obs, action)  # after their step
    if rebrac:
        value = values.min(0).values
        loss = -2.5 * value.mean() / value.abs().mean() + (action - batch.action).square().mean()
    else:
        loss = -values[0].mean()
    assert torch.isclose(metrics["actor_loss"], loss)
    for name in ("actor", "critic"):
        want = moved(old[f"target_{name}"].parameters(), getattr(agent, name).parameters(), 0.1)
        close_all(getattr(agent, f"target_{name}").parameters(), want)
    kept = copy.deepcopy(list(agent.target_critic.parameters()))
    after = agent.update(batch)
    close_all(agent.target_critic.parameters(), kept)
    assert after["actor_loss"] == metrics["actor_loss"]  # the last one there was


def test_td3_explores_with_noise_of_its_size():
    agent = TD3(3, 2, TD3Config(hidden=(8,), explore_noise=0.25))
    obs = torch.zeros(4000, 3)
    mode, _ = agent.act(obs, (), explore=False)
    noisy, _ = agent.act(obs, (), explore=True)
    assert torch.equal(mode, agent.actor(obs)) and abs((noisy - mode).std().item() - 0.25) < 0.01


def test_an_iql_update_by_hand():
    """V to the expectile of Q' - V, Q to r + gamma V', the actor by exp(3 A), V before its step."""
    agent, batch = IQL(3, 2, IQLConfig(hidden=(8,), tau=0.1, lr=1e-2)), a_batch()
    for _ in range(3):
        agent.update(batch)
    old = copy.deepcopy({n: getattr(agent, n) for n in ("actor", "critic", "target_critic")})
    value = copy.deepcopy(agent.value)
    metrics = agent.update(batch)
    advantage = old["target_critic"](batch.obs, batch.action).min(0).values - value(batch.obs)
    weight = torch.where(advantage < 0, 0.3, 0.7)
    assert torch.isclose(metrics["value_loss"], (weight * advantage**2).mean())
    following = agent.value(batch.next_obs)  # after its step
    target = batch.reward + 0.99 * (1 - batch.terminated) * following
    q = old["critic"](batch.obs, batch.action)
    assert torch.isclose(metrics["critic_loss"], ((q - target) ** 2).mean(1).sum())
    assert torch.isclose(metrics["q"], q.mean())
    gap = (old["actor"](batch.obs) - batch.action).square().sum(1)
    want = ((3.0 * advantage).exp().clamp(max=100) * gap).mean()
    assert torch.isclose(metrics["actor_loss"], want)
    moved_to = moved(old["target_critic"].parameters(), agent.critic.parameters(), 0.1)
    close_all(agent.target_critic.parameters(), moved_to)


def test_a_cloning_update_by_hand():
    agent, batch = BC(3, 2, BCConfig(hidden=(8,))), a_batch()
    want = (agent.actor(batch.obs) - batch.action).square().mean()
    assert torch.isclose(agent.update(batch)["actor_loss"], want.detach())
    after = (agent.actor(batch.obs) - batch.action).square().mean()
    assert after < want


def test_standardised_agents_see_z_scores_on_both_sides_of_a_step():
    """(3, 10) is (1, 2) and its successor (5, -2) is (2, -1), by means 1, 2, deviations 2, 4."""
    inner, seen = Counter(), []
    inner.act = lambda obs, state, *, explore: (seen.append((obs, explore)), (obs, state))[1]
    agent = Standardised(inner, torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
    x = torch.zeros(1)
    obs, following = torch.tensor([[3.0, 10.0]]), torch.tensor([[5.0, -2.0]])
    agent.update(Transitions(obs, x[:, None], x + 7, following, x, x))
    batch = inner.batches[0]
    assert batch.obs.tolist() == [[1, 2]] and batch.next_obs.tolist() == [[2, -1]]
    assert batch.reward.tolist() == [7]
    agent.act(obs, (), explore=True)
    assert seen[0][0].tolist() == [[1, 2]] and seen[0][1] is True
    other = Standardised(Counter(), torch.zeros(2), torch.ones(2))
    other.load_state_dict(agent.state_dict())
    assert other._scale(following).tolist() == [[2, -1]]


# -- searches


@pytest.mark.parametrize("name", ["es", "ars"])
def test_the_step_size_of_a_search_decays(name):
    """Halved after each generation: 0.8, 0.4, 0.2. ES's first step of Adam is of its step size."""
    config = SearchConfig(population=4, lr=0.8, lr_decay=0.5, weight_decay=0.0)
    search, lrs = SEARCHES[name](torch.zeros(2), config, 0), []
    for _ in range(3):
        lrs.append(search.optimizer.param_groups[0]["lr"] if name == "es" else search.lr)
        before = search.best
        search.ask()
        search.tell(torch.tensor([3.0, 1.0, 2.0, 0.0]))
        assert not torch.equal(search.best, before)
        if name == "es" and len(lrs) == 1:
            assert torch.allclose(search.best.abs(), torch.full((2,), 0.8), atol=1e-4)
    assert lrs == [0.8, 0.4, 0.2]


def test_equal_returns_leave_es_with_its_weight_decay_and_ars_still():
    """Ties have ranks too, in order: a decay that is large enough outweighs them."""
    config = SearchConfig(population=4, sigma=0.5, lr=0.1, weight_decay=1e3)
    es = SEARCHES["es"](torch.tensor([1.0, -2.0]), config, 0)
    es.ask()
    es.tell(torch.zeros(4))
    assert torch.allclose(es.best, torch.tensor([0.9, -1.9]), atol=1e-4)  # towards 0 by lr
    ars = SEARCHES["ars"](torch.tensor([1.0, -2.0]), config, 0)
    ars.ask()
    ars.tell(torch.zeros(4))
    assert ars.best.tolist() == [1, -2]


# -- populations, and how far a controller carries


class Short:
    """Four worlds of at most three steps; world w pays w + 1. World 1 ends, world 2 goes bad."""

    num_envs, act_dim, max_episode_steps, device = 4, 1, 3, torch.device("cpu")

    def __init__(self):
        self.seeds, self.actions = [], []

    def reset(self, seed):
        self.seeds.append(seed)

    def current_obs(self):
        return torch.zeros(4, 1)

    def step(self, action):
        step = len(self.actions)
        self.actions.append(action[:, 0].tolist())
        world = torch.arange(4)
        terminated, bad = (world == 1) & (step == 0), (world == 2) & (step == 1)
        obs = world[:, None] + 0.25 * step
        reward = torch.where(bad, torch.nan, world + 1.0)
        return StepResult(obs, reward, terminated, terminated & False, obs, ~bad)


def test_a_candidates_return_ends_with_its_world():
    """World c E + e plays candidate c: 3 steps of 1; one of 2; one of 3, then bad; 3 of 4."""
    env = Short()
    controller = SimpleNamespace(
        bind=lambda parameters: parameters, act=lambda bound, obs: bound * (1 + obs)
    )
    returns = population_returns(env, controller, torch.tensor([[1.0], [2.0]]), seed=8)
    assert returns.tolist() == [[3, 2], [3, 12]] and env.seeds == [8]
    # parameter x (1 + observation): at first 0, then the world's number, then a quarter more
    assert env.actions[0] == [1, 1, 2, 2] and env.actions[1] == [1, 2, 6, 8]
    assert env.actions[2] == [1.25, 2.25, 6.5, 8.5]


def test_off_nominal_is_the_mean_over_families_of_their_conditions(monkeypatch):
    """Each world returns what its context says: density / 1000, 100 x viscosity, gear; 0.01 a lap.

    Densities 1, 2, 4.5, 6 at gear 1; viscosities 0.3, 1, 3 at density 3; gears 0.5, 0.7, 1.5, 2.
    """
    calls = []

    def returns_of(env, controller, parameters, seed, *stop):
        calls.append((env, controller.joints, parameters.tolist(), seed))
        if env.context.shape[1] == 0:
            return torch.full((1, env.num_envs), float(env.p.links))
        assert list(env.contexts.names) == ["density", "viscosity", "gear"]
        scale = torch.tensor([1e-3, 100.0, 1.0])
        lap = torch.arange(env.num_envs) // len(env.contexts)
        return ((env.context * scale).sum(1) + 0.01 * lap)[None]

    monkeypatch.setattr(transfer, "population_returns", returns_of)

    def swim(num_envs, **options):
        return make("reverie/Swim-v0", num_envs, time_feature=True, threads=1, **options)

    def build(links):
        return Circuit(links - 1, joint_limit(links))

    scores = transfer.off_nominal(build, build(6).initial(), 6, swim)
    laps = 0.01 * (0 + 1 + 2 + 3) / 4
    want = {
        "density": (1 + 2 + 4.5 + 6) / 4 + 1 + laps,
        "viscosity": (0.3 + 1 + 3) / 3 + 3 + 1 + laps,
        "gear": (0.5 + 0.7 + 1.5 + 2) / 4 + 3 + laps,
        "bodies": (4 + 5 + 7 + 8 + 10 + 12 + 14 + 16) / 8,
    }
    assert scores == pytest.approx({**want, "off_nominal": sum(want.values()) / 4})
    assert calls[0][1] == 5 and [c[1] for c in calls[1:]] == [3, 4, 6, 7, 9, 11, 13, 15]
    assert [c[0].num_envs for c in calls] == [44] + [4] * 8
    assert {c[3] for c in calls} == {transfer.EVAL_SEED}
    assert all(c[2] == [build(6).initial().tolist()] for c in calls)
