"""What goes in and out of an environment: units, spaces, and what an error advises."""

import json
import logging
import re

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces, wrappers
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

import reverie
from reverie.envs import Actions, Spaces, actions_of, describe, make, spaces_of, to_sb3
from reverie.envs.check import FAULT, check_env

FAST = settings(max_examples=80, deadline=None, derandomize=True, database=None)
UNIT = Box(-1, 1, (2,), np.float32)


class Given(gymnasium.Env):
    """Takes any space, remembers what it was given, and lasts five steps."""

    taken: list = []

    def __init__(self, action=UNIT, observation=UNIT, render_mode=None):
        self.action_space, self.observation_space = action, observation

    def _obs(self):
        self.observation_space.seed(int(self.np_random.integers(1000)))
        return self.observation_space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        Given.taken.append(action)
        return self._obs(), -float(np.square(np.float64(action)).sum()), False, self.t == 5, {}


def registered(build):
    """Return the id under which what `build()` makes is registered."""
    name = f"Given{len(gymnasium.registry)}-v0"
    gymnasium.register(name, entry_point=lambda render_mode=None: build())
    return name


def refused(build):
    """Return the error that an environment is refused with."""
    with pytest.raises(ValueError) as caught:
        make(registered(build))
    return str(caught.value)


def advised(text, **names):
    """Return the advice in an error, `gymnasium.wrappers.X(env, ...)`, as a function of env."""
    call = re.search(r"(gymnasium\.wrappers\.|)(TransformAction|RescaleAction)\(env", text)
    at = call.start()
    depth = 0
    for end in range(at, len(text)):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        if depth == 0 and text[end] == ")":
            break
    code = text[at : end + 1].replace("numpy.", "np.")
    scope = {"gymnasium": gymnasium, "np": np, "RescaleAction": wrappers.RescaleAction, **names}
    return lambda env: eval(code, {**scope, "env": env})


# -- integers


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (0, 3, np.int64),
        (-128, 127, np.int8),
        (0, 255, np.uint8),
        (5, 5, np.int32),
        (-2, 1, np.int16),
    ],
)
def test_every_integer_is_played_equally_often(low, high, dtype):
    """[low, high + 1) in equal parts: 100 evenly spread rows fall into each."""
    space = describe(UNIT, Box(low, high, (1,), dtype)).action
    parts = high - low + 1
    rows = (np.arange(100 * parts) + 0.5) / (50 * parts) - 1
    played = space.to_native(rows[:, None].astype(np.float32))
    assert played.dtype == dtype
    values, counts = np.unique(played, return_counts=True)
    assert values.tolist() == list(range(low, high + 1)) and set(counts.tolist()) == {100}
    ends = space.to_native(np.array([[-1.0], [1.0]], np.float32)).ravel().tolist()
    assert ends == [low, high]
    each = np.arange(low, high + 1).astype(dtype)[:, None]
    assert (space.to_native(space.to_unit(each)) == each).all()


def test_integers_go_to_the_middle_of_their_part():
    space = describe(UNIT, Box(0, 3, (1,), np.int64)).action
    assert space.to_unit(np.array([[0], [1], [2], [3]])).ravel().tolist() == [
        -0.75,
        -0.25,
        0.25,
        0.75,
    ]
    with pytest.raises(ValueError, match="outside of the integers 0 to 3"):
        space.to_unit(np.array([[4]]))
    with pytest.raises(ValueError, match="outside of the integers"):
        space.to_unit(np.array([[1.5]]))


def test_an_integer_box_is_played_to_its_ends_in_the_environment():
    env = make(registered(lambda: Given(Box(0, 3, (1,), np.int64))), 1)
    Given.taken.clear()
    env.reset()
    for x in (-1.0, -0.4, 0.1, 1.0):
        env.step(torch.tensor([[x]]))
    assert [a.tolist() for a in Given.taken] == [[0], [1], [2], [3]]
    assert all(a.dtype == np.int64 for a in Given.taken)


# -- real numbers


