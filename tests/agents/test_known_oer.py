"""OER's parts and what connects them, against numbers worked out by hand or by plain formulas."""

import copy
from types import SimpleNamespace

import pytest
import torch
from known import Known

from reverie.agents import Agent, TD3Config
from reverie.agents.actors import ActorPolicy
from reverie.agents.dynamics import DynamicsConfig, DynamicsEnsemble
from reverie.agents.oer import keeping
from reverie.agents.oer.distilled import Distilled
from reverie.agents.oer.keeping import Keeping, anchor, choose
from reverie.agents.oer.learner import OER, OERConfig
from reverie.agents.oer.memory import Kept, size_of
from reverie.agents.oer.penalties import EWC, SI, project
from reverie.agents.oer.policy import TaskPolicy
from reverie.agents.oer.selectors import SELECTORS, Pick, mbes
from reverie.agents.playing import EVAL_SEED, Stopped
from reverie.agents.seeding import generator, stream_seed
from reverie.buffers import Card, Dataset, Transitions

# Moments of two tasks: the observation (3, 10) is (1, 2) in the first and (-1, 5) in the second.
MOMENTS = [
    (torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])),
    (torch.tensor([4.0, 5.0]), torch.tensor([1.0, 1.0])),
]
OBS, NEXT = torch.tensor([[3.0, 10.0], [5.0, -2.0]]), torch.tensor([[5.0, -2.0], [1.0, 6.0]])
Z = [torch.tensor([[1.0, 2.0], [2.0, -1.0]]), torch.tensor([[-1.0, 5.0], [1.0, -7.0]])]
NEXT_Z = [torch.tensor([[2.0, -1.0], [0.0, 1.0]]), torch.tensor([[1.0, -7.0], [-3.0, 1.0]])]
EACH_STEP = TD3Config(hidden=(8, 8), bc_alpha=2.5, policy_delay=1)
BATCH = Transitions(
    OBS, torch.tensor([[0.5], [-0.5]]), torch.tensor([1.0, 2.0]), NEXT,
    torch.tensor([0.0, 1.0]), torch.zeros(2),
)  # fmt: skip


def data_of(obs, action=None, reward=None, ends=(), **card):
    """Rows whose successors are the next rows; episodes end at `ends` and at the last."""
    n = len(obs)
    flags = torch.zeros(n)
    flags[[*ends, n - 1]] = 1
    action = torch.zeros(n, 1) if action is None else action
    reward = torch.zeros(n) if reward is None else reward
    following = torch.cat([obs[1:], obs[-1:]])
    return Dataset.of(
        Transitions(obs, action, reward, following, torch.zeros(n), flags), Card(env="p", **card)
    )


def learner_in(task, remembered=(), **settings):
    """A learner in `task`, after one update in each before, with rows of label x kept of them."""
    learner = OER(2, 1, 3, OERConfig(**{"td3": EACH_STEP, **settings}), seed=0)
    for t in range(task + 1):
        learner.begin(t, *MOMENTS[t % 2])
        if t < task:
            learner.update(BATCH)
            learner.settle()
            if remembered:
                learner.remember(Kept(OBS[:1], torch.tensor([[remembered[t]]]), t))
    return learner


def actor_loss(learner, policy):
    """TD3+BC's loss of a policy on BATCH, with the critics as they are, by hand."""
    z, task = Z[learner.task % 2], learner.task
    action = policy(z, task, raw=False)
    q = learner.inner.critic(z, action)[0]
    return -2.5 * q.mean() / q.detach().abs().mean() + (action - BATCH.action).square().mean()


def trunk(policy):
    return [p for name, p in policy.named_parameters() if name.startswith("trunk")]


# -- the learner


