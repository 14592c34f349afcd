"""Between two log rows nothing is read from a device: whole steps on one that refuses it."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from known import Counter, Known, a_run, options, rows
from refusing import Waited, no_reads

from reverie.agents import SAC, TD3, SACConfig, TD3Config
from reverie.agents.oer.inner import by_iql
from reverie.agents.oer.learner import OER, OERConfig
from reverie.agents.oer.memory import Kept
from reverie.agents.offline.iql import IQL, IQLConfig
from reverie.agents.offline.standardised import Standardised
from reverie.agents.unread import UnreadReturns
from reverie.buffers import Card, Dataset, Layout, ReplayBuffer, Transitions
from reverie.buffers.groups import Groups
from reverie.envs import StepResult
from reverie.experiments.loops import offpolicy, population
from reverie.experiments.loops.crew import Crew
from reverie.experiments.loops.session import Session

OBS, ACT, WORLDS = 3, 2, 4
SMALL = {"hidden": (16, 16)}

x = torch.tensor([1.0, 2.0, 0.0])
READS = {
    "item": lambda: x[0].item(),
    "bool": lambda: bool((x > 0).any()),
    "if": lambda: 1 if x[0] > 0 else 2,
    "int": lambda: int((x > 0).sum()),
    "float": lambda: float(x.sum()),
    "numpy": lambda: x.numpy(),
    "cpu": lambda: x.cpu(),
    "to": lambda: x.to("cpu"),
    "tolist": lambda: x.tolist(),
    "nonzero": lambda: x.nonzero(),
    "mask": lambda: x[x > 0],
    "mask written": lambda: x.clone().__setitem__(x > 5, 0.0),
    "where": lambda: torch.where(x > 0),
    "equal": lambda: torch.equal(x, x),
    "index": lambda: [1, 2, 3][x[2].long()],
    "a read in backward": lambda: Reading.apply(x.clone().requires_grad_()).sum().backward(),
}


class Reading(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a):
        return a * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.ops.aten._local_scalar_dense(grad[0])


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_the_device_that_is_never_waited_for_refuses(read):
    read()
    with no_reads(), pytest.raises(Waited):
        read()


class Floating:
    """Worlds whose steps are tensors alone: episodes of 1 to N steps, and world 3 is often bad."""

    device, obs_dim, act_dim, discrete, num_envs = torch.device("cpu"), OBS, ACT, False, WORLDS
    restores, notes = True, {}

    def __init__(self):
        self.t = torch.zeros(WORLDS)
        self.world = torch.arange(WORLDS)

    def reset(self, seed=None):
        return self.obs()

    def obs(self):
        return torch.stack([self.t, self.world.float(), self.t * self.world], 1)

    def step(self, action):
        self.t = self.t + 1
        final = self.obs()
        over = self.t > self.world
        valid = (self.world < 3) | (self.t != 2)
        terminated, truncated = over & valid & (self.world < 2), (over & (self.world > 1)) | ~valid
        self.t = torch.where(terminated | truncated, 0.0, self.t)
        return StepResult(self.obs(), action.sum(1), terminated, truncated, final, valid)


class Unsaved:
    """What the loops ask of a run, without its directory."""

    def __init__(self):
        self.options, self.step, self.previous = SimpleNamespace(device="cuda"), 0, 0
        said = lambda **more: None  # noqa: E731
        self.home = SimpleNamespace(note=said, same=said)
        self.owed = self.stopping = False
        self.restored = lambda stores: nullcontext()
        self.interruptible = lambda state, stores: nullcontext()

    def due(self, every):
        return False

    def tick(self, n):
        self.previous, self.step = self.step, self.step + n


def unread(session):
    """Return the session as one of worlds on a device."""
    session.on_host = session.buffer._on_host = False
    session.returns = session.no_returns()
    return session


def online(agent, source=None):
    env = Floating()
    buffer = ReplayBuffer(Layout(OBS, ACT), 6 * WORLDS, WORLDS)
    return unread(Session(agent, env, env, buffer, source or buffer, 0))


AGENTS = {
    "sac": lambda: SAC(OBS, ACT, SACConfig(**SMALL)),
    "redq": lambda: SAC(OBS, ACT, SACConfig(critics=3, policy_delay=2, **SMALL)),
    "droq": lambda: SAC(OBS, ACT, SACConfig(critic_norm="layer", dropout=0.1, **SMALL)),
    "crossq": lambda: SAC(OBS, ACT, SACConfig(critic_norm="batch", **SMALL)),
    "td3": lambda: TD3(OBS, ACT, TD3Config(**SMALL)),
}


@pytest.mark.parametrize("make", AGENTS.values(), ids=AGENTS)
def test_a_training_step_reads_nothing(make):
    """Acting, stepping, storing (bad rows among them), counting, drawing and learning."""
    s = online(make())
    config = options("", steps=1000, learning_starts=8, utd=0.5)
    loop = offpolicy.steps(Unsaved(), s, config)
    before = [p.detach().clone() for p in s.agent.actor.parameters()]
    with no_reads():
        for _ in range(12):
            next(loop)
    assert s.agent.updates == 20  # half of 48 - 8 transitions
    after = list(s.agent.actor.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert len(s.buffer) == 24 - 3 and torch.isfinite(s.buffer.sample(200).reward).all()
    row = s.played()  # steps 1 .. 12: 12 episodes of world 0, 6 of 1, 4 of 2, 6 of 3 (bad at 2)
    assert row["length"] == pytest.approx((12 * 1 + 6 * 2 + 4 * 3 + 6 * 1) / 28)


def data(seed=0):
    g = torch.Generator().manual_seed(seed)
    obs, next_obs = torch.randn(2, 64, OBS, generator=g)
    action, ends = torch.rand(64, ACT, generator=g) * 2 - 1, torch.zeros(64)
    ends[7::8] = 1.0
    reward = torch.randn(64, generator=g)
    return Dataset.of(Transitions(obs, action, reward, next_obs, 0 * ends, ends), Card(env="x"))


OFFLINE = {
    "iql": lambda moments: Standardised(IQL(OBS, ACT, IQLConfig(**SMALL)), *moments),
    "td3bc": lambda moments: Standardised(
        TD3(OBS, ACT, TD3Config(bc_alpha=2.5, **SMALL)), *moments
    ),
}


@pytest.mark.parametrize("make", OFFLINE.values(), ids=OFFLINE)
def test_an_offline_step_reads_nothing(make):
    d = data()
    agent = make(d.moments())
    with no_reads():
        for _ in range(4):
            agent.update(d.sample(16))


INNER = TD3Config(bc_alpha=2.5, **SMALL)
OERS = {
    "td3+bc": ({}, None),
    "iql": ({}, by_iql(OBS, ACT, IQLConfig(**SMALL))),
    "one policy": ({"dbc": False}, None),
    "ewc": ({"dbc": False, "penalty": "ewc"}, None),
    "si": ({"dbc": False, "penalty": "si"}, None),
    "a-gem": ({"dbc": False, "penalty": "agem"}, None),
    "lwf": ({"penalty": "lwf"}, None),
    "packnet": ({"penalty": "packnet"}, None),
}


@pytest.mark.parametrize(("settings", "learns"), OERS.values(), ids=OERS)
def test_a_step_of_the_second_task_of_oer_reads_nothing(settings, learns):
    """Mu, its critics, pi and the memories of the first task."""
    d = data()
    learner = OER(OBS, ACT, 2, OERConfig(td3=INNER, **settings), learns=learns)
    learner.begin(0, *d.moments())
    learner.update(d.sample(16))
    learner.settle()
    learner.anchor(d.all.obs)
    learner.remember(Kept(d.all.obs[:8], d.all.action[:8], 0))
    learner.begin(1, *d.moments())
    trunk = learner.policy.trunk[0].weight.detach().clone()
    with no_reads():
        for _ in range(4):
            learner.update(d.sample(16))
    assert not torch.equal(trunk, learner.policy.trunk[0].weight)


def test_a_population_on_a_device_reads_nothing_and_tells_at_a_log_row():
    """Two members of two worlds: worlds 0 and 1, 2 and 3; world 3 is bad at its every second."""
    agent = SAC(OBS, ACT, SACConfig(**SMALL), seed=(0, 1))
    s = online(agent)
    s.draw_from(Groups(s.buffer, (0, 1)))
    s.more["warmup"] = population.Warmup(ACT, (0, 1), s.env.device)
    crew = Crew("sac", (), None, agent)
    crew.members = [SimpleNamespace(bad=0, recent=[], alive=True) for _ in range(2)]
    crew.begin = lambda run: None
    config = SimpleNamespace(num_envs=2, steps=100, learning_starts=4, utd=0.5, batch_size=4)
    loop = population.steps(Unsaved(), s, crew, config)
    with no_reads():
        for _ in range(6):
            next(loop)
    rows = crew.played(s.returns.read())
    assert agent.updates == 4  # half of 12 - 4 transitions of each
    # six episodes of world 0 and three of 1; two of 2 and three cut ones of 3
    assert [row["bad_worlds"] for row in rows] == [0, 3]
    assert [row["length"] for row in rows] == pytest.approx([12 / 9, (2 * 3 + 3 * 1) / 5])


def test_a_member_that_is_lost_stands_still_on_a_device():
    """Three members of two worlds; the second one's second action is not finite."""
    given = torch.tensor([[1.0], [0.5], [0.25], [torch.nan], [-0.5], [-1.0]])
    agent = SimpleNamespace(act=lambda obs, explore: (given.clone(), ()))
    crew = Crew("sac", (), None, agent)
    crew.members, crew.on_host = [None] * 3, False
    with no_reads():
        action, _ = crew.act(torch.zeros(6, OBS), explore=True)
    assert action.tolist() == [[1.0], [0.5], [0.0], [0.0], [-0.5], [-1.0]]


