"""OER: the specification's exact tests 1 to 7, and the point mass that must not be forgotten."""

import copy

import numpy as np
import pytest
import torch

from reverie.agents.dynamics import DynamicsConfig, DynamicsEnsemble
from reverie.agents.networks import DeterministicActor
from reverie.agents.oer import metrics
from reverie.agents.oer.learner import OER, OERConfig
from reverie.agents.oer.memory import Kept, size_of
from reverie.agents.oer.penalties import EWC, SI, project
from reverie.agents.oer.policy import ContinualPolicy, Head
from reverie.agents.oer.selectors import SELECTORS, Pick, mbes
from reverie.agents.td3 import TD3Config
from reverie.buffers import Card, Dataset, Transitions

NAN = float("nan")
A = np.array([[100, NAN, NAN], [80, 90, NAN], [70, 85, 95]], float)
SMALL = TD3Config(hidden=(32, 32), bc_alpha=2.5)


# -- 1, 2: metrics


def test_metrics_of_the_fixture():
    assert metrics.per(A) == pytest.approx(83.333, abs=1e-3)
    assert metrics.forgetting(A) == pytest.approx(17.5)
    assert metrics.forgetting(A, "N") == pytest.approx(11.667, abs=1e-3)
    assert metrics.bwt(A) == pytest.approx(-17.5)
    got = metrics.libero(A, np.diag(A))
    assert got["nbt"] == pytest.approx(10.0) and got["auc"] == pytest.approx(88.611, abs=1e-3)
    assert metrics.summary(A)["learned"] == pytest.approx(95.0)


def test_liberos_forward_transfer_is_frozen_at_the_first_maximum():
    curve = np.array([0, 0.2, 0.5, 0.9, 0.7, 0.9, 0.8, 0.6, 0.9, 0.85, 0.9])
    assert metrics.frozen_at_best(curve).mean() == pytest.approx(0.7182, abs=1e-4)
    assert curve.mean() == pytest.approx(0.6591, abs=1e-4)


def test_the_other_metrics_by_hand():
    assert metrics.maintenance(np.array([5.0, 3.0, 1.0]), 0) == -3.0
    assert metrics.maintenance(np.array([5.0, 3.0, 1.0]), 2) == 0.0
    assert metrics.transfer_contrast(1.0, 3.0) == 0.5
    assert metrics.relative_performance(np.ones(3), np.full(5, 2.0)) == 0.5
    ours, alone = np.array([[0.6, 0.8]]), np.array([[0.4, 0.6]])
    assert metrics.forward_transfer(ours, alone) == pytest.approx((0.7 - 0.5) / 0.5)
    score = metrics.normalise(np.array([[-5.0, 20.0]]), np.array([-10, 0]), np.array([0, 40]))
    assert score.tolist() == [[0.5, 0.5]]


# -- 3: model-based selection on a line


class Exact:
    """A model that knows s' = s + gain * a and never disagrees."""

    def __init__(self, gain=1.0, doubt=0.0):
        self.gain, self.doubt = gain, doubt

    def predict(self, obs, action, *, member=True):
        return obs + self.gain * action, torch.zeros(len(obs))

    def disagreement(self, obs, action):
        return torch.full((len(obs),), self.doubt)


def line(step=0.05, last=2.0):
    obs = torch.arange(0, last + 1e-6, step)[:, None]
    n = len(obs)
    ends = torch.zeros(n)
    ends[-1] = 1
    return Dataset.of(
        Transitions(
            obs, torch.full((n, 1), 0.05), torch.zeros(n), obs + step, torch.zeros(n), ends
        ),
        Card(env="line"),
    )


def pick(data, budget=10, seed=0, **kwargs):
    return Pick(data=data, budget=budget, generator=torch.Generator().manual_seed(seed), **kwargs)