@pytest.mark.parametrize("dbc", [True, False])
def test_each_task_is_learned_from_its_own_z_scores(dbc):
    learner, seen = OER(2, 1, 2, OERConfig(td3=EACH_STEP, dbc=dbc), seed=0), []
    for task in range(2):
        learner.begin(task, *MOMENTS[task])
        real = learner.inner.update
        learner.inner.update = lambda batch, f=real: (seen.append(batch), f(batch))[1]
        learner.update(BATCH)
        assert torch.equal(seen[-1].obs, Z[task]) and torch.equal(seen[-1].next_obs, NEXT_Z[task])
        assert torch.equal(seen[-1].reward, BATCH.reward)
        assert torch.equal(learner.mu(OBS), learner.inner.actor(Z[task]))
        assert torch.equal(learner.policy(OBS, task), learner.policy(Z[task], task, raw=False))
        played, _ = TaskPolicy(learner.policy, task).act(OBS, (), explore=False)
        assert torch.equal(played, learner.policy(OBS, task))


def test_pi_clones_mu_and_the_memories_alpha_over_n():
    learner = learner_in(2, remembered=(0.9, -0.7), alpha=3.0)
    before = copy.deepcopy(learner.policy)
    metrics = learner.update(BATCH)
    mu = learner.inner.actor(Z[0]).detach()
    clone = (before(Z[0], 2, raw=False) - mu).square().mean()
    kept = [(before(OBS[:1], t) - label).square().mean() for t, label in ((0, 0.9), (1, -0.7))]
    loss = clone + 3.0 * (kept[0] + kept[1]) / 2
    assert torch.isclose(metrics["clone_loss"], clone.detach())
    for p, want in zip(
        learner.policy.parameters(), torch.autograd.grad(loss, list(before.parameters())),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(p.grad, want)


def test_pi_moves_with_mus_actor_and_not_in_the_first_task():
    slow = TD3Config(hidden=(8, 8), bc_alpha=2.5, policy_delay=2)
    for task, told in ((0, [False] * 4), (1, [False, True, False, True])):
        learner = learner_in(task, td3=slow)
        assert ["clone_loss" in learner.update(BATCH) for _ in range(4)] == told


def test_mu_begins_where_it_is_told():
    pi = learner_in(1)
    assert torch.equal(pi.inner.actor(Z[1]), pi.policy(Z[1], 1, raw=False))
    previous = learner_in(0, mu_init="previous")
    previous.update(BATCH)
    actor = copy.deepcopy(previous.inner.actor)
    previous.begin(1, *MOMENTS[1])
    assert torch.equal(previous.inner.actor(Z[1]), actor(Z[1]))
    fresh = learner_in(1, mu_init="fresh")
    assert not torch.equal(fresh.inner.actor(Z[1]), fresh.policy(Z[1], 1, raw=False))


@pytest.mark.parametrize("task", [0, 1])
def test_the_td_error_of_raw_rows(task):
    """|r + gamma (1 - terminated) min Q'(s', mu'(s')) - Q_1(s, a)|."""
    learner = learner_in(task)
    for _ in range(3):
        learner.update(BATCH)
    td3 = learner.inner
    with torch.no_grad():
        best = td3.target_critic(NEXT_Z[task], td3.target_actor(NEXT_Z[task])).min(0).values
        target = torch.tensor([1.0 + 0.99 * best[0], 2.0])  # the second row terminated
        q = td3.critic(Z[task], BATCH.action)[0]
    torch.testing.assert_close(learner.td_error(BATCH), (target - q).abs())


def test_labels_and_bytes():
    learner = learner_in(1, label="policy")
    own = torch.full((2, 1), 0.25)
    assert torch.equal(learner.label(OBS, own), learner.inner.actor(Z[1]).detach())
    data = learner_in(1, label="dataset")
    assert data.label(OBS, own) is own
    data.remember(Kept(OBS, own, 0))
    # two rows of 2 + 1; of each task a head of 8 + 1 and two moments of 2
    assert data.bytes == 4 * (2 * 3 + 2 * (9 + 4))
    # EWC keeps a Fisher and an anchor of the trunk, SI also the path: 2 x 8 + 8 + 8 x 8 + 8 numbers
    for penalty, copies in (("ewc", 2), ("si", 3)):
        learner = learner_in(0, dbc=False, penalty=penalty)
        assert learner.bytes == 4 * (9 + 4 + copies * 96), penalty


# -- what keeps one policy from forgetting


def squared_slopes(policy, task):
    """(d pi(3, 10) / d theta)^2 of the trunk: the Fisher of one action where all rows are one."""
    slope = torch.autograd.grad(policy(Z[task][:1], task, raw=False).sum(), trunk(policy))
    return [g.square() for g in slope]


KEEPING = Keeping(
    memory="none", selector="random", budget=2, gate=2.0, match="state", revisit="next", walk=0,
    distilled_steps=1, fidelity=(), dynamics=DynamicsConfig(),
)  # fmt: skip


def test_the_end_of_a_task_fixes_ewcs_fisher_of_its_head_and_its_anchor():
    learner = learner_in(1, dbc=False, penalty="ewc")
    rows = data_of(OBS[:1].repeat(3, 1))
    want, at = squared_slopes(learner.policy, 1), copy.deepcopy(trunk(learner.policy))
    anchor(learner, rows, 0)
    assert learner.penalty.tasks == 1
    for got, fisher in zip(learner.penalty.fisher, want, strict=True):
        torch.testing.assert_close(got, fisher, rtol=1e-3, atol=1e-7)
    assert all(torch.equal(a, b) for a, b in zip(learner.penalty.anchor, at, strict=True))


def test_the_penalty_is_a_part_of_the_one_policys_loss():
    """5 / 2 times the sum of F (theta - theta*)^2, at weights moved by 0.1; F is 2 everywhere."""
    learner = learner_in(1, dbc=False, penalty="ewc", penalty_weight=5.0)
    anchor(learner, data_of(OBS), 0)
    learner.penalty.fisher = [torch.full_like(f, 2.0) for f in learner.penalty.fisher]
    with torch.no_grad():
        for p in trunk(learner.policy):
            p += 0.1
    before = copy.deepcopy(learner.policy)
    metrics = learner.update(BATCH)
    want = actor_loss(learner, before).detach() + 5.0 / 2 * 96 * 2 * 0.01
    torch.testing.assert_close(metrics["actor_loss"], want, rtol=1e-4, atol=1e-5)


def test_replay_is_a_part_of_the_one_policys_loss():
    learner = learner_in(1, remembered=(0.9,), dbc=False, alpha=3.0)
    before = copy.deepcopy(learner.policy)
    metrics = learner.update(BATCH)
    kept = (before(OBS[:1], 0) - 0.9).square().mean()
    want = (actor_loss(learner, before) + 3.0 * kept).detach()
    torch.testing.assert_close(metrics["actor_loss"], want)


def test_si_follows_the_path_of_the_tasks_own_loss():
    """Path: minus gradient times step. Importance: path / (way^2 + 0.1). Two tasks of one step."""
    learner = OER(2, 1, 2, OERConfig(td3=EACH_STEP, dbc=False, penalty="si"), seed=0)
    learner.penalty.weight = 7.0
    omega = [torch.zeros_like(p) for p in trunk(learner.policy)]
    for task in range(2):
        learner.begin(task, *MOMENTS[task])
        if task:  # away from the anchor, so that the penalty has a slope
            with torch.no_grad():
                for p in trunk(learner.policy):
                    p += 0.01
        before, start = copy.deepcopy(learner.policy), learner.penalty.anchor
        learner.update(BATCH)
        own = torch.autograd.grad(actor_loss(learner, before), trunk(before))
        steps = [b - a for a, b in zip(trunk(before), trunk(learner.policy), strict=True)]
        path = [-(g * d).detach() for g, d in zip(own, steps, strict=True)]
        assert max(float(x.abs().max()) for x in path) > 1e-6
        for got, want in zip(learner.penalty.path, path, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-7)
        ways = [p.detach() - a for p, a in zip(trunk(learner.policy), start, strict=True)]
        omega = [
            o + (x / (way.square() + 0.1)).clamp(min=0)
            for o, x, way in zip(omega, path, ways, strict=True)
        ]
        anchor(learner, data_of(OBS), 0)
        assert learner.penalty.tasks == task + 1
        for got, want in zip(learner.penalty.omega, omega, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-7)
        assert not any(bool(x.any()) for x in learner.penalty.path)
    with torch.no_grad():
        for p in trunk(learner.policy):
            p += 0.1
    want = 7.0 * sum(float(o.sum()) for o in omega) * 0.01
    assert float(learner.penalty.loss().detach()) == pytest.approx(want, rel=1e-3)


def test_fishers_of_later_tasks_are_added_to_half_of_the_old():
    """Of a linear policy the Fisher is the square of the input: 1 and 4, then 9 and 16."""
    w = torch.zeros(1, 2, requires_grad=True)
    ewc = EWC([w], 1.0)
    for x in ([[1.0, 2.0]], [[3.0, 4.0]]):
        ewc.end_task(lambda o: o @ w.T, torch.tensor(x))
    assert ewc.fisher[0].tolist() == [[0.5 + 9, 2 + 16]]


def test_sis_importance_by_hand():
    """A weight that went from 0 to 2 against a gradient of -3: path 6, over 2^2 + 0.1."""
    w = torch.zeros(1, requires_grad=True)
    si = SI([w], weight=2.0)
    for before, after in ((0.0, 1.0), (1.0, 2.0)):
        with torch.no_grad():
            w.fill_(after)
        si.follow([torch.tensor([before])], [torch.tensor([-3.0])])
    si.end_task()
    assert si.omega[0].item() == pytest.approx(6 / 4.1)
    with torch.no_grad():
        w.fill_(5.0)
    assert si.loss().item() == pytest.approx(2 * 6 / 4.1 * 9)
    # from 5 to 6: of the gradient 40, the penalty's part is 2 x 2 x 6 / 4.1 x (5 - 2)
    with torch.no_grad():
        w.fill_(6.0)
    si.follow([torch.tensor([5.0])], [torch.tensor([40.0])])
    assert si.path[0].item() == pytest.approx(-(40 - 4 * 6 / 4.1 * 3), rel=1e-5)


def test_agem_steps_along_the_projected_gradient():
    """The label is chosen so that the task's gradient points against the memory's."""
    found = 0
    for label in (1.0, -1.0):
        learner = learner_in(1, remembered=(label,), dbc=False, penalty="agem", alpha=2.0)
        before = copy.deepcopy(learner.policy)
        metrics = learner.update(BATCH)
        every = list(before.parameters())
        loss = actor_loss(learner, before)
        torch.testing.assert_close(metrics["actor_loss"], loss.detach())  # no replay in it
        memory = 2.0 * (before(OBS[:1], 0) - label).square().mean()
        own, kept = (
            torch.cat([g.flatten() for g in torch.autograd.grad(x, every)]) for x in (loss, memory)
        )
        got = torch.cat([p.grad.flatten() for p in learner.policy.parameters()])
        dot = own @ kept
        want = own if dot >= 0 else own - dot / (kept @ kept) * kept
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-6)
        found += int(dot < 0)
    assert found == 1
    assert project(torch.tensor([1.0, 1.0]), torch.tensor([-2.0, 0.0])).tolist() == [0, 1]