# -- what is read at a log row is what a host counts at once


def test_returns_on_a_device_are_those_of_the_host(tmp_path):
    """The rows of `test_an_off_policy_run_logs_the_episodes_since_the_last_row`."""
    config = options(tmp_path, log=8, judge=24)
    env = Known([[2], [3]])
    buffer = ReplayBuffer(Layout(3, 1), 400, 2)
    s = unread(Session(Counter(), env, Known([[2], [2]]), buffer, buffer, 0))
    with a_run(config) as run:
        offpolicy.train(run, s, config)
    logged = rows(run.path, "train")
    assert [row["return"] for row in logged] == [5, 5, 6]
    assert [row["length"] for row in logged] == pytest.approx([7 / 3, 7 / 3, 2.5])


def test_a_device_counts_a_bad_row_as_a_step_and_tells_it(tmp_path):
    config = options(tmp_path, log=4, judge=8, steps=8)
    env = Known([[4], [4]], bad=[(1, 1)])
    buffer = ReplayBuffer(Layout(3, 1), 400, 2)
    s = unread(Session(Counter(), env, Known([[2], [2]]), buffer, buffer, 0))
    with a_run(config) as run:
        offpolicy.train(run, s, config)
    logged = rows(run.path, "train")
    assert [row["step"] for row in logged] == [4, 8] and len(buffer) == 7
    assert [row["bad_worlds"] for row in logged] == [1, 1]
    assert logged[0]["return"] == 2 and logged[0]["length"] == 1
    assert logged[1]["return"] == 10 and logged[1]["length"] == 4


