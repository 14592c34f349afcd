"""A population of K learners is K learners: each member equals its own run."""

import pytest
import torch

from reverie.agents import SAC, TD3, SACConfig, TD3Config
from reverie.agents.actors import deterministic_policy, gaussian_policy
from reverie.agents.networks import draw
from reverie.agents.offline.iql import IQL, IQLConfig
from reverie.agents.population import at_rates, joined, member, spread
from reverie.agents.seeding import generator
from reverie.buffers import Transitions

SEEDS, OBS, ACT, B = (3, 0, 7), 5, 2, 16
HIDDEN = (24, 24)
CASES = {
    "sac": (SAC, SACConfig(hidden=HIDDEN)),
    "redq": (
        SAC,
        SACConfig(hidden=HIDDEN, critics=5, policy_delay=3, actor_value="mean"),
    ),
    "droq": (SAC, SACConfig(hidden=HIDDEN, critic_norm="layer", dropout=0.1)),
    "crossq": (SAC, SACConfig(hidden=HIDDEN, critic_norm="batch")),
    "sac-own-numbers": (
        SAC,
        [
            SACConfig(hidden=HIDDEN, lr=1e-3, tau=0.1, gamma=0.9, alpha=0.5),
            SACConfig(hidden=HIDDEN),
            SACConfig(hidden=HIDDEN, lr=1e-4, tau=0.01, gamma=0.95, alpha=0.2),
        ],
    ),
    "td3": (TD3, TD3Config(hidden=HIDDEN)),
    "td3-layer": (TD3, TD3Config(hidden=HIDDEN, critic_norm="layer")),
    "td3bc": (TD3, TD3Config(hidden=HIDDEN, bc_alpha=2.5)),
    "rebrac": (TD3, TD3Config(hidden=HIDDEN, bc_alpha=1.0, critic_bc=0.1)),
    "td3-own-numbers": (
        TD3,
        [
            TD3Config(hidden=HIDDEN, lr=1e-3, tau=0.1),
            TD3Config(hidden=HIDDEN, gamma=0.9),
            TD3Config(hidden=HIDDEN, lr=1e-4),
        ],
    ),
    "td3bc-own-numbers": (
        TD3,
        [
            TD3Config(hidden=HIDDEN, bc_alpha=1.0, lr=1e-3),
            TD3Config(hidden=HIDDEN, bc_alpha=2.5, tau=0.1),
            TD3Config(hidden=HIDDEN, bc_alpha=10.0, gamma=0.9),
        ],
    ),
    "iql": (IQL, IQLConfig(hidden=HIDDEN)),
    "iql-layer": (IQL, IQLConfig(hidden=HIDDEN, critic_norm="layer")),
    "iql-own-numbers": (
        IQL,
        [
            IQLConfig(hidden=HIDDEN, lr=1e-3, expectile=0.9, temperature=1.0),
            IQLConfig(hidden=HIDDEN, tau=0.1, gamma=0.9),
            IQLConfig(hidden=HIDDEN, lr=1e-4, expectile=0.5, temperature=10.0),
        ],
    ),
}


@pytest.fixture
def precision(request):
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def batches(n):
    g = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(len(SEEDS), B, *size, generator=g)

    for _ in range(n):
        ended = (normal() > 1).to(torch.get_default_dtype())
        more = {"next_action": normal(ACT).tanh()}
        obs, action, reward, following = normal(OBS), normal(ACT).tanh(), normal(), normal(OBS)
        yield Transitions(obs, action, reward, following, ended, torch.zeros_like(ended), more)


def alone(agent_class, configs):
    configs = configs if isinstance(configs, list) else [configs] * len(SEEDS)
    return [agent_class(OBS, ACT, c, seed=s) for c, s in zip(configs, SEEDS, strict=True)]


def parameters(agent):
    nets = [
        getattr(agent, n) for n in agent.saved if isinstance(getattr(agent, n), torch.nn.Module)
    ]
    return [x for net in nets for x in (*net.parameters(), *net.buffers())]


@pytest.mark.parametrize("precision", [torch.float32, torch.float64], indirect=True, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_ten_updates_of_a_population_are_those_of_each_member_alone(case, precision):
    agent_class, configs = CASES[case]
    population, members = agent_class(OBS, ACT, configs, seed=SEEDS), alone(agent_class, configs)
    close = {"rtol": 0, "atol": 1e-5 if precision == torch.float32 else 1e-9}
    for batch in batches(10):
        metrics = population.update(batch)
        for k, agent in enumerate(members):
            expected = agent.update(batch.map(lambda x, k=k: x[k]))
            assert list(metrics) == list(expected)
            for name, value in expected.items():
                torch.testing.assert_close(metrics[name][k], value, **close)
    for whole, *own in zip(parameters(population), *map(parameters, members), strict=True):
        torch.testing.assert_close(whole.view(len(SEEDS), *own[0].shape), torch.stack(own), **close)
    obs = torch.randn(len(SEEDS) * 4, OBS)
    for explore in (False, True):
        action, _ = population.act(obs, explore=explore)
        own = [m.act(o, explore=explore)[0] for m, o in zip(members, obs.split(4), strict=True)]
        torch.testing.assert_close(action, torch.cat(own), **close)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64], indirect=True, ids=str)