# -- the end of a task


def test_what_a_selector_is_given_and_what_is_kept(monkeypatch):
    seen = {}

    def chosen(name, rows):
        def select(pick):
            pick.report["x"] = 3.0
            seen[name] = pick
            return torch.tensor(rows)

        return select

    chooses = {"a": chosen("a", [2, 0]), "b": chosen("b", [1])}
    monkeypatch.setattr(keeping, "SELECTORS", chooses)
    learner = learner_in(1, label="dataset")
    obs = torch.tensor([[0.0, 0.0], [2.0, 10.0], [4.0, 20.0]])
    data = data_of(obs, torch.tensor([[0.1], [0.2], [0.3]]), torch.arange(3.0))
    states = obs[1:2] + torch.tensor([[0.0, 1.0]])
    settings = dict(memory="replay", selector="a", budget=7, gate=3.0, match="model", walk=9)
    c = Keeping(**{**vars(KEEPING), **settings, "fidelity": ("b", "a")})
    distances, report = choose(c, learner, data, "model", states, 5)
    assert torch.equal(learner.memories[0].obs, obs[[2, 0]]) and len(learner.memories) == 1
    assert torch.equal(learner.memories[0].label, torch.tensor([[0.3], [0.1]]))
    assert report == {"select_x": 3}
    # moments of 0, 2, 4: deviation 2; of 0, 10, 20: 10. (2, 11) lies 0.1 from row 1 and, from rows
    # 0 and 2, 1 to the side and 1.1 or 0.9 up
    assert distances["b"] == pytest.approx(0.1, rel=1e-3)
    assert distances["a"] == pytest.approx((1 + 0.9**2) ** 0.5, rel=1e-3)
    pick = seen["a"]
    assert (pick.budget, pick.gate, pick.match, pick.walk) == (7, 3.0, "model", 9)
    assert torch.equal(pick.act(obs), learner.mu(obs)) and pick.data is data
    assert pick.model == "model" and pick.visited is states
    rows = torch.tensor([2, 1])
    assert torch.equal(pick.td_error(rows), learner.td_error(data.gather(rows)))
    own = generator(5, "select 1").initial_seed()
    assert {p.generator.initial_seed() for p in seen.values()} == {own}


