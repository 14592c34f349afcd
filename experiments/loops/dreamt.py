"""`dream:RUN`: the dreams of a run of `reverie dreamland`, as worlds and as rows."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...agents import Policy
from ...agents.acting import advance
from ...agents.dreams.env import DreamEnv
from ...agents.dreams.starts import anywhere
from ...agents.seeding import stream_seed
from ...buffers import Card, Dataset, Layout, ReplayBuffer, Transitions, shards
from ...envs import BatchEnv, spaces_of
from ...envs.contexts import parse_values
from .. import methods
from ..runs import checkpoint
from ..runs.config import from_dict, read_config
from ..runs.policy import check_named
from ..runs.policy import world as real_worlds
from .collecting import episodes
from .deploying import deployed, policy_of, store_for
from .dreaming import World, rule_of

KIND = "dreamland"
BRANCH = 5  # steps of a dream that begins at a real step, at most (MBPO's branched rollouts)
ROWS, TOGETHER = 100_000, 1000  # dreamt rows of --data dream:RUN, and dreams at a time


class Reopened(NamedTuple):
    """What a run has of its dreams."""

    config: Any
    real: BatchEnv  # one world, or one of each context
    world: World
    store: ReplayBuffer  # real steps; empty unless they were asked for
    policy: Policy  # that is deployed, on what a dream shows


def reopen(run: Path, env: str | None = None, *, rows: bool = False) -> Reopened:
    """Return the world of a run's newest checkpoint, with its real rows if asked for.

    `env`: what the user names, in which a model fitted on another task is refused. Raises
    ValueError for it, for a run that does not dream (yet), and for one that names a module.
    """
    method, values = read_config(run)
    if method != KIND:
        raise ValueError(f"{run} is a run of {method!r}: only reverie {KIND} has dreams")
    own = str(values.get("env"))
    if env is not None and env != own:
        raise ValueError(f"the model of {run} was fitted on {own}: it dreams of no other, {env}")
    check_named(own, env)
    c: Any = from_dict(methods.known_script(method).Config, values)
    found = checkpoint.load(run / "checkpoints", run / "buffer", stores=rows)
    if found is None or not found.state["env"]["world"]["rounds"]:
        raise ValueError(f"{run} has fitted no model yet: nothing is dreamt there")
    real = real_worlds(values, 1)
    ends = rule_of(real, c.dream)
    world = World(real.obs_dim, real.act_dim, c.model, c.dream, ends=ends, seed=c.seed)
    world.load_state_dict(found.state["env"]["world"])
    store = store_for(c, real)
    if rows:
        kept = found.state["stores"]["real"]
        folder = run / "buffer" / "real"
        shards.read_rows(store, folder, found.stores["real"], int(kept["total"]))
        store.load_state_dict(kept)
    snapshot = deployed(found.state["more"]["chosen"], c.select)
    width = real.obs_dim + world.features
    return Reopened(c, real, world, store, policy_of(c, [snapshot], width, real.act_dim))


def open_dream(
    run: str,
    num_envs: int = 1,
    *,
    seed: int = 0,
    streams: Sequence[int] | None = None,
    max_episode_steps: int | None = None,
    env: str | None = None,
) -> DreamEnv:
    """Return the dreams of a run as worlds; `max_episode_steps`: their horizon. As `reopen`."""
    r = reopen(Path(run), env)
    if max_episode_steps is not None:
        if not max_episode_steps:
            raise ValueError("a dream has no end of its own: max_episode_steps=0 is not for it")
        r.world.config = replace(r.world.config, horizon=max_episode_steps)
    dreams = r.world.dream(num_envs, seed, streams)
    if not r.world.features:
        dreams.spaces = spaces_of(r.real)
    return dreams


def dreamt_rows(run: str, env: str | None = None, *, seed: int = 0) -> Dataset:
    """Return rows of dreams that begin at real steps of a run and follow its controller.

    Each is at most `BRANCH` steps long, or the run's own `dream.horizon` if that is less.
    """
    r = reopen(Path(run), env, rows=True)
    c, own = r.config, r.world.config.horizon
    r.world.config = replace(r.world.config, horizon=min(own or BRANCH, BRANCH))
    r.store.generator.manual_seed(stream_seed(seed, "branches"))
    r.world.starts = anywhere(r.store, r.world.model, ROWS, c.model.burn_in)
    dreams = r.world.dream(TOGETHER, seed)
    obs, steps = dreams.reset(), []
    noise = torch.Generator().manual_seed(stream_seed(seed, "branches' noise"))
    for _ in range(ROWS // TOGETHER):
        action, _ = r.policy.act(obs, ())
        draw = torch.randn(action.shape, generator=noise)
        action = (action + c.collect_noise * draw).clamp(-1, 1)
        batch, valid, obs = advance(dreams, obs, action)
        o = r.world.obs_dim  # without the features beside it
        steps.append((batch._replace(obs=batch.obs[:, :o], next_obs=batch.next_obs[:, :o]), valid))
    layout = Layout(r.world.obs_dim, r.world.act_dim)
    grid: Transitions = layout.unpack(torch.stack([layout.pack(batch) for batch, _ in steps]))
    values = parse_values(tuple(c.context))
    card = Card(
        env=c.env,
        policy=f"dreams of {Path(run).name}, at most {dreams.max_episode_steps} steps from reality",
        context={k: v[0] if len(v) == 1 else v for k, v in values.items()},
        env_options={k: v for k, v in c.env_options.items() if k != "max_episode_steps"},
        max_episode_steps=r.real.max_episode_steps,
    )
    data = episodes(grid, torch.stack([valid for _, valid in steps]), None, card)
    return Dataset(data.layout, data.rows, card, seed=seed)
