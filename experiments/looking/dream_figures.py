"""A dream beside what really happened: the imagined body as a ghost, and the fan of its masks."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...agents import Holds, Policy, bare
from ...agents.dreams.fan import errors, open_loop, some_masks
from ...envs.api import Array
from ...envs.native.env import TaskEnv
from ...envs.native.render import WorldRenderer
from ..loops.dreaming import judged_store
from ..loops.dreamt import Reopened
from ..studies.plots import save_figure
from .film import write

FAN = 16  # masks of the figure
SHOWN = 9  # observed numbers of it, at most


class Episode(NamedTuple):
    """What really happened in one episode of T steps."""

    states: list[Array]  # T + 1 physics rows
    obs: Tensor  # [T + 1, O]
    action: Tensor  # [T, A]
    total: float


def played(policy: Policy | Holds, env: TaskEnv, steps: int) -> Episode:
    """Play one episode, of at most `steps`."""
    policy, obs = bare(policy), env.reset()
    state, total = policy.initial_state(1), 0.0
    states, seen = [env.physics.get_state()], [obs[0]]
    actions: list[Tensor] = []
    while len(actions) < steps:
        action, state = policy.act(obs, state, explore=False)
        result = env.step(action)
        obs, total = result.obs, total + float(result.reward[0])
        seen.append(result.final_obs[0])
        actions.append(action[0])
        if bool(result.terminated[0] | result.truncated[0]):
            states.append(states[-1])  # the world has begun anew: its last picture stays
            break
        states.append(env.physics.get_state())
    return Episode(states, torch.stack(seen).float(), torch.stack(actions), total)


def imagined(dreams: Reopened, real: Episode, n: int, seed: int = 0) -> Tensor:
    """Return n dreams [n, T + 1, O] of an episode's actions, each under one mask all along."""
    model, config = dreams.world.model, dreams.world.config
    masks = some_masks(model, n, config.p, seed) if config.scope != "none" else ()
    first = real.obs[:1].expand(n, -1)
    actions = real.action[None].expand(n, -1, -1)
    said = open_loop(model, first, actions, masks, clip=config.clip)[..., :-1]
    return torch.cat([first[:, None], said], 1)


def ghosts(env: TaskEnv, real: Episode, dream: Tensor) -> Array:
    """Return the imagined positions [T + 1, nq] of a dream [T + 1, O].

    What observations do not show (x, a heading) is the real body's. Raises ValueError for a task
    whose observations say nothing of its state.
    """
    told = env.task.state_from_obs
    if told is None:
        raise ValueError(f"{env.task.id}: its observations do not say where the body is: no ghost")
    nq = env.model.nq
    qpos = np.concatenate(real.states)[:, 1 : 1 + nq]  # behind the time
    shown, _ = told(np, real.obs.double().numpy(), env.p)
    positions, _ = told(np, dream.double().numpy(), env.p)
    hidden = ~np.isclose(shown, qpos, atol=1e-3).all(0) & (shown == 0).all(0)
    return np.where(hidden, qpos, positions)


def dream_film(env: TaskEnv, real: Episode, dream: Tensor, out: Path) -> int:
    """Write the real body with the imagined one as a ghost over it; return the frames' number."""
    positions, renderer, frames = ghosts(env, real, dream), WorldRenderer(env), []
    for state, ghost in zip(real.states, positions, strict=True):
        env.physics.set_state(state)
        frames.append(renderer.frame(0, ghost))
    renderer.close()
    write(frames, out, env.fps)
    return len(frames)


def dream_fan(dreams: Reopened, real: Episode, out: Path) -> dict[str, float]:
    """Draw each observed number, real against `FAN` dreams; return the model's errors.

    Errors are of one and ten steps, on the episodes that the fit held out, in standard deviations
    of the data.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    model, c = dreams.world.model, dreams.config
    held = judged_store(dreams.store, c.model.held_out)
    wrong = errors(model, held, model.scales.obs_std, c.dream.p)
    fan = imagined(dreams, real, FAN)
    shown = min(fan.shape[2], SHOWN)
    columns = min(shown, 3)
    rows = -(-shown // columns)
    size = (4 * columns, 2.4 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for i, ax in enumerate(axes.flat):
        if i >= shown:
            ax.axis("off")
            continue
        ax.plot(fan[:, :, i].T.numpy(), color="C0", lw=0.6, alpha=0.5)
        ax.plot(real.obs[:, i].numpy(), color="black", lw=1.5)
        ax.set(title=f"observation {i}", xlabel="steps")
    told = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in wrong.items())
    kind: Any = c.model.kind
    figure.suptitle(f"real (black) and {FAN} dreams of the same actions, {kind}\n{told}")
    save_figure(figure, out, dpi=110)
    return wrong