@pytest.mark.parametrize(
    ("memory", "selector", "fidelity", "asked", "fitted"),
    [
        ("replay", "mbes", (), ["mbes"], True),
        ("replay", "random", ("model", "random"), ["random", "model"], True),
        ("replay", "random", (), ["random"], False),
        ("none", "mbes", (), [], False),
        ("distilled", "mbes", ("online",), ["online"], False),
    ],
)
def test_models_are_made_where_a_selector_asks_for_them(memory, selector, fidelity, asked, fitted):
    more = {"memory": memory, "selector": selector, "fidelity": fidelity}
    dynamics = DynamicsConfig(members=2, hidden=(4,))
    c = Keeping(**{**vars(KEEPING), **more, "dynamics": dynamics})
    assert keeping.selectors_of(c) == asked
    model = keeping.model_of(c, data_of(OBS), 1, 5)
    assert (model is not None) == fitted
    if model is not None:
        own = stream_seed(stream_seed(5, "models 1"), "dynamics")
        assert model.generator.initial_seed() == own and model.config is dynamics
        assert len(model.mean_in) == 3 and len(model.mean_out) == 3  # 2 + 1 each


class Unflagged(Known):
    """Worlds whose invalid rows end nothing: a foreign environment's, at which it is reset."""

    def step(self, action):
        r = super().step(action)
        return r._replace(truncated=r.truncated & r.valid)