@given(
    low=st.floats(-1e6, 1e6), width=st.floats(0, 1e6),
    row=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=5),
    dtype=st.sampled_from(["float32", "float64"]),
)  # fmt: skip
@FAST
def test_real_numbers_stay_within_their_bounds_and_come_back(low, width, row, dtype):
    low, high = np.asarray(low, dtype), np.asarray(min(low + width, 1e6), dtype)
    space = Actions((1,), dtype, (float(low),), (float(max(low, high)),))
    rows = np.array(row, np.float32)[:, None]
    played = space.to_native(rows)
    assert played.dtype == dtype and (played >= low).all() and (played <= max(low, high)).all()
    assert space.to_native(np.float32([[-1], [1]])).ravel().tolist() == [low, max(low, high)]
    size = float(max(low, high)) - float(low)
    if size > 1e-3 * max(1.0, abs(float(low))):
        gap = np.abs(space.to_unit(played) - rows).max()
        assert gap < 1e-6 + 4 * np.finfo(dtype).eps * max(abs(low), abs(high)) / size


def test_humanoids_units():
    """Its bounds are 0.4: half of that is 0.5."""
    space = actions_of("Humanoid-v5")
    native = np.full((2, 17), 0.2, np.float32)
    assert np.allclose(space.to_unit(native), 0.5, atol=1e-7)
    rows = np.random.default_rng(0).uniform(-1, 1, (50, 17)).astype(np.float32)
    env = make("Humanoid-v5", 50)
    assert np.array_equal(space.to_native(rows), env.to_native(rows))


HUGE = [np.finfo(np.float32).max, 1e30, 1.5e6, np.inf]


@pytest.mark.parametrize("bound", HUGE)
def test_bounds_that_bound_nothing_are_refused_and_the_advice_works(bound):
    """The advice, followed word for word, makes an environment that takes what it says."""
    open_space = Box(-bound, bound, (2,), np.float32)
    text = refused(lambda: Given(open_space))
    assert "unbounded" in text
    wrap = advised(text, low=-0.5, high=2.0)
    name = registered(lambda: wrap(Given(open_space)))
    env = make(name, 1)
    Given.taken.clear()
    env.reset()
    env.step(torch.tensor([[-1.0, 1.0]]))
    assert Given.taken[-1].tolist() == [-0.5, 2.0]
    assert not [r for r in check_env(name, steps=20) if r.verdict == FAULT]


@pytest.mark.parametrize("bound", [1.5e6, 3e7])
def test_large_bounds_that_are_meant_are_rescaled_as_the_error_says(bound):
    space = Box(-bound, bound, (2,), np.float32)
    wrap = advised(refused(lambda: Given(space)).split("or where it means these: ")[1])
    name = registered(lambda: wrap(Given(space)))
    Given.taken.clear()
    env = make(name, 1)
    env.reset()
    env.step(torch.tensor([[-1.0, 0.5]]))
    assert np.allclose(Given.taken[-1], [-bound, bound / 2])


@pytest.mark.parametrize("high", [2**62, 2**31 - 1, 10**7])
def test_integers_without_end_are_refused_too(high):
    text = refused(lambda: Given(Box(-high, high, (2,), np.int64)))
    assert "unbounded" in text and "RescaleAction" not in text
    wrap = advised(text, low=0, high=2)
    env = make(registered(lambda: wrap(Given(Box(-high, high, (2,), np.int64)))), 1)
    assert env.to_native(np.array([[-1.0, 1.0]])).tolist() == [[0, 2]]


def test_partly_unbounded_is_unbounded():
    space = Box(np.float32([-1, -np.inf]), np.float32([1, 1]))
    assert "unbounded" in refused(lambda: Given(space))


# -- wrappers


CLIPPED = {
    "clip": lambda e: wrappers.ClipAction(e),
    "twice": lambda e: wrappers.ClipAction(wrappers.ClipAction(e)),
    "under a limit": lambda e: wrappers.TimeLimit(wrappers.ClipAction(e), 9),
    "over rescaled": lambda e: wrappers.ClipAction(wrappers.RescaleAction(e, -5.0, 5.0)),
}


@pytest.mark.parametrize("how", CLIPPED)
def test_clip_action_is_seen_through(how):
    """Bounds -2 to 6, whatever ClipAction declares; RescaleAction beneath has bounds of its own."""
    inner = Box(-2, 6, (1,), np.float32)
    env = make(registered(lambda: CLIPPED[how](Given(inner))), 1)
    own = (-5, 5) if how == "over rescaled" else (-2, 6)
    assert env.spaces.action.low + env.spaces.action.high == own
    Given.taken.clear()
    env.reset()
    for x in (-1.0, 0.5, 1.0):
        env.step(torch.tensor([[x]]))
    assert np.allclose(np.ravel(Given.taken), [-2, 4, 6])


