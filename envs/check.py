"""Is an environment fit to learn from? What gymnasium's checker does not look at."""

import copy
import pickle
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .api import Array, BatchEnv
from .gym.foreign import ForeignEnv, layers
from .make import gymnasium_options, make
from .native.env import TaskEnv
from .spaces import LIMIT, flatten, spaces_of

FAULT, LOST, FINE = "FAULT", "lost", "ok"
PATIENCE = 10_000  # steps after which an episode without a limit counts as endless
Rows = list[tuple[Tensor, ...]]


class Row(NamedTuple):
    """One finding: ok, a feature that is lost, or a fault."""

    name: str
    verdict: str
    detail: str


class Bench(NamedTuple):
    """What the checks need: the worlds to check, and the single environment behind them, if any."""

    make: Callable[[int, int], BatchEnv]  # (num_envs, seed)
    single: Callable[[], Any] | None
    steps: int


def check_env(env_id: str, *, num_envs: int = 3, steps: int = 1000, **options: Any) -> list[Row]:
    """Return the findings about an environment id; a fault is a row whose verdict is FAULT."""
    import gymnasium

    def batch(n: int, seed: int) -> BatchEnv:
        return make(env_id, n, seed=seed, **options)

    try:
        env = batch(num_envs, 0)
    except Exception as error:  # an environment may raise anything when it is made
        return [Row("it can be made", FAULT, _told(error))]
    single = None
    known = f"reverie/{env.task.id}" if isinstance(env, TaskEnv) else env_id.rpartition(":")[2]
    doorless = env.notes["engine"].startswith(("warp", "dream"))  # gymnasium's are the native's
    if not doorless and gymnasium.spec(known).entry_point is not None:
        single = lambda: gymnasium.make(known, **gymnasium_options(options))  # noqa: E731
    bench = Bench(batch, single, steps)
    spaces = f"obs {env.obs_dim}, {'one-hot ' if env.discrete else ''}action {env.act_dim}"
    rows = [Row("it can be made", FINE, f"{spaces}, {env.notes['engine']}")]
    if "statistics" in env.notes:
        text = f"{env.notes['statistics']}: not saved with a run, others in the judge's worlds"
        rows.append(Row("running statistics", FAULT, text))
    checks: list[Callable[[Bench], Row]] = [
        actions_arrive,
        finite_and_fast,
        episodes_end,
        deterministic,
        seeds_matter,
        worlds_are_independent,
        nothing_survives_a_reset,
        returned_arrays_are_not_reused,
        state_restores,
    ]
    if single is not None:
        checks += [spaces_hold, doors_agree, limits_are_truncations, pickles]
    for check in checks:
        try:
            rows.append(check(bench))
        except Exception as error:  # the same
            rows.append(Row(check.__name__, FAULT, _told(error)))
    if env.discrete:
        rows.append(Row("continuous actions", LOST, "SAC and TD3 do not take it"))
    return rows


def _told(error: Exception) -> str:
    """Return an error's kind and text, or the line it came from where it has no text."""
    text = str(error)
    if not text:
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{last.line} ({Path(last.filename).name}:{last.lineno})"
    return f"{type(error).__name__}: {text}"