def test_a_real_episode_of_mu_in_every_world():
    """Worlds of 2 and 3 steps: each until its own end, not into the next episode."""
    judge = Known([[2], [3]])
    states = keeping.visited(SimpleNamespace(mu=lambda obs: obs[:, 2:] / 64), judge)
    assert sorted(states.tolist()) == [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1], [1, 0, 2]]
    assert judge.seeds == [EVAL_SEED + 1_000_000]
    assert [[x * 64 for x in a] for a in judge.actions] == [[0, 0], [1, 1], [0, 2]]
    bad = Known([[3], [3]], bad=[(0, 1)])
    assert len(keeping.visited(SimpleNamespace(mu=lambda obs: obs[:, :1]), bad)) == 4
    resets = Unflagged([[3], [3]], bad=[(0, 1)])
    assert len(keeping.visited(SimpleNamespace(mu=lambda obs: obs[:, :1]), resets)) == 4
    with pytest.raises(Stopped):
        keeping.visited(SimpleNamespace(mu=lambda obs: obs[:, :1]), judge, lambda: True)


def test_a_distilled_policy_is_the_tasks_learner_on_its_datas_states():
    """Labels by raw states around 100, which the small network sees as z-scores."""
    g = torch.Generator().manual_seed(0)
    obs = 100 + 3 * torch.randn(400, 2, generator=g)
    data = data_of(obs)
    learner = SimpleNamespace(mu=lambda o: (o[:, :1] - 100) / 10)
    distilled = Distilled(2, 1, (16,), 3)
    distilled.begin(1, data, 0)
    for _ in range(300):
        distilled.clone_step(1, data, learner.mu)
    distilled.finish(1)
    assert distilled.done == 2 and torch.equal(distilled.mean[1], data.moments()[0])
    assert torch.equal(distilled.std[1], data.moments()[1]) and not distilled.mean[0].any()
    actor = ActorPolicy(distilled.nets[1], mean=distilled.mean[1], std=distilled.std[1])
    got, _ = actor.act(obs, (), explore=False)
    assert (got - learner.mu(obs)).abs().mean() < 0.05
    # 2 x 16 + 16 + 16 + 1 weights and two moments of 2, of two tasks
    assert distilled.bytes == 4 * 2 * (65 + 4)
    settings = {**vars(KEEPING), "memory": "distilled", "fidelity": ("random",)}
    real = learner_in(1)
    choose(Keeping(**settings), real, data_of(OBS), None, None, 0)
    assert len(real.memories) == 0


