"""What the simulator says of generated rows: put into their states, it takes their actions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...buffers import Layout
from ...envs import BatchEnv

Floats = NDArray[np.float64]


def dynamics_error(
    env: BatchEnv, made: Tensor, real: Tensor, layout: Layout
) -> tuple[dict[str, float], list[str]]:
    """Return errors of generated and of real rows against the simulator, and notes on them.

    The error of a row is the root mean square over next_obs of its difference to the simulator's,
    in units of the real rows' standard deviation; that of the reward likewise. Real rows show what
    an observation does not say. Empty, with a note, where observations do not give the state.
    `env`: worlds of one context on the native engine; they are left somewhere.
    """
    task = getattr(env, "task", None)
    if task is None or task.state_from_obs is None or getattr(env, "xp", None) is not np:
        name = getattr(task, "id", type(env).__name__)
        return {}, [f"{name}: the state is not in an observation, so its dynamics are not checked"]
    if bool((env.context != env.context[0]).any()):
        return {}, [f"{task.id}: rows of several contexts, so their dynamics are not checked"]
    out, notes = {}, []
    scale = layout.unpack(real).next_obs.double().numpy().std(0)
    spread = float(layout.unpack(real).reward.double().std())
    columns = shown(env, real, layout) & (scale > 0)
    for name, rows in (("", made), ("_real", real)):
        then, paid, told, bad = simulate(env, rows, layout)
        batch = layout.unpack(rows)
        use = told & ~bad
        gap = (then - batch.next_obs.double().numpy())[:, columns] / scale[columns]
        each = np.sqrt(np.square(gap).mean(1))[use]
        out[f"dynamics{name}"] = float(np.sqrt(np.square(each).mean())) if len(each) else np.nan
        out[f"dynamics_median{name}"] = float(np.median(each)) if len(each) else np.nan
        wrong = np.square(paid - batch.reward.double().numpy())[use]
        if spread and len(wrong):
            out[f"reward_error{name}"] = float(np.sqrt(wrong.mean())) / spread
        out[f"dynamics_rows{name}"] = int(use.sum())
        if bad.any():
            notes.append(f"{int(bad.sum())} of {len(rows)} rows{name} broke the simulator")
    if task.hides:
        notes.append(f"{task.id} does not show {', '.join(task.hides)}: see the real rows' error")
    if hidden := int((~columns).sum()):
        notes.append(f"{hidden} columns of next_obs are no state, or never change: left out")
    return out, notes


def simulate(
    env: Any, rows: Tensor, layout: Layout
) -> tuple[Floats, Floats, NDArray[np.bool_], NDArray[np.bool_]]:
    """Return next_obs [n, O], reward [n], which rows tell their state, and which broke it [n]."""
    batch = layout.unpack(rows)
    obs, action = batch.obs.double().numpy(), batch.action.double().numpy()
    task, n, worlds = env.task, len(rows), env.num_envs
    parts = []
    for at in range(0, n, worlds):
        pick = np.minimum(np.arange(at, at + worlds), n - 1)  # the last one fills the worlds
        put(env, obs[pick])
        then, reward, _, _, bad = env.advance(env.to_native(action[pick]))
        parts.append([x[: n - at].copy() for x in (then, reward, bad)])
    then, reward, bad = (np.concatenate(x) for x in zip(*parts, strict=True))
    told = np.ones(n, bool)
    if task.saturated is not None:
        told = ~np.asarray(task.saturated(np, obs, env.p), bool)
    return then, reward, told, bad.astype(bool)


def put(env: Any, obs: Floats) -> None:
    """Put an environment's worlds into the states of observations [N, O]."""
    env.physics.reset(None, *env.task.state_from_obs(np, obs, env.p))


def shown(env: Any, real: Tensor, layout: Layout) -> NDArray[np.bool_]:
    """Return the columns [O] of an observation that its state gives: contact forces are not."""
    obs, n = layout.unpack(real).obs.double().numpy(), len(real)
    told = np.ones(n, bool)
    if env.task.saturated is not None:
        told = ~np.asarray(env.task.saturated(np, obs, env.p), bool)
    out = np.ones(layout.obs_dim, bool)
    for at in range(0, n, env.num_envs):
        pick = np.minimum(np.arange(at, at + env.num_envs), n - 1)
        put(env, obs[pick])
        again = env.task.observe(np, env.physics.fields, env.p)
        out &= np.isclose(again, obs[pick], atol=1e-4, rtol=1e-4)[told[pick]].all(0)
    return out