def _actions(env: BatchEnv, steps: int, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    draws = [torch.rand(env.num_envs, env.act_dim, generator=g) for _ in range(steps)]
    if env.discrete:
        return [torch.nn.functional.one_hot(d.argmax(1), env.act_dim).float() for d in draws]
    return [(2 * d - 1).to(env.device) for d in draws]


def _play(env: BatchEnv, actions: list[Tensor], seed: int | None = None) -> Rows:
    first = env.reset(seed)
    return [(first,), *(tuple(env.step(a)) for a in actions)]


def _difference(a: Rows, b: Rows) -> str | None:
    for t, (x, y) in enumerate(zip(a, b, strict=True)):
        for name, left, right in zip(
            ("obs", "reward", "terminated", "truncated", "final_obs", "valid"), x, y, strict=False
        ):
            if not torch.equal(left, right):
                return f"{name} differs at step {t}" if t else "the first observations differ"
    return None


def actions_arrive(b: Bench) -> Row:
    """What goes in: rows in [-1, 1] reach the environment as actions of its own, ends included."""
    env = b.make(1, 0)
    out = spaces_of(env).action
    tried = _actions(env, 20)
    if not env.discrete:
        tried = [torch.full_like(tried[0], -1.0), torch.full_like(tried[0], 1.0), *tried]
    if isinstance(env, ForeignEnv):
        taken, space = arriving(env, tried)
        if wrong := [a for a in taken if not space.contains(a)]:
            told = f"{np.asarray(wrong[0]).tolist()} ({np.asarray(wrong[0]).dtype})"
            return Row("actions", FAULT, f"the environment is given {told}, it takes {space}")
        bounds = getattr(space, "low", out.low), getattr(space, "high", out.high)
    else:
        taken, bounds = [out.to_native(a.cpu().numpy())[0] for a in tried], (out.low, out.high)
    if env.discrete:
        return Row("actions", FINE, f"one-hot columns become {sorted({int(a) for a in taken})}")
    values = np.array(taken, np.float64)
    played = np.array([values.min(0).ravel(), values.max(0).ravel()])
    text = f"[-1, 1] becomes [{played[0].min():.4g}, {played[1].max():.4g}]"
    ends = np.array([np.ravel(x) for x in bounds], np.float64)
    if np.abs(ends).max() <= LIMIT and not np.allclose(played, ends, rtol=1e-5):
        return Row("actions", LOST, f"{text}, and the environment takes {space}: a wrapper narrows")
    return Row("actions", FINE, text)


def arriving(env: ForeignEnv, tried: list[Tensor]) -> tuple[list[Array], Any]:
    """Return what the innermost environment is given when world 0 plays these rows, its space."""
    *_, inner = layers(env.env)
    if hasattr(inner, "single_action_space"):  # a batch of its own making: its door is as far as
        native = [env.to_native(a.numpy())[0] for a in tried]  # one sees
        return native, inner.single_action_space
    real, taken = inner.step, []

    def step(action: Any) -> Any:
        taken.append(copy.deepcopy(action))
        return real(action)

    inner.step = step
    env.reset()
    for a in tried:
        env.step(a)
    inner.step = real
    return taken, inner.action_space


def finite_and_fast(b: Bench) -> Row:
    """Step for `steps` steps; every observation and reward is finite."""
    env = b.make(3, 0)
    actions = _actions(env, b.steps)
    env.reset()
    start = time.perf_counter()
    for t, a in enumerate(actions, 1):
        r = env.step(a)
        if not bool(torch.isfinite(r.final_obs).all() & torch.isfinite(r.reward).all()):
            return Row("finite values", FAULT, f"not finite at step {t}")
    rate = 3 * len(actions) / (time.perf_counter() - start)
    bad = env.health()["bad_worlds"]
    note = f", {bad} bad worlds" if bad else ""
    return Row("finite values", FINE, f"{b.steps} steps x 3 worlds{note}, {rate:,.0f} steps/s")


def without_end(env: BatchEnv, steps: int, seconds: float = 60.0) -> int | None:
    """Return the steps of uniform actions in which no world's episode ended; None if one did.

    At most `steps` of every world, begun within `seconds` of this process's own time: a busy
    machine does not change the answer. Where worlds are waited for, within ten times as long.
    """
    env.reset()
    until, late, played = time.process_time() + seconds, time.monotonic() + 10 * seconds, 0
    for a in _actions(env, steps):
        if time.process_time() > until or time.monotonic() > late:
            break
        r = env.step(a)
        played += 1
        if bool((r.terminated | r.truncated).any()):
            return None
    return played


def episodes_end(b: Bench) -> Row:
    """Episodes end, by themselves or at the limit that the environment declares."""
    env = b.make(3, 0)
    limit = env.max_episode_steps
    played = without_end(env, b.steps if limit is not None else max(b.steps, PATIENCE))
    if played is None or (limit is not None and played < limit):
        return Row("time limit", FINE, f"{limit:,} steps" if limit else "none; episodes end")
    told = "no limit" if limit is None else f"a limit of {limit:,} steps that does not hold"
    text = f"{told}, and no episode ended within {played:,} steps: learning never sees another "
    return Row("time limit", FAULT, text + "start, and evaluations are cut; set max_episode_steps")


def deterministic(b: Bench) -> Row:
    """Two equal environments return the same for `steps` steps."""
    one, two = b.make(2, 7), b.make(2, 7)
    actions = _actions(one, b.steps)
    bad = _difference(_play(one, actions), _play(two, actions))
    return Row("determinism", FAULT if bad else FINE, bad or f"{b.steps} steps twice")


def seeds_matter(b: Bench) -> Row:
    """reset(seed) returns to the seed's first episode, and another seed to another."""
    env = b.make(2, 0)
    first, again, other = env.reset(seed=3), env.reset(seed=3), env.reset(seed=4)
    if not torch.equal(first, again):
        return Row("seeds", FAULT, "reset(seed=3) twice gave two starts: reset ignores its seed")
    if torch.equal(first, other):
        return Row("seeds", LOST, "every seed starts the same: evaluation sees one start state")
    return Row("seeds", FINE, "the same seed starts the same, another differently")


def worlds_are_independent(b: Bench) -> Row:
    """World 0 does the same alone as among others; in a dream, whatever the others do.

    A network rounds otherwise in a batch of another size.
    """
    many = b.make(3, 11)
    actions = _actions(many, min(b.steps, 300))
    crowd = [tuple(x[:1] for x in row) for row in _play(many, actions)]
    if many.notes["engine"].startswith("dream"):
        other = [torch.cat([a[:1], -a[1:]]) for a in actions]
        again = [tuple(x[:1] for x in row) for row in _play(b.make(3, 11), other)]
        if bad := _difference(crowd, again):
            return Row("independence", FAULT, f"world 0 depends on what worlds 1 and 2 do: {bad}")
        return Row("independence", FINE, "world 0 is the same whatever the others do")
    bad = _difference(crowd, _play(b.make(1, 11), [a[:1] for a in actions]))
    if bad:
        return Row("independence", FAULT, f"world 0 of 3 is not world 0 of 1: {bad}")
    return Row("independence", FINE, "world 0 is the same among 3 and alone")


def nothing_survives_a_reset(b: Bench) -> Row:
    """After reset(seed), a used environment does what a fresh one does."""
    fresh, used = b.make(2, 5), b.make(2, 6)
    actions = _actions(fresh, 60)
    _play(used, _actions(used, 17, seed=1))
    bad = _difference(_play(fresh, actions, 5), _play(used, actions, 5))
    if bad:
        return Row("clean resets", FAULT, f"the episode before shows after reset(seed): {bad}")
    return Row("clean resets", FINE, "used and fresh agree after reset(seed)")


def returned_arrays_are_not_reused(b: Bench) -> Row:
    """What a step returned does not change with the next."""
    name = "fresh arrays"
    if b.single is not None:
        env = b.single().unwrapped
        kept = [env.reset(seed=0)[0]]
        env.action_space.seed(0)
        copies = [_copy(kept[0])]
        for _ in range(5):
            obs, *_ = env.step(env.action_space.sample())
            kept.append(obs)
            copies.append(_copy(obs))
        for t, (x, y) in enumerate(zip(kept, copies, strict=True)):
            if not _same(x, y):
                return Row(name, FAULT, f"the observation of step {t} changed: one array is shared")
    batch = b.make(2, 0)
    rows = _play(batch, _actions(batch, 20))
    held = [tuple(x.clone() for x in row) for row in rows]
    for a in _actions(batch, 5, seed=1):
        batch.step(a)
    bad = _difference(rows, held)
    return Row(name, FAULT if bad else FINE, bad or "what was returned stays as it was")


def state_restores(b: Bench) -> Row:
    """A saved state continues bit for bit, in the same environment and in a fresh one."""
    env = b.make(2, 0)
    if not env.restores:
        return Row("state restore", LOST, "a resumed run restarts this environment at a reset")
    actions = _actions(env, 240)
    _play(env, actions[:40])
    saved = env.state_dict()
    ahead = [tuple(env.step(a)) for a in actions[40:]]
    for other, who in ((env, "itself"), (b.make(2, 9), "a fresh one")):
        other.load_state_dict(saved)
        bad = _difference(ahead, [tuple(other.step(a)) for a in actions[40:]])
        if bad:
            return Row("state restore", FAULT, f"restored into {who}, {bad} after it")
    return Row("state restore", FINE, "continues bit for bit")


def spaces_hold(b: Bench) -> Row:
    """Observations are of the declared dtype, shape and bounds."""
    assert b.single is not None
    env = b.single().unwrapped
    space = env.observation_space
    env.action_space.seed(0)
    obs, _ = env.reset(seed=0)
    for t in range(min(b.steps, 500)):
        found = getattr(obs, "dtype", None)
        if space.dtype is not None and found is not None and found != space.dtype:
            return Row("spaces", FAULT, f"dtype {found} at step {t}, declared {space.dtype}")
        if not space.contains(obs):
            return Row("spaces", FAULT, f"the observation of step {t} is outside {space}")
        obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            obs, _ = env.reset()
    return Row("spaces", FINE, "dtype, shape and bounds as declared")


def doors_agree(b: Bench) -> Row:
    """The batched environment returns what stepping the single one by hand returns."""
    assert b.single is not None
    batch, env = b.make(1, 21), b.single()
    actions = _actions(batch, min(b.steps, 400))
    obs, _ = env.reset(seed=21)
    at = batch.reset()

    def flat(x: Any) -> Array:
        return flatten(spaces_of(batch).observation, x)[None]

    if not np.array_equal(flat(obs), at.numpy()):
        return Row("doors", FAULT, "the first observations differ: one at a time and batched")
    for t, a in enumerate(actions, 1):
        r = batch.step(a)
        if not r.valid[0]:
            continue  # the reset row of NEXT_STEP
        native = spaces_of(batch).action.to_native(a.numpy())[0]
        obs, reward, terminated, truncated, _ = env.step(native)
        same_obs = np.allclose(flat(obs), r.final_obs.numpy(), rtol=1e-4, atol=1e-5)
        if not same_obs:
            end = " (the true last observation is lost)" if terminated or truncated else ""
            return Row("doors", FAULT, f"final_obs differs at step {t}{end}")
        if not np.isclose(float(reward), float(r.reward[0]), rtol=1e-4, atol=1e-5):
            return Row(
                "doors", FAULT, f"reward {reward:.4g} at step {t}, batched {r.reward[0]:.4g}"
            )
        if (bool(terminated), bool(truncated)) != (bool(r.terminated[0]), bool(r.truncated[0])):
            return Row("doors", FAULT, f"ends differ at step {t}")
        if terminated or truncated:
            env.reset()
    return Row("doors", FINE, "batched and one at a time agree")


def limits_are_truncations(b: Bench) -> Row:
    """Episodes that always end at the same step were cut, and should say truncated."""
    assert b.single is not None
    env = b.single()
    env.action_space.seed(0)
    lengths, cuts = [], 0
    for seed in range(5):
        env.reset(seed=seed)
        for t in range(1, b.steps + 1):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                lengths.append(t)
                cuts += bool(truncated)
                break
    if len(lengths) == 5 and len(set(lengths)) == 1 and lengths[0] > 1 and cuts == 0:
        text = f"all 5 random episodes terminated at step {lengths[0]}: a limit? then truncated"
        return Row("ends", FAULT, text)
    return Row("ends", FINE, f"{len(lengths)} of 5 random episodes ended, {cuts} of them truncated")


def pickles(b: Bench) -> Row:
    """The single environment goes through pickle, as AsyncVectorEnv's workers need."""
    assert b.single is not None
    try:
        pickle.loads(pickle.dumps(b.single()))
    except Exception as error:  # an environment may raise anything here
        text = f"{type(error).__name__}: {error}"[:90]
        return Row("pickling", LOST, f"not picklable, so no process pools of it: {text}")
    return Row("pickling", FINE, "goes through pickle")


def _copy(x: Any) -> Any:
    return {k: _copy(v) for k, v in x.items()} if isinstance(x, dict) else np.array(x)


def _same(x: Any, y: Any) -> bool:
    if isinstance(x, dict):
        return all(_same(x[k], y[k]) for k in x)
    return bool(np.array_equal(x, y, equal_nan=True))