def test_clip_action_over_nothing_is_still_unbounded():
    text = refused(lambda: wrappers.ClipAction(Given(Box(-np.inf, np.inf, (2,), np.float32))))
    assert "unbounded" in text


def test_rescale_action_is_taken():
    env = make(
        registered(lambda: wrappers.RescaleAction(Given(Box(-2, 6, (1,), np.float32)), 0.0, 1.0))
    )
    env.reset()
    Given.taken.clear()
    for x in (-1.0, 0.5):
        env.step(torch.tensor([[x]]))
    assert np.allclose(np.ravel(Given.taken), [-2, 4])


class HomeMade(gymnasium.ObservationWrapper):
    """Running statistics without gymnasium's name for them."""

    def __init__(self, env):
        super().__init__(env)
        self.obs_mean, self.obs_var, self.obs_count = np.zeros(2), np.ones(2), 0

    def observation(self, obs):
        self.obs_count += 1
        self.obs_mean += (obs - self.obs_mean) / self.obs_count
        return (obs - self.obs_mean).astype(np.float32)


@pytest.mark.parametrize(
    "wrap", [wrappers.NormalizeObservation, wrappers.NormalizeReward, HomeMade]
)
def test_running_statistics_are_named_before_training(wrap, caplog):
    name = registered(lambda: wrappers.TimeLimit(wrap(Given()), 9))
    with caplog.at_level(logging.WARNING):
        env = make(name, 2)
        make(name, 2)
    told = [r.getMessage() for r in caplog.records if wrap.__name__ in r.getMessage()]
    assert len(told) == 1 and "not saved with a run" in told[0]
    assert env.notes["statistics"] == wrap.__name__
    rows = {r.name: r for r in check_env(name, steps=20)}
    assert rows["running statistics"].verdict == FAULT
    assert wrap.__name__ in rows["running statistics"].detail


def test_fixed_numbers_as_advised_are_no_running_statistics(caplog):
    """The advice of the warning: TransformObservation and TransformReward."""
    mean, std, scale = np.float32(0.5), np.float32(2), 10.0

    def build():
        env = Given()
        env = wrappers.TransformObservation(
            env, lambda obs: (obs - mean) / std, env.observation_space
        )
        return wrappers.TransformReward(env, lambda reward: reward / scale)

    name = registered(build)
    rows = check_env(name, steps=20)
    assert not [r for r in rows if r.verdict == FAULT], rows
    assert not caplog.records


# -- observations


def test_spaces_are_flattened_in_their_order():
    space = Dict(b=Box(-1, 1, (2, 2)), a=Dict(x=Discrete(3, start=2), y=Box(0, 9, (), np.int64)))
    both = describe(space, UNIT)
    obs = {"b": np.arange(4.0).reshape(2, 2), "a": {"x": 4, "y": np.int64(7)}}
    row = [obs_part for key in space for obs_part in {"a": [0, 0, 1, 7], "b": [0, 1, 2, 3]}[key]]
    assert both.obs_dim == 8 and both.rows(obs).tolist() == row
    many = {"b": np.stack([obs["b"]] * 3), "a": {"x": np.array([4, 2, 3]), "y": np.arange(3)}}
    assert both.rows(many).shape == (3, 8) and both.rows(many).dtype == np.float32
    with pytest.raises(ValueError, match="differ in their batch"):
        both.rows({**many, "b": obs["b"]})
    with pytest.raises(ValueError, match="no \\['a', 'x'\\]"):
        both.rows({"b": obs["b"]})
    with pytest.raises(ValueError, match="is not in 2 to 4"):
        both.rows({**obs, "a": {"x": 1, "y": 0}})


OTHERS = [
    spaces.Tuple((Discrete(2), UNIT)),
    spaces.MultiBinary(3),
    spaces.MultiDiscrete([2, 3]),
    Dict(a=spaces.Text(3)),
]


@pytest.mark.parametrize("space", OTHERS)
def test_other_observations_are_refused_by_name_and_flattened_as_advised(space):
    text = refused(lambda: Given(observation=space))
    assert "FlattenObservation" in text
    if isinstance(space, Dict):
        assert "at ['a']" in text
        return
    env = make(registered(lambda: wrappers.FlattenObservation(Given(observation=space))), 2)
    assert env.reset().shape == (2, spaces.flatdim(space))


