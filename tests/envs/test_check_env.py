"""`reverie check-env` passes sound environments and catches each kind of broken one."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from reverie.envs import check, make
from reverie.envs.check import FAULT, LOST, check_env
from reverie.envs.tasks import TASKS
from reverie.experiments import cli

SHARED = np.random.default_rng(0)


class Walk(gymnasium.Env):
    """A noisy walk: obs = [position, steps / 100]; sound unless a `fault` is named."""

    observation_space = Box(-10, 10, (2,), np.float32)
    action_space = Box(-2, 2, (1,), np.float32)

    def __init__(self, fault=None):
        self.fault, self.steps_ever, self.last_reward = fault, 0, 0.0
        self.array = np.zeros(2, np.float32)
        if fault == "not picklable":
            self.hook = lambda: None

    def _obs(self):
        values = [self.x, self.t / 100]
        if self.fault == "one obs array shared between steps":
            self.array[:] = values
            return self.array
        kind = np.float32
        if self.fault == "dtype drift" and self.t > 50:
            kind = np.float64
        if self.fault == "bounds violated" and self.t == 20:
            values[0] = 11.0
        return np.array(values, kind)

    def _draw(self):
        if self.fault == "an RNG shared between worlds":
            return SHARED.uniform(-0.1, 0.1)
        return self.np_random.uniform(-0.1, 0.1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=None if self.fault == "reset ignoring its seed" else seed)
        self.x, self.t = float(self._draw()), 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        self.steps_ever += 1
        self.x = float(np.clip(self.x + 0.1 * float(action[0]) + self._draw(), -9, 9))
        reward = -abs(self.x)
        if self.fault == "reward out of step":
            reward, self.last_reward = self.last_reward, reward
        obs = self._obs()
        if self.fault == "NaN at step 150" and self.steps_ever == 150:
            obs = np.full(2, np.nan, np.float32)
        cut = self.fault == "truncation reported as termination" and self.t == 60
        early = abs(self.x) > 2 and self.t > 3 and "truncation" not in str(self.fault)
        ended = early or cut
        return obs, reward, bool(ended), False, {}


class LosesLast(SyncVectorEnv):
    """Declares SAME_STEP and gives the reset observation as the final one."""

    def __init__(self, num_envs, fault=None, max_episode_steps=None):
        make = lambda: gymnasium.wrappers.TimeLimit(Walk(), max_episode_steps)  # noqa: E731
        super().__init__([make] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)

    def step(self, actions):
        obs, *rest, infos = super().step(actions)
        if "final_obs" in infos:
            for i in np.flatnonzero(infos["_final_obs"]):
                infos["final_obs"][i] = obs[i].copy()
        return obs, *rest, infos


FAULTS = [
    "one obs array shared between steps",
    "an RNG shared between worlds",
    "NaN at step 150",
    "dtype drift",
    "reward out of step",
    "truncation reported as termination",
    "reset ignoring its seed",
    "bounds violated",
]
gymnasium.register("SoundWalk-v0", entry_point=Walk, max_episode_steps=100)
for i, fault in enumerate(FAULTS):
    gymnasium.register(f"BrokenWalk{i}-v0", entry_point=Walk, max_episode_steps=100,
                       kwargs={"fault": fault}, disable_env_checker=True)  # fmt: skip
gymnasium.register("LosesLast-v0", entry_point=Walk, vector_entry_point=LosesLast,
                   max_episode_steps=100)  # fmt: skip


class Odd(gymnasium.Env):
    """Sound and dull, for what is odd about its spaces, its end or its simulator."""

    def __init__(self, action=None, fails_at=None, render_mode=None):
        self.observation_space = Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = Box(-1, 1, (2,), np.float32) if action is None else action
        self.fails_at = fails_at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action):
        self.t += 1
        if self.t == self.fails_at:
            raise RuntimeError("the cable came off")
        reward = -float(np.square(np.float64(action)).sum())
        return self.np_random.normal(size=3).astype(np.float32), reward, False, False, {}


def registered(env_id, limit=30, wrap=None, **kwargs):
    made = lambda render_mode=None: (wrap or (lambda e: e))(Odd(**kwargs))  # noqa: E731
    gymnasium.register(env_id, entry_point=made, max_episode_steps=limit)
    return env_id


def changed(f):
    """Return a wrapper that changes actions and says nothing of it."""
    return lambda e: gymnasium.wrappers.TransformAction(e, f, e.action_space)


ENDLESS, INTEGER = Box(-np.inf, np.inf, (2,), np.float32), Box(0, 3, (1,), np.int64)
DISGUISED = Box(-3e38, 3e38, (2,), np.float32)
CLIP, NORMALISE = gymnasium.wrappers.ClipAction, gymnasium.wrappers.NormalizeObservation
ODD = {  # what is odd, and the faults that check-env finds: check -> a part of its finding
    "never ends": (dict(limit=None), {"time limit": "set max_episode_steps"}),
    "unbounded": (dict(action=ENDLESS), {"it can be made": "TransformAction"}),
    "disguised": (dict(action=DISGUISED), {"it can be made": "unbounded"}),
    "integers": (dict(action=INTEGER), {}),
    "clipped": (dict(wrap=CLIP), {}),
    "clipped nothing": (dict(wrap=CLIP, action=ENDLESS), {"it can be made": "unbounded"}),
    "rescaled": (dict(wrap=lambda e: gymnasium.wrappers.RescaleAction(e, 0.0, 9.0)), {}),
    "normalised": (
        dict(wrap=NORMALISE),
        {"running statistics": "NormalizeObservation", "clean resets": "episode before shows"},
    ),
    "fails": (dict(fails_at=25), {"finite_and_fast": "RuntimeError: the cable came off"}),
    "another type": (dict(wrap=changed(np.float64)), {"actions": "float64"}),
    "beyond": (dict(wrap=changed(lambda a: 2 * a)), {"actions": "is given [-2.0, -2.0]"}),
}


@pytest.mark.parametrize("kind", ODD)
def test_each_kind_of_odd_environment_gets_its_verdict(kind, monkeypatch):
    monkeypatch.setattr(check, "PATIENCE", 100)
    options, want = ODD[kind]
    rows = check_env(registered(f"Odd{list(ODD).index(kind)}-v0", **options), steps=40)
    found = {r.name: r.detail for r in faults(rows)}
    for name, text in want.items():
        assert text in found.get(name, ""), found
    assert want or not found, found
    if kind == "integers":
        assert ("actions", "ok", "[-1, 1] becomes [0, 3]") in rows


def test_what_a_wrapper_keeps_from_the_environment_is_told():
    """Only half of the range is ever played: no fault, and worth knowing."""
    rows = check_env(registered("Half-v0", wrap=changed(lambda a: a / 2)), steps=20)
    row = next(r for r in rows if r.name == "actions")
    assert row.verdict == LOST and "[-0.5, 0.5]" in row.detail and not faults(rows)


def faults(rows):
    return [row for row in rows if row.verdict == FAULT]


def test_a_sound_environment_passes_and_is_told_what_it_loses():
    rows = check_env("SoundWalk-v0", steps=200)
    assert not faults(rows), faults(rows)
    assert [r.name for r in rows if r.verdict == LOST] == ["state restore"]


@pytest.mark.parametrize("i", range(len(FAULTS)), ids=lambda i: FAULTS[i].replace(" ", "_"))
def test_a_broken_environment_is_caught(i):
    assert faults(check_env(f"BrokenWalk{i}-v0", steps=200))


def test_a_missing_final_observation_is_caught():
    assert [
        r
        for r in faults(check_env("LosesLast-v0", steps=200))
        if "last observation is lost" in r.detail
    ]


@pytest.mark.parametrize("part", ["warm start", "carry", "starts"])
def test_a_state_that_loses_something_is_caught(part, monkeypatch):
    from reverie.envs.native.env import TaskEnv

    real = TaskEnv.state_dict

    def lossy(self):
        state = real(self)
        if part == "warm start":
            import mujoco

            where = mujoco.mjtState.mjSTATE_WARMSTART.value
            first, size = self.physics.batch._component(where)
            state["physics"][:, first : first + size] = 0
        elif part == "carry":
            state["carry"] = None
        else:
            state["starts"]["episode"] = state["starts"]["episode"] * 0
        return state

    monkeypatch.setattr(TaskEnv, "state_dict", lossy)
    task = {"warm start": "Humanoid-v5", "carry": "Ant-v5", "starts": "Reacher-v5"}[part]
    row = check.state_restores(check.Bench(lambda n, s: check.make(task, n, seed=s), None, 100))
    assert row.verdict == FAULT, row


@pytest.mark.parametrize("task", [
    pytest.param(t, marks=[pytest.mark.slow] if "Humanoid" in t or "Ant" in t else [])
    for t in TASKS
])  # fmt: skip
def test_our_tasks_pass(task):
    rows = check_env(f"reverie/{task}", steps=120)
    assert all(row.verdict == "ok" for row in rows), rows


def test_gymnasiums_shared_generator_is_named():
    assert any(r.name == "independence" for r in faults(check_env("CartPole-v1", steps=100)))


def test_the_command_prints_a_table_and_fails_on_a_fault(capsys):
    assert cli.main(["check-env", "SoundWalk-v0", "--steps", "100"]) == 0
    assert "continues" not in capsys.readouterr().out
    assert cli.main(["check-env", "BrokenWalk6-v0", "--steps", "100"]) == 1
    assert "ignores its seed" in capsys.readouterr().out
    assert cli.main(["check-env", "NoSuch-v0"]) == 1


def test_a_busy_machine_does_not_make_an_environment_endless(monkeypatch):
    """Episodes of 90 steps of a second each, of which a thousandth is its own time, then a half."""
    now = [0.0]
    env = make("reverie/Reacher-v5", 1, max_episode_steps=90)
    step = env.step

    def slowly(action):
        now[0] += 1.0
        return step(action)

    monkeypatch.setattr(env, "step", slowly)
    clock = SimpleNamespace(monotonic=lambda: now[0], process_time=lambda: now[0] / 1000)
    monkeypatch.setattr(check, "time", clock)
    assert check.without_end(env, 1000, seconds=10) is None  # 90 s, .09 of them its own
    assert check.without_end(env, 1000, seconds=5) == 51  # 51 s are too many
    clock.process_time = lambda: now[0] / 2
    assert check.without_end(env, 1000, seconds=10) == 21