@pytest.mark.parametrize("match", ["state", "model"])
@pytest.mark.parametrize("revisit", ["next", "stop"])
@pytest.mark.parametrize("gain", [1.0, 1.1])
def test_snapping_to_the_data_kills_the_models_drift(gain, revisit, match):
    def always(obs):
        return torch.full((len(obs), 1), 0.2)

    data = line()
    p = pick(data, act=always, model=Exact(gain), revisit=revisit, match=match)
    rows = mbes(p)
    states = data.all.obs[rows, 0].sort().values
    assert torch.allclose(states, torch.arange(0, 1.81, 0.2), atol=1e-5)
    assert p.report["gate_fired"] == 0 and p.report["starts"] == 0.1
    assert (p.report["snap"] > 1e-3) == (gain == 1.1)


def test_the_gate_follows_the_data_where_the_models_disagree():
    class Unsure(Exact):
        def disagreement(self, obs, action):
            return (action[:, 0] > 0.1).float()  # of the policy's own actions only

    p = pick(line(), act=lambda o: torch.full((len(o), 1), 0.2), model=Unsure())
    assert mbes(p).sort().values.tolist() == list(range(10))  # row after row
    assert p.report["gate_fired"] == 1


def test_a_chain_ends_with_its_episode_or_goes_on_by_the_model():
    """Two episodes side by side: a policy that would walk over the end does so by prediction."""
    data = line()
    flags = data.all.truncated.clone()
    flags[9] = 1
    cut = Dataset.of(data.all._replace(truncated=flags), data.card)
    for seed in range(4):
        ways = {"act": lambda o: torch.full((len(o), 1), 0.05), "model": Exact(), "budget": 8}
        p = pick(cut, revisit="stop", **ways)
        p.generator.manual_seed(seed)
        rows = mbes(p, chains=1).tolist()
        assert rows[0] in (0, 10) and rows == list(range(rows[0], rows[0] + 8))
        p = pick(cut, revisit="stop", **{**ways, "budget": 12})
        p.generator.manual_seed(seed)
        rows = mbes(p, chains=1).tolist()
        assert rows == (list(range(10, 22)) if rows[0] else [*range(10), 10, 11])
        p = pick(cut, revisit="next", **{**ways, "budget": 12})
        p.generator.manual_seed(seed)
        assert mbes(p).tolist() == list(range(rows[0], rows[0] + 12))


def test_predicted_successors_are_compared_and_the_next_row_is_kept():
    """Data that moves left, a model that says so: where a step right leads, a row came from."""
    data = line()
    left = data.all._replace(action=-data.all.action, next_obs=data.all.obs - 0.05)
    flags = data.all.truncated.clone()
    flags[9] = 1
    cut = Dataset.of(left._replace(truncated=flags), data.card)
    ways = {"act": lambda o: torch.full((len(o), 1), 0.1), "model": Exact()}
    rows = [mbes(pick(cut, 6, s, match="model", **ways)).tolist() for s in range(8)]
    # from i to i + 2; row i + 3 is predicted to come there, and what is kept is the row after it
    assert {tuple(r) for r in rows if r[0] == 10} == {(10, 14, 18, 22, 26, 30)}
    # row 9 ends its episode, so that it is no candidate: from 6 on row 8 or 10 is the nearest
    starts = [r for r in rows if r[0] == 0]
    assert starts and all(r[:2] == [0, 4] and r[2] == 8 and r[3] != 10 for r in starts)


def test_nothing_is_taken_over_a_border_when_no_candidate_is_left():
    data = line(last=0.95).all  # episodes of 1, 2 and 17 rows
    flags = torch.zeros(20)
    flags[[0, 2, 19]] = 1
    short = Dataset.of(data._replace(truncated=flags), Card(env="line"))
    ways = {"act": lambda o: torch.zeros(len(o), 1), "model": Exact()}
    for seed in range(8):
        p = pick(short, 20, seed, match="model", **ways)
        assert sorted(mbes(p).tolist()) == list(range(20)) and np.isfinite(p.report["snap"])


@pytest.mark.parametrize("revisit", ["next", "stop"])
def test_it_ends_when_nothing_new_can_be_reached(revisit):
    """A policy that stays where it is: the budget is filled from other starts."""
    p = pick(line(), 41, act=lambda o: torch.zeros(len(o), 1), model=Exact(), revisit=revisit)
    assert sorted(mbes(p).tolist()) == list(range(41))
    assert p.report["starts"] == (1 / 41 if revisit == "next" else 1)