# -- selection: states whose second number is hundreds of times the first

TALL = torch.tensor([
    [0.0, 0.0], [1.0, 1000.0], [2.0, 300.0], [3.0, 700.0],
    [4.0, 550.0], [5.0, 1000.0], [6.0, 300.0], [7.0, 0.0],
])  # fmt: skip
ACROSS, UP = 6**0.5, 399.9442  # deviations of its columns


class Exact:
    """A model that knows s' = s + a; it is not sure where `doubt` says so."""

    def __init__(self, doubt=lambda obs: torch.zeros(len(obs))):
        self.doubt = doubt

    def predict(self, obs, action, *, member=True):
        return obs + action, torch.zeros(len(obs))

    def disagreement(self, obs, action):
        return self.doubt(obs) * (action[:, 0] == 2)


def right(obs):
    """Two to the right."""
    return torch.tensor([[2.0, 0.0]]).expand(len(obs), 2)


def pick(data, budget, **more):
    return Pick(data=data, budget=budget, generator=torch.Generator().manual_seed(0), **more)


def test_mbes_measures_in_z_scores():
    """From (0, 0) to (2, 0): row 2 lies 300 / 400 deviations off, row 7 5 / 2.4, though 5 < 300.

    From row 2 to (4, 300): row 4 lies 250 off, row 6 2 / 2.4 deviations; from there to row 6.
    """
    data = data_of(TALL, torch.zeros(8, 2))
    p = pick(data, 4, act=right, model=Exact())
    assert mbes(p).tolist() == [0, 2, 4, 6]
    assert p.report["snap"] == pytest.approx((300 + 250 + 250) / UP / 3, rel=1e-3)
    assert p.report["starts"] == 1 / 4 and p.report["gate_fired"] == 0


def test_mbes_measures_predicted_successors_in_z_scores():
    """The data stands still, so that row i is followed by itself; kept is the row after.

    After 0 comes row 2 and 3 is kept; to (5, 700) row 4 is the nearest, 5 is kept; then row 5.
    """
    data = data_of(TALL, torch.zeros(8, 2))
    p = pick(data, 4, act=right, model=Exact(), match="model")
    assert mbes(p).tolist() == [0, 3, 5, 6]
    snaps = (300 / UP, ((1 / ACROSS) ** 2 + (150 / UP) ** 2) ** 0.5, 2 / ACROSS)
    assert p.report["snap"] == pytest.approx(sum(snaps) / 3, rel=1e-3)


def test_the_gate_is_asked_at_every_link_of_a_chain():
    """Sure at rows 0 and 3, not at row 2, where the data's own next row is taken: 1 of 3."""
    doubt = Exact(lambda obs: (obs[:, 0] == 2).float())
    p = pick(data_of(TALL, torch.zeros(8, 2)), 4, act=right, model=doubt)
    # from 3 to (5, 700): row 4, one to the left and 150 down, before row 5, 300 up
    assert mbes(p).tolist() == [0, 2, 3, 4]
    assert p.report["gate_fired"] == pytest.approx(1 / 3)
    assert mbes(pick(data_of(TALL), 4, act=right, model=doubt, gate=None)).tolist() == [0, 2, 4, 6]


