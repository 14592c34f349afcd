"""The truth about episode ends: each known cause of a wrong one has a test by its name."""

import contextlib
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from reverie.agents.acting import advance
from reverie.agents.dreams.api import Prediction
from reverie.agents.dreams.env import DreamEnv
from reverie.agents.dreams.starts import Starts
from reverie.agents.losses import td_target
from reverie.agents.playing import collect, evaluate
from reverie.buffers import Layout, ReplayBuffer, Transitions
from reverie.envs import make
from reverie.envs.gym.foreign import ForeignEnv
from reverie.envs.gym.views import SingleEnv, VectorView
from reverie.envs.native.env import TaskEnv
from reverie.envs.task import Task
from reverie.envs.tasks import TASKS

N, SEED, LIMIT = 3, 7, 5  # worlds, seed of the first one, time limit in steps
LAYOUT = Layout(3, 1)
MODES = list(AutoresetMode)


# -- two things to step, whose observations say where they are


class Counting(gymnasium.Env):
    """Shows [seed, episode, t]; `length` says when it terminates.

    With `shared`, every observation is the same array, written anew.
    """

    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)
    endless = False

    def __init__(self, shared=False):
        self.shared, self.state = shared, np.zeros(3, np.float32)

    def length(self):
        return np.inf if self.endless else 1 + (3 * self.state[0] + 4 * self.state[1]) % 9

    def show(self):
        return self.state if self.shared else self.state.copy()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state[1:] = self.state[1] + 1, 0
        if seed is not None:
            self.state[:] = seed, 0, 0
        return self.show(), {}

    def step(self, action):
        reward = self.state @ [100, 10, 1] + action[0]
        self.state[2] += 1
        return self.show(), reward, bool(self.state[2] >= self.length()), False, {}


def slider_model(p):
    """A mass on a rail, without friction or gravity; all numbers are sums of powers of two."""
    spec = mujoco.MjSpec()
    spec.option.timestep, spec.option.gravity = 0.25, [0, 0, 0]
    body = spec.worldbody.add_body()
    body.add_joint(name="x", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[1, 0, 0])
    body.add_geom(size=[0.1, 0, 0], mass=1, contype=0, conaffinity=0)
    motor = spec.add_actuator(name="push", target="x", trntype=mujoco.mjtTrn.mjTRN_JOINT)
    motor.gainprm[0], motor.ctrlrange, motor.ctrllimited = 1, [-1, 1], True
    return spec.compile()


SLIDER = Task(
    id="Slider",
    model=slider_model,
    fields=("time",),
    frame_skip=2,
    max_episode_steps=LIMIT,
    params={"end": 1.0},
    # Positions are drawn, so they name the episode; the time names the step.
    observe=lambda xp, f, p: xp.stack([f.qpos[:, 0], f.qvel[:, 0], f.time], axis=1),
    reward=lambda xp, before, f, action, p: (f.qpos[:, 0] - before + action[:, 0], {}),
    reset=lambda xp, u, p: (u.uniform(-2.5, 0.5, 1), u.uniform(1, 1, 1)),
    before=lambda xp, f, p: f.qpos[:, 0] + 0.0,
    terminated=lambda xp, f, p: f.qpos[:, 0] > p.end,
)


@pytest.fixture(autouse=True)
def slider(monkeypatch):
    monkeypatch.setitem(TASKS, SLIDER.id, SLIDER)


def limited(env):
    return TimeLimit(env, LIMIT)


def sync(make_one, mode, **kwargs):
    vector = SyncVectorEnv([make_one] * N, autoreset_mode=mode, **kwargs)
    return ForeignEnv(vector, SEED)


class CountingModel:
    """`Counting` as a world model: all of it follows from the observation."""

    obs_dim, act_dim, mask_widths, members, fixed_masks = 3, 1, (), 1, None
    scales = SimpleNamespace(
        low=torch.full((4,), -np.inf), high=torch.full((4,), np.inf), horizon=LIMIT
    )

    def initial_state(self, n):
        return ()

    def predict(self, obs, action, state, masks, generator):
        seed, episode, t = obs.T
        length = torch.inf if Counting.endless else 1 + (3 * seed + 4 * episode) % 9
        reward = 100 * seed + 10 * episode + t + action[:, 0]
        next_obs = torch.stack([seed, episode, t + 1], 1)
        return Prediction(next_obs, reward, (t + 1 >= length).float(), state)