def test_of_a_longer_walk_a_uniform_share_is_kept():
    """Budget 5 of a walk of 20 rows: all of the way, not its beginning."""
    ways = {"act": lambda o: torch.full((len(o), 1), 0.1), "model": Exact()}
    seen = [mbes(pick(line(), 5, walk=20, seed=s, **ways)) for s in range(200)]
    assert all(len(set(rows.tolist())) == 5 for rows in seen)
    assert {int(r) for rows in seen for r in rows} == set(range(0, 40, 2))


def test_many_short_episodes_do_not_crowd_the_policys_path_out():
    """100 episodes that end at once, 2 that go all the way: a policy that walks keeps the way."""
    data = line().all
    short = data._replace(**{k: getattr(data, k)[:3].clone() for k in data._fields if k != "extra"})
    short.truncated[-1] = 1
    parts = [short] * 100 + [data] * 2
    names = [k for k in data._fields if k != "extra"]
    joined = data._replace(**{k: torch.cat([getattr(part, k) for part in parts]) for k in names})
    both = Dataset.of(joined, Card(env="line"))
    far = {}
    for revisit in ("next", "stop"):
        act, model = (lambda o: torch.full((len(o), 1), 0.05)), Exact()
        p = pick(both, budget=41, act=act, model=model, revisit=revisit)
        kept = both.all.obs[mbes(p)]
        far[revisit] = float(torch.cdist(data.obs, kept).min(1).values.mean())
    assert far["next"] < 1e-5 < 0.3 < far["stop"]


# -- 4, 5: dual behaviour cloning


def wanted(task, obs):
    """The best actions: other functions of other numbers in each task."""
    return torch.tanh(3 * (obs[:, :2] if task == 0 else -obs[:, 1:]))


def two_tasks(n=1500):
    """One-step episodes of random actions, paid by their distance from what is wanted."""
    out = []
    for task in range(2):
        g = torch.Generator().manual_seed(task)
        obs = torch.randn(n, 3, generator=g)
        action = torch.rand(n, 2, generator=g) * 2 - 1
        reward = -(action - wanted(task, obs)).square().sum(1)
        out.append(Dataset.of(
            Transitions(obs, action, reward, obs, torch.ones(n), torch.zeros(n)), Card(env="t")
        ))  # fmt: skip
    return out


def learned(config, steps=(150, 150), seed=0, remember=200):
    learner = OER(3, 2, 2, config, seed=seed)
    for task, data in enumerate(two_tasks()):
        learner.begin(task, *data.moments())
        for _ in range(steps[task]):
            learner.update(data.sample(64))
        learner.settle()
        if remember:
            rows = data.gather(torch.arange(remember))
            learner.remember(Kept(rows.obs, learner.label(rows.obs, rows.action), task))
    return learner


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_replay_does_not_touch_what_learns_the_task():
    """alpha changes pi and nothing else: mu and the critics are bit-identical."""
    runs = [learned(OERConfig(td3=SMALL, alpha=alpha)) for alpha in (0.0, 10.0)]
    for name in ("actor", "critic", "target_actor"):
        assert torch.equal(*(weights(getattr(r.inner, name)) for r in runs)), name
    assert not torch.equal(*(weights(r.policy) for r in runs))
    single = [learned(OERConfig(td3=SMALL, alpha=a, dbc=False)) for a in (0.0, 10.0)]
    assert not torch.equal(*(weights(r.policy) for r in single))


@pytest.mark.parametrize(("start", "same"), [("previous", True), ("fresh", True), ("pi", False)])
def test_mu_of_a_third_task_knows_of_the_memory_only_through_pi(start, same):
    def third(alpha):
        learner = OER(3, 2, 3, OERConfig(td3=SMALL, alpha=alpha, mu_init=start), seed=0)
        for task in range(3):
            data = two_tasks()[task % 2]
            learner.begin(task, *data.moments())
            for _ in range(12):
                learner.update(data.sample(32))
            rows = data.gather(torch.arange(50))
            learner.remember(Kept(rows.obs, learner.label(rows.obs, rows.action), task))
        return learner

    one, other = third(0.0), third(10.0)
    assert torch.equal(weights(one.inner.actor), weights(other.inner.actor)) == same
    assert not torch.equal(weights(one.policy), weights(other.policy))