def test_the_oracle_measures_in_z_scores():
    p = pick(data_of(TALL), 1, visited=torch.tensor([[2.5, 0.0]]))
    assert SELECTORS["online"](p).tolist() == [2]  # row 0 is the nearest in numbers


def test_coverage_measures_in_z_scores():
    """One row stands apart by 1 in the first number, of a deviation of 0.07; the second is wide."""
    g = torch.Generator().manual_seed(0)
    obs = torch.stack([torch.zeros(200), 1000 * torch.randn(200, generator=g)], 1)
    obs[77] = torch.tensor([1.0, 0.0])
    assert 77 in SELECTORS["coverage"](pick(data_of(obs), 4)).tolist()


def test_scores_pick_whole_episodes_or_single_rows():
    """Three episodes of 2, 1 and 3 rows."""
    reward = torch.tensor([3.0, 3.0, 9.0, 0.0, 8.0, 8.0])
    action = torch.tensor([[0.0], [0.3], [-0.1], [0.9], [0.2], [-0.8]])
    data = data_of(torch.zeros(6, 2), action, reward, ends=(1, 2))
    error = torch.tensor([5.0, 1.0, 2.0, 4.0, 0.0, 3.0])
    p = pick(data, 4, act=lambda o: torch.zeros(len(o), 1), td_error=lambda rows: error[rows])
    assert SELECTORS["reward"](p).tolist() == [2, 3, 4, 5]  # means 3, 9, 16 / 3
    assert SELECTORS["supervised"](p).tolist() == [0, 1, 3, 4]  # means 3, 2, 7 / 3
    assert SELECTORS["surprise"](p).tolist() == [0, 3, 5, 2]
    assert SELECTORS["match"](p).tolist() == [0, 2, 4, 1]


# -- the dynamics models


def linear_models():
    """Two models of one state and one action that give constants: z-scored outputs and spreads.

    Data: states 1, 3, 5 move by 2, 4, 6 for rewards 0, 10, 20: means 4 and 10, deviations 2, 10.
    """
    model = DynamicsEnsemble(1, 1, DynamicsConfig(members=2, hidden=(), lr=0.0), seed=0)
    x = torch.tensor([[1.0], [3.0], [5.0]])
    batch = Transitions(
        x, torch.tensor([[0.0], [0.5], [1.0]]), torch.tensor([0.0, 10.0, 20.0]), 2 * x + 1,
        torch.zeros(3), torch.zeros(3),
    )  # fmt: skip
    model.fit(SimpleNamespace(sample=lambda n: batch), batch, steps=1)  # sets the scales only
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([[[0.5, -1.0, 0.0, -1.0]], [[1.5, 1.0, -2.0, 0.3]]]))
    return model, batch


def soft(raw):
    """log std within -5 and 0.5, softly (Chua et al. 2018, appendix A.1)."""
    raw = torch.tensor(raw)
    top = 0.5 - torch.nn.functional.softplus(0.5 - raw)
    return -5.0 + torch.nn.functional.softplus(top + 5.0)


def test_what_the_models_predict_is_in_the_datas_units():
    model, batch = linear_models()
    assert torch.allclose(model.mean_in, torch.tensor([3.0, 0.5]))
    assert torch.allclose(model.std_in, torch.tensor([2.0, 0.5]), atol=1e-5)
    assert torch.allclose(model.mean_out, torch.tensor([4.0, 10.0]))
    following, reward = model.predict(batch.obs, batch.action, member=False)
    # the members' mean outputs are 1 and 0: a move of 4 + 2, a reward of 10
    assert torch.allclose(following, batch.obs + 6, atol=1e-4)
    assert torch.allclose(reward, torch.full((3,), 10.0), atol=1e-4)