def test_what_batch_norm_takes_out_again_has_a_gradient_of_rounding_alone(precision):
    """A shift of all rows before it. Adam makes steps of any size of it: float32 is no measure."""
    agent = SAC(OBS, ACT, SACConfig(hidden=HIDDEN, critic_norm="batch"), seed=0)
    for batch in batches(3):
        agent.update(batch.map(lambda x: x[0]))
    gradient = {name: float(p.grad.abs().max()) for name, p in agent.critic.named_parameters()}
    nothing = {"layers.0.bias", "layers.1.bias", "norms.0.shift"}
    bar = 10 * torch.finfo(precision).eps
    assert {name for name, most in gradient.items() if most < bar} == nothing
    assert min(most for name, most in gradient.items() if name not in nothing) > 1e-3


@pytest.mark.parametrize("case", ["sac-own-numbers", "droq", "td3-own-numbers", "iql-own-numbers"])
def test_a_saved_population_goes_on_with_the_same_bits(case):
    agent_class, configs = CASES[case]
    one, other = (agent_class(OBS, ACT, configs, seed=SEEDS) for _ in range(2))
    first, second = list(batches(6))[:3], list(batches(6))[3:]
    for batch in first:
        one.update(batch)
    other.load_state_dict(one.state_dict())
    for batch in second:
        expected, got = one.update(batch), other.update(batch)
        assert all(torch.equal(expected[n], got[n]) for n in expected)
    assert all(map(torch.equal, parameters(one), parameters(other)))
    obs = torch.zeros(6, OBS)
    assert torch.equal(one.act(obs, explore=True)[0], other.act(obs, explore=True)[0])


@pytest.mark.parametrize("case", ["sac", "td3", "td3bc", "iql"])
def test_a_member_that_is_not_finite_leaves_the_others_as_they_are(case):
    agent_class, config = CASES[case]
    ill, well = (agent_class(OBS, ACT, config, seed=SEEDS) for _ in range(2))
    for i, batch in enumerate(batches(4)):
        expected = well.update(batch)
        bad = batch.reward.clone()
        bad[1] = float("inf") if i == 1 else bad[1]
        got = ill.update(batch._replace(reward=bad))
        for name in expected:
            assert torch.equal(got[name][[0, 2]], expected[name][[0, 2]]), name
    assert not got["critic_loss"][1].isfinite()


@pytest.mark.parametrize(
    ("case", "policy"),
    [("sac", gaussian_policy), ("td3", deterministic_policy), ("iql", deterministic_policy)],
)
def test_a_members_actor_is_a_policy_of_its_own(case, policy):
    agent_class, config = CASES[case]
    population = agent_class(OBS, ACT, config, seed=SEEDS)
    obs = torch.randn(4, OBS, generator=torch.Generator().manual_seed(1))
    expected = population.act(obs.repeat(len(SEEDS), 1))[0].split(4)
    for k in range(len(SEEDS)):
        own, width = policy(member(population.state_dict()["actor"], k))
        assert width == OBS
        torch.testing.assert_close(own.act(obs)[0], expected[k], rtol=0, atol=1e-6)


def test_members_draw_from_their_own_generators():
    both = draw(torch.randn, generator((4, 9), "x"), 2, 3)
    assert both.shape == (2, 2, 3)
    assert torch.equal(both[1], torch.randn(2, 3, generator=generator(9, "x")))


def test_numbers_of_members_lie_beside_their_parameters():
    """Two members; parameters [2, 2] and, two critics for each, [4, 1]: two and two of each."""
    configs = [SACConfig(lr=0.1), SACConfig(lr=0.2)]
    config = joined(configs, SACConfig(), (0, 1), ("lr", "tau"))
    rates = config.lr
    assert config.gamma == 0.99 and config.tau == 0.005 and rates.shape == (2, 1)
    vector = spread(rates, [torch.zeros(2, 2), torch.zeros(4, 1)])
    expected = torch.tensor([0.1, 0.1, 0.2, 0.2, 0.1, 0.1, 0.2, 0.2])
    assert torch.equal(vector, expected)
    assert spread(0.1, [torch.zeros(2)]) == 0.1


def test_each_element_takes_adams_step_at_its_rate():
    """Adam's first step is its rate times the gradient's sign: 1 - .2, 1 + .1 (eps aside)."""
    x = torch.nn.Parameter(torch.ones(2))
    adam = torch.optim.Adam([x], lr=0.2)
    at_rates(adam, x, torch.tensor([0.2, 0.1]))
    x.grad = torch.tensor([3.0, -5.0])
    adam.step()
    torch.testing.assert_close(x.detach(), torch.tensor([0.8, 1.1]))


def test_what_members_may_not_differ_in_is_refused_by_name():
    configs = [SACConfig(), SACConfig(hidden=(8,))]
    with pytest.raises(ValueError, match=r"hidden=\(256, 256\) and \(8,\).* gamma, tau, lr, alpha"):
        SAC(OBS, ACT, configs, seed=(0, 1))
    with pytest.raises(ValueError, match=r"2 configurations, and seeds \(0, 1, 2\): give one"):
        SAC(OBS, ACT, [SACConfig(), SACConfig()], seed=(0, 1, 2))
    with pytest.raises(ValueError, match="2 configurations, and seeds 0"):
        TD3(OBS, ACT, [TD3Config(), TD3Config()])
    with pytest.raises(ValueError, match="bc_alpha=0 is another loss"):
        TD3(OBS, ACT, [TD3Config(), TD3Config(bc_alpha=2.5)], seed=(0, 1))
    with pytest.raises(ValueError, match="a population has actors of its own"):
        TD3(OBS, ACT, seed=(0, 1), actor=torch.nn.Linear(OBS, ACT))
    with pytest.raises(ValueError, match="gamma"):
        SAC(OBS, ACT, [SACConfig(), SACConfig(gamma=2.0)], seed=(0, 1))