def test_one_policy_can_start_a_head_as_the_one_before_ended():
    learner = OER(3, 2, 2, OERConfig(td3=SMALL, dbc=False, mu_init="previous"), seed=0)
    data = two_tasks()[0]
    learner.begin(0, *data.moments())
    for _ in range(4):
        learner.update(data.sample(32))
    learner.begin(1, *data.moments())
    obs = data.all.obs[:50]
    assert torch.equal(learner.policy(obs, 0), learner.policy(obs, 1))


def test_after_the_first_task_pi_is_mu():
    learner = OER(3, 2, 2, OERConfig(td3=SMALL), seed=0)
    data = two_tasks()[0]
    learner.begin(0, *data.moments())
    for _ in range(60):
        learner.update(data.sample(64))
    learner.settle()
    obs = data.all.obs[:50]
    assert torch.allclose(learner.policy(obs, 0), learner.mu(obs), atol=1e-6)


def test_labels_are_learned_and_kept():
    learner = learned(OERConfig(td3=SMALL, lr=1e-3), steps=(300, 900))
    for j in range(2):
        got = learner.policy(learner.memories[j].obs, j)
        assert (got - learner.memories[j].label).square().mean() <= 1e-2, j
    data = learned(OERConfig(td3=SMALL, label="dataset"), steps=(5, 5))
    assert torch.equal(data.memories[0].label, two_tasks()[0].all.action[:200])
    assert sum(map(size_of, learner.memories)) == 4 * 2 * 200 * 5


def test_one_head_sees_the_moments_of_all_tasks_met():
    """Means 0 and 4, deviations 1: together 2, and sqrt((1 + 17) / 2 - 4) = sqrt 5."""
    learner = OER(1, 1, 3, OERConfig(td3=SMALL, heads="one"), seed=0)
    p, one = learner.policy, torch.ones(1)
    learner.begin(0, 0 * one, one)
    assert p.mean.tolist() == [[0]] * 3 and torch.allclose(p.std, torch.ones(3, 1))
    learner.begin(1, 4 * one, one)
    assert p.mean.tolist() == [[2]] * 3 and torch.allclose(p.std, torch.full((3, 1), 5**0.5))
    obs = torch.tensor([[2.0], [7.0]])
    z = torch.tensor([[0.0], [5**0.5]])
    assert torch.equal(p(obs, 0), p(obs, 2)) and torch.allclose(p(obs, 1), p(z, 0, raw=False))
    assert torch.allclose(p.many(torch.stack([obs, obs])), p(obs, 0).expand(2, -1, -1))
    assert learner.bytes == 4 * (33 + 2)  # a head of 32 + 1, one normaliser, whatever the tasks
    assert torch.equal(learner.inner.actor(z), p(z, 0, raw=False))  # mu starts from pi
    learner.inner.actor.net[-1].bias.data.add_(0.5)
    p.take(1, learner.inner.actor)
    assert torch.equal(learner.inner.actor(z), p(z, 2, raw=False))


@pytest.mark.slow
def test_without_replay_the_first_task_is_forgotten():
    def error(config, remember):
        learner = learned(config, steps=(1200, 1200), remember=remember)
        obs = two_tasks()[0].all.obs[:500]
        return float((learner.policy(obs, 0) - wanted(0, obs)).square().mean().detach())

    td3 = TD3Config(hidden=(32, 32), bc_alpha=20.0, lr=1e-3)
    kept = error(OERConfig(td3=td3, lr=1e-3), 200)
    lost = error(OERConfig(td3=td3, lr=1e-3, dbc=False), 0)
    assert kept < 0.25 and lost > 2 * kept, (kept, lost)