def test_likelihood_and_loss_of_the_models():
    model, batch = linear_models()
    target = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]])  # z-scored moves and rewards
    mean = torch.tensor([[0.5, -1.0], [1.5, 1.0]])[:, None]
    log_std = soft([[0.0, -1.0], [-2.0, 0.3]])[:, None]
    error = (target - mean) / log_std.exp()
    density = (-0.5 * error**2 - log_std - 0.5 * torch.log(torch.tensor(2 * torch.pi))).sum(-1)
    assert torch.allclose(model.log_prob(batch), density.mean(0), atol=1e-4)
    mask = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    each = (0.5 * error**2 + log_std).sum(-1)
    want = (each[0, 0] + each[0, 2]) / 3 + each[1, 1] / 3 + 0.01 * 2 * (0.5 + 5.0)
    assert torch.allclose(model.loss(batch, mask[..., None]), want, atol=1e-4)


def test_models_disagree_by_the_variance_of_their_z_scored_outputs():
    model, batch = linear_models()
    with torch.no_grad():
        model.head.bias[..., 2:] = -50.0  # spreads of exp(-5)
    # means 0.5 and 1.5, -1 and 1: variances 0.25 and 1
    assert torch.allclose(
        model.disagreement(batch.obs, batch.action), torch.full((3,), 1.25), atol=0.05
    )
    draws = [model.predict(batch.obs, batch.action)[0] - batch.obs for _ in range(20)]
    moves = torch.cat(draws)  # 4 + 2 x 0.5, or 4 + 2 x 1.5: each row of a member of its own
    assert torch.isclose(moves, torch.tensor(5.0), atol=0.1).sum() > 15
    assert torch.isclose(moves, torch.tensor(7.0), atol=0.1).sum() > 15


# -- as an agent, and what is kept


def test_it_is_an_agent_that_acts_as_mu_with_td3s_noise():
    learner = learner_in(1, label="policy", remembered=(0.5,))
    assert isinstance(learner, Agent) and learner.columns == ()
    assert OER(2, 1, 2, OERConfig(td3=TD3Config(critic_bc=0.1))).columns == ("next_action",)
    assert learner.initial_state(2) == ()
    for explore in (False, True):
        draws = learner.inner.acting.get_state()
        got, memory = learner.act(OBS, (), explore=explore)
        learner.inner.acting.set_state(draws)
        want, _ = learner.inner.act(Z[1], (), explore=explore)
        assert torch.equal(got, want) and memory == ()
    assert torch.equal(learner.mu(OBS), learner.act(OBS)[0])


def test_a_memory_is_a_source_of_labelled_rows_and_nothing_else():
    memory = Kept(OBS, torch.tensor([[0.25], [-0.5]]), 0)
    batch = memory.sample(50)
    first = batch.obs[:, 0] == 3  # OBS[0] is (3, 10)
    assert 10 < first.sum() < 40 and torch.equal(batch.obs, torch.where(first[:, None], *OBS))
    assert torch.equal(batch.action[:, 0], torch.where(first, 0.25, -0.5))
    for other in (batch.reward, batch.next_obs, batch.terminated, batch.truncated):
        assert other.isnan().all()
    again = Kept.empty()
    again.load_state_dict(memory.state_dict())
    assert torch.equal(again.sample(9).obs, memory.sample(9).obs)
    assert size_of(memory) == 4 * (4 + 2)  # the generator is no number


def test_any_source_is_a_memory():
    """Half of the rows are labelled 1, half 0.5: pi is pulled by (pi - x)^2, alpha over one."""

    class Mine:
        def sample(self, n):
            label = torch.tensor([1.0, 0.5]).repeat(n)[:n, None]
            zero = torch.zeros(n)
            return Transitions(OBS[:1].repeat(n, 1), label, zero, OBS[:1], zero, zero)

    learner = learner_in(1, alpha=3.0, replay_batch=8)
    learner.remember(Mine())
    before = learner.policy(OBS[:1], 0)
    loss = 3.0 * ((before - 1).square() + (before - 0.5).square()) / 2
    torch.testing.assert_close(learner._replay(), loss.squeeze())
    assert size_of(learner.memories[0]) == 0  # it keeps nothing