class CountingDream(DreamEnv):
    """Starts where `Counting` does: at the number of the world and of its episode."""

    def _restart(self, ids):
        super()._restart(ids)
        named = np.stack([self._seed + self.streams, self._episode, 0 * self._episode], 1)
        rows = torch.from_numpy(ids)
        self._obs = self._obs.index_copy(0, rows, torch.from_numpy(named[ids]).float())


def counting_dream():
    return CountingDream(CountingModel(), Starts(torch.zeros(1, 3), ()), N, seed=SEED)


COUNTING = {
    "dream": counting_dream,
    **{
        f"counting, {mode.name}": lambda mode=mode: sync(lambda: limited(Counting()), mode)
        for mode in MODES
    },
}
SLIDING = {
    "core": lambda: TaskEnv(TASKS[SLIDER.id], N, seed=SEED, max_episode_steps=LIMIT),
    **{
        f"view, {mode.name}": lambda mode=mode: ForeignEnv(
            VectorView(SLIDER.id, N, max_episode_steps=LIMIT, autoreset_mode=mode), SEED
        )
        for mode in MODES
    },
    **{
        f"single, {mode.name}": lambda mode=mode: sync(lambda: limited(SingleEnv(SLIDER.id)), mode)
        for mode in MODES
    },
}
DOORS = {
    **{name: (Counting, door) for name, door in COUNTING.items()},
    **{name: (lambda: SingleEnv(SLIDER.id), door) for name, door in SLIDING.items()},
}
every_door = pytest.mark.parametrize(("make_one", "door"), DOORS.values(), ids=DOORS)


# -- the same policy played through every door


def rule(obs):
    """An action in {-1, -.5, 0, .5} that follows from obs [N, 3] alone."""
    return (obs[:, 2:] * 2 + 1) % 4 / 2 - 1


class Rule:
    def initial_state(self, n):
        return ()

    def act(self, obs, state, *, explore):
        return rule(obs), state


def by_hand(env, world, n):
    """The first n transitions of one gymnasium environment, copied at once."""

    def copy(obs):
        return np.array(obs, np.float32)

    out, obs = [], copy(env.reset(seed=SEED + world)[0])
    while len(out) < n:
        action = rule(torch.from_numpy(obs)[None])[0].numpy()
        raw, reward, terminated, truncated, _ = env.step(action)
        final = copy(raw)
        out.append((*obs, *action, np.float32(reward), *final, terminated, truncated))
        obs = copy(env.reset()[0]) if terminated or truncated else final
    return [tuple(map(float, row)) for row in out]


def by_steps(env, steps):
    """The valid transitions of each world of a `BatchEnv`."""
    out, obs = [[] for _ in range(N)], env.reset()
    for _ in range(steps):
        batch, valid, obs = advance(env, obs, rule(obs))
        assert torch.equal(obs, env.current_obs())
        for world in valid.nonzero()[:, 0].tolist():
            out[world].append(tuple(LAYOUT.pack(batch)[world].tolist()))
    return out


def by_collect(env, n):
    batch = collect(env, Rule(), n)
    packed, world = LAYOUT.pack(batch), batch.extra["world"]
    assert len(packed) == n
    return [[tuple(row) for row in packed[world == w].tolist()] for w in range(N)]


def ends(rows):
    """Which (terminated, truncated) occur."""
    return {row[-2:] for row in rows}


def assert_by_hand(make_one, worlds, at_least=25):
    """Are each world's transitions those of the environment stepped by hand?"""
    for world, rows in enumerate(worlds):
        assert len(rows) >= at_least
        reference = by_hand(limited(make_one()), world, len(rows))
        assert len(set(reference)) == len(reference), "the rows do not tell themselves apart"
        assert rows == reference, f"world {world}"


@every_door
def test_autoreset_semantics(make_one, door):
    worlds = by_steps(door(), 40)
    assert_by_hand(make_one, worlds)
    assert ends(chain(*worlds)) == {(0, 0), (1, 0), (0, 1), (1, 1)}, "an end is not covered"
    assert_by_hand(make_one, by_collect(door(), 100))


@every_door
def test_a_buffer_holds_only_what_happened(make_one, door):
    env, buffer = door(), ReplayBuffer(LAYOUT, 90, N)
    happened, obs = set(), env.reset()
    for _ in range(30):
        batch, valid, obs = advance(env, obs, rule(obs))
        buffer.add(batch, valid)
    for world in range(N):
        happened |= set(by_hand(limited(make_one()), world, 30))
    stored = {tuple(row) for row in LAYOUT.pack(buffer.sample(3000)).tolist()}
    assert stored <= happened and len(stored) == len(buffer)
    batch, mask = buffer.sample_windows(1000, 4, burn_in=2)
    follows = mask[:, 1:] & mask[:, :-1]
    assert torch.equal(batch.next_obs[:, :-1][follows], batch.obs[:, 1:][follows])
    over = (batch.terminated + batch.truncated)[:, :-1] > 0
    assert not (follows & over).any() and over.any()