@pytest.mark.parametrize(
    "config",
    [
        OERConfig(td3=SMALL),
        OERConfig(td3=SMALL, dbc=False),
        OERConfig(td3=SMALL, dbc=False, penalty="ewc"),
        OERConfig(td3=SMALL, dbc=False, penalty="si"),
        OERConfig(td3=SMALL, dbc=False, penalty="agem"),
        OERConfig(td3=SMALL, mu_init="previous"),
        OERConfig(td3=SMALL, mu_init="fresh"),
        OERConfig(td3=SMALL, heads="one"),
        OERConfig(td3=SMALL, heads="one", dbc=False, mu_init="previous"),
    ],
    ids=lambda c: f"{c.dbc}-{c.penalty}-{c.mu_init}-{c.heads}",
)
def test_a_saved_learner_continues_bit_for_bit(config):
    def run(stop):
        learner = OER(3, 2, 2, config, seed=3)
        datasets = two_tasks()
        for task, data in enumerate(datasets):
            learner.begin(task, *data.moments())
            for k in range(12):
                learner.update(data.sample(32))
                if stop == (task, k):
                    state = copy.deepcopy(learner.state_dict())
                    learner = OER(3, 2, 2, config, seed=3)
                    learner.load_state_dict(state)
            learner.settle()
            learner.anchor(data.all.obs[:50])
            rows = data.gather(torch.arange(40))
            learner.remember(Kept(rows.obs, learner.label(rows.obs, rows.action), task))
        return learner

    whole, cut = run(None), run((1, 5))
    assert torch.equal(weights(whole.policy), weights(cut.policy))
    assert torch.equal(weights(whole.inner.critic), weights(cut.inner.critic))


# -- 6: regularisation


def network():
    policy = ContinualPolicy(3, 2, (8, 8), 2)
    policy.initialise(torch.Generator().manual_seed(0))
    return policy, [p for n, p in policy.named_parameters() if n.startswith("trunk")]