def test_unread_returns_go_on_from_their_state():
    """World 0 pays 1, 2, 4, 8 and ends at 2 and 8; world 1 pays 10, 20, 0, 40, cut bad at 0."""
    a, b = (UnreadReturns(2, torch.device("cpu")) for _ in range(2))
    steps = [
        ([1.0, 10.0], [0, 0], [0, 0], [True, True]),
        ([2.0, 20.0], [1, 0], [0, 0], [True, True]),
        ([4.0, 0.0], [0, 0], [0, 1], [True, False]),
        ([8.0, 40.0], [1, 1], [0, 0], [True, True]),
    ]
    for i, (reward, terminated, truncated, valid) in enumerate(steps):
        if i == 3:
            b.load_state_dict(a.state_dict())
        for returns in (a, b) if i == 3 else (a,):
            o = torch.zeros(2, 1)
            flags = torch.tensor([terminated, truncated]).float()
            batch = Transitions(o, o, torch.tensor(reward), o, flags[0], flags[1])
            assert returns.add(batch, torch.tensor(valid)) == []
    want = [[2, 2], [3 + 12, 30 + 40], [2 + 2, 2 + 1]]
    assert a.read().tolist() == want and b.read().tolist() == want
    assert a.read().tolist() == [[0, 0]] * 3