class Clock:
    """Acts by how many steps it remembers: action = steps / 64 of the running episode."""

    def initial_state(self, n):
        return (torch.zeros(n, 1),)

    def act(self, obs, state, *, explore):
        return state[0] / 64, (state[0] + 1,)


@every_door
def test_a_policys_memory_begins_with_the_episode(make_one, door):
    batch = collect(door(), Clock(), 100)
    t = batch.obs[:, 2] * (1 if make_one is Counting else 2)
    assert torch.equal(batch.action[:, 0] * 64, t)


@pytest.mark.parametrize("policy", [Rule, Clock])
@pytest.mark.parametrize("name", SLIDING)
def test_evaluation_is_the_same_through_every_door(name, policy):
    a, b = (evaluate(policy(), SLIDING[k](), episodes=4, seed=3) for k in ("core", name))
    assert np.array_equal(a.returns, b.returns) and np.array_equal(a.lengths, b.lengths)


# -- one shared obs array


@pytest.mark.parametrize("copy", [True, False], ids=["copies", "no copies"])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_one_shared_obs_array(mode, copy):
    # Not SAME_STEP: gymnasium keeps the array itself as final_obs there, and resets it.
    def door():
        return sync(lambda: limited(Counting(shared=True)), mode, copy=copy)

    assert_by_hand(Counting, by_steps(door(), 40))
    assert_by_hand(Counting, by_collect(door(), 100))