def test_ewc_and_si_pull_at_every_parameter():
    obs = torch.randn(30, 3)
    for kind in (EWC, SI):
        policy, shared = network()
        penalty = kind(shared, 1.0)
        assert float(penalty.loss()) == 0
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
        for _ in range(3):
            before = [p.detach().clone() for p in shared]
            loss = (policy(obs, 0) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if kind is SI:
                penalty.follow(before, [p.grad for p in shared])
        if kind is EWC:
            penalty.end_task(lambda o, f=policy: f(o, 0), obs)
        else:
            penalty.end_task()
        with torch.no_grad():
            for p in shared:
                p += 0.1 * torch.randn_like(p)
        grads = torch.autograd.grad(penalty.loss(), shared)
        assert all(float(g.abs().sum()) > 0 for g in grads), kind


def test_ewcs_fisher_is_the_mean_squared_jacobian():
    """Of a linear policy without tanh's curvature: J is the input, so F is its mean square."""
    w = torch.zeros(1, 2, requires_grad=True)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    ewc = EWC([w], 1.0)
    ewc.end_task(lambda o: o @ w.T, x)
    assert torch.allclose(ewc.fisher[0], torch.tensor([[5.0, 10.0]]))
    with torch.no_grad():
        w += 2.0
    assert float(ewc.loss().detach()) == pytest.approx(0.5 * (5 * 4 + 10 * 4))


def test_agem_never_points_against_the_memory():
    g = torch.Generator().manual_seed(0)
    for _ in range(50):
        own, reference = torch.randn(6, generator=g), torch.randn(6, generator=g)
        out = project(own, reference)
        assert float(out @ reference) >= -1e-5
        if own @ reference >= 0:
            assert torch.equal(out, own)
    assert torch.equal(project(own, torch.zeros(6)), own)  # where the memory asks for nothing


# -- 7: selectors on a planted set


def planted(n=600, episodes=30):
    """Half of the episodes are the policy's own (a = 0.5 s), half random; only those earn 0.

    Dynamics are s' = 0.9 s + 0.1 a, except in random episodes, whose successors are noisy.
    """
    g = torch.Generator().manual_seed(1)
    obs = torch.randn(n, 2, generator=g)
    own = (torch.arange(n) // (n // episodes)) % 2 == 0
    action = torch.where(own[:, None], 0.5 * obs, torch.rand(n, 2, generator=g) * 2 - 1)
    noise = torch.where(own[:, None], 0.01, 1.0) * torch.randn(n, 2, generator=g)
    next_obs = 0.9 * obs + 0.1 * action + noise
    ends = (torch.arange(n) % (n // episodes) == n // episodes - 1).float()
    data = Dataset.of(
        Transitions(obs, action.clamp(-1, 1), own.float(), next_obs, torch.zeros(n), ends),
        Card(env="planted"),
    )
    return data, own


@pytest.fixture(scope="module")
def scene():
    data, own = planted()
    model = DynamicsEnsemble(2, 2, DynamicsConfig(members=3, hidden=(32, 32), steps=600), seed=0)
    model.fit(data, data.all)

    def fresh(**kwargs):
        return pick(
            data, budget=100, act=lambda o: (0.5 * o).clamp(-1, 1), model=model,
            td_error=lambda rows: (~own[rows]).float(), visited=data.all.obs[own][:60], **kwargs,
        )  # fmt: skip

    return data, own, fresh


@pytest.mark.parametrize("name", SELECTORS)
def test_selectors_return_distinct_rows_and_the_same_for_a_seed(scene, name):
    data, _, fresh = scene
    torch.manual_seed(0)
    rows = SELECTORS[name](fresh())
    assert rows.dtype == torch.int64 and len(rows) == len(set(rows.tolist())) == 100
    assert int(rows.min()) >= 0 and int(rows.max()) < len(data)
    small = fresh()
    small.data, small.visited = data.head(50), data.all.obs[:9]
    small.td_error = lambda r: torch.ones(len(r))
    assert sorted(SELECTORS[name](small).tolist()) == list(range(50))


def test_each_selector_picks_what_it_is_named_for(scene):
    data, own, fresh = scene

    def purity(name):
        return float(own[SELECTORS[name](fresh())].float().mean())

    assert purity("reward") == 1.0
    assert purity("match") > 0.95
    assert purity("surprise") < 0.05 and purity("supervised") < 0.05
    assert purity("model") > 0.9
    assert 0.3 < purity("random") < 0.7 and 0.2 < purity("random-episode") < 0.8
    rows = SELECTORS["online"](fresh())
    assert float(own[rows[:60]].float().mean()) == 1.0  # the visited states themselves
    far = data.all.obs[SELECTORS["coverage"](fresh())].norm(dim=1).mean()
    assert far > 1.5 * data.all.obs.norm(dim=1).mean()


def test_a_selector_says_what_it_needs():
    data, _ = planted()
    for name, text in (("match", "the policy"), ("mbes", "the policy"), ("model", "dynamics"),
                       ("surprise", "a critic"), ("online", "real rollouts")):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            SELECTORS[name](pick(data))


# -- the models


def test_the_ensemble_learns_the_dynamics_and_knows_where_it_does_not():
    data, own = planted()
    model = DynamicsEnsemble(2, 2, DynamicsConfig(members=3, hidden=(32, 32), steps=800), seed=0)
    model.fit(data, data.all)
    g = torch.Generator().manual_seed(3)
    obs = torch.randn(200, 2, generator=g)
    action = (0.5 * obs).clamp(-1, 1)
    predicted, _ = model.predict(obs, action, member=False)
    assert (predicted - (0.9 * obs + 0.1 * action)).abs().mean() < 0.15
    known = model.disagreement(obs, action).mean()
    assert model.disagreement(obs + 8.0, -action).mean() > known
    good, bad = (
        model.log_prob(data.gather(own.nonzero()[:, 0])),
        model.log_prob(data.gather((~own).nonzero()[:, 0])),
    )
    assert good.mean() > bad.mean()
    saved = model.state_dict()
    ahead = model.predict(obs, action)[0]
    other = DynamicsEnsemble(2, 2, model.config, seed=9)
    other.load_state_dict(saved)
    assert torch.equal(other.predict(obs, action)[0], ahead)


def test_heads_are_the_actor():
    policy, _ = network()
    actor = DeterministicActor(3, 2, (8, 8))
    policy.give(1, actor)
    obs = torch.randn(5, 3)
    assert torch.allclose(actor(obs), Head(policy, 1)(obs))
    policy.take(0, actor)
    assert torch.allclose(policy(obs, 0), policy(obs, 1))
    many = policy.many(torch.stack([obs, obs]))
    assert torch.allclose(many[0], policy(obs, 0)) and torch.allclose(many[1], policy(obs, 1))