# -- the buffer


def on_device(capacity, n=1, **more):
    buffer = ReplayBuffer(Layout(1, 1), capacity, n, **more)
    buffer._on_host = False
    return buffer


def test_draws_on_a_device_are_uniform_over_valid_slots_by_hand(monkeypatch):
    """Slots 0 to 5, of which 1 and 4 are not valid and 5 is empty: ranks 0, 1, 2 are 0, 2, 3."""
    buffer = on_device(6)
    for k in range(5):
        row = torch.tensor([[k, 0, k, k + 1, 0, 0]]).float()
        buffer.add(buffer.layout.unpack(row), torch.tensor([k not in (1, 4)]))
    drawn = torch.tensor([0, 1, 2, 3, 4, 5])
    monkeypatch.setattr(torch, "randint", lambda *a, **more: drawn)
    assert buffer.sample_indices(6).tolist() == [0, 2, 3, 0, 2, 3]
    assert buffer.sample(6).reward.tolist() == [0, 2, 3, 0, 2, 3] and len(buffer) == 3


def test_groups_on_a_device_draw_from_their_own_worlds_by_hand(monkeypatch):
    """Two steps of four worlds, slots 0 to 7; world 1 is bad at step 0 and world 2 at step 1."""
    buffer = on_device(12, 4)
    for k in range(2):
        o, zeros = torch.zeros(4, 1), torch.zeros(4)
        batch = Transitions(o, o, zeros, o, zeros, zeros)
        buffer.add(batch, torch.arange(4) != k + 1)
    monkeypatch.setattr(torch, "randint", lambda *a, **more: torch.tensor([0, 1, 2]))
    groups = Groups(buffer, (0, 1))
    assert groups.sample_indices(3).tolist() == [[0, 4, 5], [2, 3, 7]]
    assert buffer.sample_indices(3).tolist() == [0, 2, 3]  # the other table is kept apart


def test_where_no_row_is_valid_a_device_draws_nan_for_it_cannot_raise():
    buffer = on_device(8, 2)
    with pytest.raises(ValueError, match="no valid transition"):
        buffer.sample(2)
    o, zeros = torch.zeros(2, 1), torch.zeros(2)
    buffer.add(Transitions(o, o, zeros, o, zeros, zeros), torch.tensor([False, True]))
    assert Groups(buffer, (0, 1)).sample(2).reward.isnan().tolist() == [[True] * 2, [False] * 2]
    buffer.clear()
    buffer.add(Transitions(o, o, zeros, o, zeros, zeros), torch.tensor([False, False]))
    assert len(buffer) == 0 and buffer.sample(3).reward.isnan().all()
    assert not buffer.sample_windows(3, 2).mask.any()


def test_a_restart_forgets_no_episode_that_ended():
    buffer = ReplayBuffer(Layout(3, 1), 400, 2)
    s = unread(Session(Counter(), Known([[2], [3]]), Known([[2], [2]]), buffer, buffer, 0))
    s.returns.ended[:, 1] = torch.tensor([1.0, 5.0, 3.0])
    s.returns.running[1:] = 7.0
    s.restart()
    assert s.returns.running.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert s.returns.read().tolist() == [[0, 1], [0, 5], [0, 3]]