def test_other_actions_are_refused_by_name_and_mapped_as_advised():
    text = refused(lambda: Given(spaces.MultiDiscrete([2, 3])))
    assert "MultiDiscrete" in text and "TransformAction(env, function, space)" in text
    wrap = advised(text, function=lambda a: np.array([a % 2, a // 2]), space=Discrete(6))
    env = make(registered(lambda: wrap(Given(spaces.MultiDiscrete([2, 3])))), 1)
    Given.taken.clear()
    env.reset()
    env.step(torch.eye(6)[5:])
    assert Given.taken[-1].tolist() == [1, 2]


class Batched(SyncVectorEnv):
    """A vector environment of its own making, which need not say what its autoreset does."""

    declares: AutoresetMode | None = AutoresetMode.NEXT_STEP

    def __init__(self, num_envs=1, max_episode_steps=3):
        super().__init__([lambda: wrappers.TimeLimit(Given(), max_episode_steps)] * num_envs)
        self.metadata = {**self.metadata, "autoreset_mode": self.declares}


gymnasium.register("Batched-v0", entry_point=Given, vector_entry_point=Batched,
                   max_episode_steps=3)  # fmt: skip


def test_an_undeclared_autoreset_is_declared_as_advised(monkeypatch):
    monkeypatch.setattr(Batched, "declares", None)
    with pytest.raises(ValueError, match="does not declare") as caught:
        make("Batched-v0", 2)
    names = str(caught.value).split("AutoresetMode.")[1].split(", ")
    assert names == [m.name for m in AutoresetMode]
    monkeypatch.setattr(Batched, "declares", AutoresetMode[names[0]])
    env = make("Batched-v0", 2)
    env.reset()
    valid = [env.step(torch.zeros(2, 2)).valid.tolist() for _ in range(5)]
    assert valid == [[True] * 2] * 3 + [[False] * 2] + [[True] * 2]


def test_sb3_is_given_worlds_that_reset_at_once_as_advised():
    env = to_sb3(make("Batched-v0", 2))
    env.reset()
    with pytest.raises(ValueError, match="NEXT_STEP autoreset") as caught:
        for _ in range(4):
            env.step(np.zeros((2, 2)))
    code = str(caught.value).split("make it as ")[1].replace("ID, num_envs", "'Batched-v0', 2")
    env = to_sb3(eval(code, {"gymnasium": gymnasium, "reverie": reverie}))
    env.reset()
    for t in range(1, 8):
        _, _, done, infos = env.step(np.zeros((2, 2)))
        assert done.tolist() == [t % 3 == 0] * 2
        assert all(("terminal_observation" in info) == (t % 3 == 0) for info in infos)


# -- what a run keeps


@pytest.mark.parametrize("env_id", ["reverie/Humanoid-v5", "Pendulum-v1", "CartPole-v1"])
def test_the_spaces_are_among_the_notes(env_id):
    env = make(env_id, 1)
    assert Spaces.from_json(env.notes["spaces"]) == spaces_of(env)
    assert spaces_of(env).obs_dim == env.obs_dim and spaces_of(env).action.width == env.act_dim


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=4), x, max_size=3),
    max_leaves=8,
)
SOUND = json.loads(describe(Dict(a=UNIT, b=Discrete(3)), Box(0, 3, (2,), np.int64)).to_json())


@given(
    value=JSON, place=st.sampled_from(["observation", "action", "leaf", "whole", *SOUND["action"]])
)
@FAST
def test_anybodys_spaces_are_read_or_refused(value, place):
    """Nothing but ValueError, whatever stands where."""
    given_ = json.loads(json.dumps(SOUND))
    if place == "whole":
        given_ = value
    elif place == "leaf":
        given_["observation"][0]["shape"] = value
    elif place in given_:
        given_[place] = value
    else:
        given_["action"][place] = value
    try:
        read = Spaces.from_json(json.dumps(given_))
    except ValueError as error:
        assert "spaces" in str(error)
        return
    assert read.obs_dim >= 0 and read.action.width >= 1
    assert read.to_json() == json.dumps(json.loads(read.to_json()))
