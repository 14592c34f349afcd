"""Whether contexts are real: they change the physics as they say, and every one can be played."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import mujoco
import numpy as np
import torch

from .api import Array
from .contexts import FEATURES, Contexts, default
from .errors import unknown
from .make import PREFIX, make
from .tasks import TASKS

STEPS = 50  # in which twice the value must show
LEAST = 1e-6  # by how much


class Finding(NamedTuple):
    """What one test of one feature says."""

    feature: str
    test: str
    holds: bool
    detail: str


class Played(NamedTuple):
    """What uniform actions did in a few worlds, until the first episode ended."""

    qpos: Array  # [T, N, Q]
    reward: Array  # [T, N]


def reality(
    env_id: str, contexts: Contexts, options: Mapping[str, Any] | None = None
) -> list[Finding]:
    """Return the findings for each feature of these contexts, and for all contexts together.

    For each feature: twice the default value (1 where that is 0) diverges from it, the default
    itself changes no bit, and the worlds step as the changed model does alone. For all: no episode
    ends at its first step without an action.
    """
    own = dict(options or {})
    findings = []
    for name in contexts.names:
        usual = _default(env_id, name, own)
        other = 2 * usual if usual else 1.0
        plain, same, twice = (
            _play(env_id, context, own) for context in (None, {name: [usual]}, {name: [other]})
        )
        far = _distance(plain, twice)
        say = f"{name}={other:g} against {usual:g}: {far:.1e} apart within {STEPS} steps"
        findings.append(Finding(name, "changes the task", far > LEAST, say))
        equal = all(np.array_equal(a, b) for a, b in zip(plain, same, strict=True))
        say = f"{name}={usual:g} {'is' if equal else 'is not'} the task itself, bit for bit"
        findings.append(Finding(name, "default is the default", equal, say))
        off = _off_model(env_id, {name: [other]}, own)
        say = f"{name}={other:g}: {off:.1e} from the model stepped alone"
        findings.append(Finding(name, "steps as its model", off == 0, say))
    return [*findings, _survives(env_id, contexts, own)]


def require_real(
    env_id: str, contexts: Contexts, options: Mapping[str, Any] | None = None
) -> list[Finding]:
    """Return the findings; ValueError, naming what does not hold, where one does not."""
    findings = reality(env_id, contexts, options)
    if wrong := [f for f in findings if not f.holds]:
        told = "; ".join(f"{f.feature}: {f.test} does not hold ({f.detail})" for f in wrong)
        raise ValueError(f"contexts of {env_id} are not what they say: {told}")
    return findings


def _default(env_id: str, name: str, options: Mapping[str, Any]) -> float:
    """Return the value of a feature that leaves the task as it is."""
    env: Any = make(env_id, 1, threads=1, **options)
    if name.partition(":")[0] in FEATURES:
        return default(env.model, name)
    task = TASKS[env_id.removeprefix(PREFIX)]
    if name not in task.contexts:
        raise unknown(f"context of {task.id}", name, [*FEATURES, *task.contexts])
    return float(getattr(env.p, name))


def _actions(env: Any) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return 2 * torch.rand(STEPS, env.num_envs, env.act_dim, generator=draw) - 1


def _play(env_id: str, context: Any, options: Mapping[str, Any]) -> Played:
    env: Any = make(env_id, 4, context=context, threads=1, seed=1, **options)
    env.reset(1)
    qpos, rewards = [env.physics.fields.qpos.copy()], [np.zeros(4)]
    for action in _actions(env):
        r = env.step(action)
        rewards.append(r.reward.numpy())
        if bool((r.terminated | r.truncated).any()):
            break  # what follows is another episode
        qpos.append(env.physics.fields.qpos.copy())
    return Played(np.array(qpos), np.array(rewards))


def _distance(a: Played, b: Played) -> float:
    """Return by how much positions or rewards differ at most, while both episodes last."""
    far = 0.0
    for x, y in zip(a, b, strict=True):
        n = min(len(x), len(y))
        far = max(far, float(np.abs(x[:n] - y[:n]).max()))
    return far


def _off_model(env_id: str, context: Any, options: Mapping[str, Any]) -> float:
    """Return how far the worlds are from `mj_step` of their model, while the episode lasts."""
    env: Any = make(env_id, 1, context=context, threads=1, seed=1, **options)
    env.reset(1)
    model, fields = env.worlds.models[0], env.physics.fields
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = fields.qpos[0], fields.qvel[0]
    mujoco.mj_forward(model, data)
    far = 0.0
    for action in _actions(env):
        data.ctrl[:] = env.to_native(action.numpy())[0]
        mujoco.mj_step(model, data, env.p.frame_skip)
        r = env.step(action)
        if bool((r.terminated | r.truncated).any()):
            break
        far = max(far, float(np.abs(fields.qpos[0] - data.qpos).max()))
    return far


def _survives(env_id: str, contexts: Contexts, options: Mapping[str, Any]) -> Finding:
    """Return whether the first step without an action ends no episode, in every context."""
    env = make(env_id, len(contexts), context=contexts, threads=1, **options)
    env.reset(1)
    r = env.step(torch.zeros(env.num_envs, env.act_dim))
    ended = contexts.table[(r.terminated | ~r.valid).numpy()]
    say = f"{len(ended)} of {len(contexts)} contexts end at their first step: {ended[:5].tolist()}"
    return Finding(", ".join(contexts.names), "survives without an action", not len(ended), say)