@pytest.mark.filterwarnings("ignore:.*share an object")
def test_one_shared_obs_array_of_a_registered_environment(monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Counting-v0", Counting, max_episode_steps=LIMIT)
    monkeypatch.setitem(gymnasium.registry, "Counting-v0", spec)
    env = make("Counting-v0", N, seed=SEED, shared=True)
    assert env.max_episode_steps == LIMIT
    assert_by_hand(Counting, by_steps(env, 40))


def test_one_shared_obs_array_of_a_task():
    live = replace(SLIDER, id="Live", observe=lambda xp, f, p: f.qpos)
    with pytest.raises(ValueError, match="live view of a physics field"):
        TaskEnv(live, N)


@every_door
def test_what_a_step_returned_is_never_written_again(make_one, door):
    env = door()
    obs = env.reset()
    kept = [[obs]]
    copies = [[obs.clone()]]
    for _ in range(15):
        result = env.step(rule(obs))
        obs = result.obs
        kept.append(list(result))
        copies.append([x.clone() for x in result])
    for old, copy in zip(kept, copies, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(old, copy, strict=True))


# -- done conflating two ends


@every_door
def test_done_conflating_two_ends(make_one, door):
    rows = torch.tensor(list(chain(*by_steps(door(), 40))))
    batch = LAYOUT.unpack(rows)
    next_value = torch.full_like(batch.reward, 8.0)
    target = td_target(batch.reward, next_value, batch.terminated, gamma=0.5)
    bootstrapped = target != batch.reward
    assert (bootstrapped == (batch.terminated == 0)).all()
    only_cut = (batch.truncated == 1) & (batch.terminated == 0)
    assert only_cut.any() and bootstrapped[only_cut].all()


@every_door
def test_simultaneous_terminate_and_limit_sets_both(make_one, door):
    both = [row for row in list(chain(*by_steps(door(), 40))) if row[-2:] == (1, 1)]
    assert both
    for row in both:  # at the limit, and past the task's own end
        if make_one is Counting:
            seed, episode, t = row[5:8]
            assert t == LIMIT == 1 + (3 * seed + 4 * episode) % 9
        else:
            assert row[5] > 1.0 and row[7] == LIMIT / 2


@every_door
def test_time_limit_sets_truncated_only(make_one, door, monkeypatch):
    monkeypatch.setattr(Counting, "endless", True)
    monkeypatch.setitem(TASKS, SLIDER.id, replace(SLIDER, terminated=None))
    for rows in by_steps(door(), 30):
        assert [row[-2:] for row in rows[:20]] == ([(0, 0)] * (LIMIT - 1) + [(0, 1)]) * 4


# -- the true successor


def test_final_obs_equals_the_state_before_reset():
    env = SLIDING["core"]()
    obs, restart, before = env.reset(), env.restart, []

    def spy(ids):
        before.append(SLIDER.observe(np, env.physics.fields, env.p))
        return restart(ids)

    env.restart = spy
    for _ in range(30):
        r = env.step(rule(obs))
        ended = r.terminated | r.truncated
        assert torch.equal(r.final_obs[~ended], r.obs[~ended])
        assert len(before) == int(ended.any())
        if before:
            assert torch.equal(r.final_obs, torch.from_numpy(before.pop()).float())
            assert (r.obs[ended, 2] == 0).all() and (r.final_obs[ended, 2] > 0).all()
        obs = r.obs


# -- the ring


def ring(steps, capacity, limit):
    """A buffer of one counting world whose step number is its whole observation."""
    layout = Layout(1, 1)
    buffer = ReplayBuffer(layout, capacity)
    for s in range(steps):
        packed = torch.tensor([[s, 0, 2.0**-s, s + 1, 0, s % limit == limit - 1]])
        buffer.add(layout.unpack(packed.float()))
    return buffer


def windows(buffer, length, burn_in=0):
    batch, mask = buffer.sample_windows(300, length, burn_in)
    pairs = zip(batch.obs[..., 0].int().tolist(), mask.tolist(), strict=True)
    return {tuple(s for s, m in zip(row, real, strict=True) if m) for row, real in pairs}


def test_ring_wrap_around_joining_two_episodes():
    # Slots hold 6 7 2 3 4 5 while an episode runs from 4 to 7: it goes through the seam.
    buffer = ring(8, capacity=6, limit=4)
    assert windows(buffer, 4) == {(2, 3), (3,), (4, 5, 6, 7), (5, 6, 7), (6, 7), (7,)}
    # Slots hold 6 1 2 3 4 5, episodes of 3: the oldest rows 1 2 are the end of 0 1 2.
    buffer = ring(7, capacity=6, limit=3)
    assert windows(buffer, 3) == {(1, 2), (2,), (3, 4, 5), (4, 5), (5,), (6,)}
    assert set(buffer.initial_obs(200)[:, 0].tolist()) == {3, 6}, "1 does not begin an episode"


@pytest.mark.parametrize("steps", range(7, 14))
def test_n_step_windows_crossing_the_write_head(steps):
    # One endless episode, so that only the write head can end a window.
    buffer = ring(steps, capacity=6, limit=100)
    last, oldest = steps - 1, steps - 6
    expected = {tuple(range(s, min(s + 3, last + 1))) for s in range(oldest, last + 1)}
    assert windows(buffer, 3) == expected
    back = {tuple(range(max(s - 2, oldest), s + 1)) for s in range(oldest, last + 1)}
    assert windows(buffer, 1, burn_in=2) == back
    batch, mask = buffer.sample_windows(300, 3)
    anchor = batch.obs[:, 0, 0].int()
    n_step = (batch.reward * mask).sum(1)
    truth = torch.tensor([sum(2.0**-k for k in range(s, min(s + 3, steps))) for s in anchor])
    assert torch.equal(n_step, truth)


def test_an_episode_id_breaks_at_break_episodes():
    buffer = ReplayBuffer(Layout(1, 1), 8)
    for s in range(6):
        if s == 3:  # a restart at a reset that no flag tells of
            buffer.break_episodes()
        buffer.add(buffer.layout.unpack(torch.tensor([[s, 0, 0, s + 1, 0, 0]]).float()))
    assert windows(buffer, 3, burn_in=2) == {(0, 1, 2), (3, 4, 5)}
    assert set(buffer.initial_obs(100)[:, 0].tolist()) == {0, 3}


# -- a bad world among sixteen


WORLDS, STEPS, WHEN, WHERE = 16, 14, 5, 5
WIDE = Layout(17, 6, {"world": 1, "step": 1})


def cheetahs(inject):
    """A buffer of sixteen HalfCheetahs with a limit of 8 steps, and every step's result."""
    env = make("reverie/HalfCheetah-v5", WORLDS, seed=2, threads=1, max_episode_steps=8)
    buffer, results = ReplayBuffer(WIDE, WORLDS * STEPS, WORLDS), []
    draw = torch.Generator().manual_seed(0)
    obs = env.reset()
    for step in range(STEPS):
        if inject and step == WHEN:
            env.physics.fields.qvel[WHERE] = np.nan
        action = 2 * torch.rand(WORLDS, 6, generator=draw) - 1
        r = env.step(action)
        columns = {"world": torch.arange(WORLDS), "step": torch.full((WORLDS,), step)}
        flags = r.terminated.float(), r.truncated.float()
        buffer.add(Transitions(obs, action, r.reward, r.final_obs, *flags, columns), r.valid)
        results.append(r)
        obs = r.obs
    return env, buffer, results


def pieces(buffer):
    """(world, step) of each anchor -> its window's steps and packed rows."""
    batch, mask = buffer.sample_windows(6000, 3, burn_in=2)
    packed = WIDE.pack(batch)
    anchors = packed[:, 2, -2:].int().tolist()
    steps = batch.extra["step"].int().tolist()
    return {
        tuple(a): ([s for s, real in zip(row, m, strict=True) if real], rows)
        for a, row, m, rows in zip(anchors, steps, mask.tolist(), packed, strict=True)
    }


@pytest.fixture(scope="module")
def bad_run(tmp_path_factory):
    with contextlib.chdir(tmp_path_factory.mktemp("log")):  # where MuJoCo writes its warning
        return cheetahs(inject=True), cheetahs(inject=False)


def test_a_bad_world_among_sixteen(bad_run):
    (env, buffer, results), (_, twin, clean) = bad_run
    assert env.bad_worlds == 1
    assert all(c.valid.all() and not c.terminated.any() for c in clean)
    others = torch.arange(WORLDS) != WHERE
    for step, (r, c) in enumerate(zip(results, clean, strict=True)):
        assert (~r.valid).nonzero().tolist() == ([[WHERE]] if step == WHEN else [])
        for name, a, b in zip(r._fields, r, c, strict=True):
            assert torch.equal(a[others], b[others]), f"{name} of another world at step {step}"
        if step < WHEN:
            assert all(torch.equal(a, b) for a, b in zip(r, c, strict=True))
        assert torch.isfinite(r.obs).all() and torch.isfinite(r.reward).all()
    bad = results[WHEN]
    assert bad.truncated[WHERE] and not bad.terminated[WHERE] and bad.reward[WHERE] == 0
    cut = [step for step, r in enumerate(results) if r.truncated[WHERE]]
    assert cut == [WHEN, WHEN + 8], "the limit counts from the bad world's restart"
    # Its next episode is the world's second one, from the first limit of the clean run.
    assert torch.equal(bad.obs[WHERE], clean[7].obs[WHERE])

    sample = buffer.sample(5000)
    who = set(zip(sample.extra["world"].tolist(), sample.extra["step"].tolist(), strict=True))
    everything = {(w, s) for w in range(WORLDS) for s in range(STEPS)}
    assert who == everything - {(WHERE, WHEN)} and len(buffer) == len(who)
    ours, theirs = pieces(buffer), pieces(twin)
    assert ours.keys() == who and theirs.keys() == everything
    for anchor, (steps, rows) in ours.items():
        if anchor[0] != WHERE:
            assert steps == theirs[anchor][0] and torch.equal(rows, theirs[anchor][1])


def test_an_episode_id_breaks_before_a_bad_worlds_reset(bad_run):
    (_, buffer, _), _ = bad_run
    ours = {step: steps for (world, step), (steps, _) in pieces(buffer).items() if world == WHERE}
    assert ours[WHEN - 1] == [WHEN - 3, WHEN - 2, WHEN - 1]
    assert ours[WHEN - 2] == [WHEN - 4, WHEN - 3, WHEN - 2, WHEN - 1]
    assert ours[WHEN + 1] == [WHEN + 1, WHEN + 2, WHEN + 3]
    assert WHEN not in ours and not any(WHEN in steps for steps in ours.values())
    starts = buffer.initial_obs(4000).unique(dim=0)
    assert len(starts) == 2 * WORLDS, "two episodes of each world, the bad one's among them"


@pytest.mark.parametrize("name", ["core", *(f"view, {mode.name}" for mode in MODES)])
def test_a_bad_world_is_no_transition_through_any_door(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # All start at -2; MuJoCo puts the bad one at 0, which would be past the task's end.
    far = replace(
        SLIDER,
        params={"end": -0.5},
        reset=lambda xp, u, p: (u.uniform(-2, -2, 1), u.uniform(1, 1, 1)),
    )
    monkeypatch.setitem(TASKS, SLIDER.id, far)
    env = SLIDING[name]()
    obs = env.reset()
    (env if name == "core" else env.env.env).physics.fields.qvel[1] = np.nan
    r = env.step(rule(obs))
    assert r.valid.tolist() == [True, False, True]
    assert r.truncated.tolist() == [False, True, False] and not r.terminated.any()
    assert env.bad_worlds == 1
