"""`reverie collect`: datasets from policies, and from what a run has stored."""

import importlib.metadata
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...agents import Holds, Policy, RandomPolicy, bare, reset_where
from ...agents.acting import advance, over
from ...agents.playing import Stopped, evaluate, never
from ...agents.seeding import stream_seed
from ...buffers import Card, Dataset, Transitions
from ...buffers.dataset import join
from ...buffers.formats import save_hdf5
from ...buffers.shards import read_shard
from ...envs import BatchEnv, actions_of, make
from ...envs.contexts import parse_contexts, parse_values
from ..runs import stopping, zoo
from ..runs.config import check, parse, read_config
from ..runs.loading import load_policy
from ..runs.policy import check_named
from .build import context_values, layout_of
from .stored import shards_of

REFERENCE_SEED = 555_000_000  # of the episodes that give a card its references
PACKAGES = ("mujoco", "torch", "numpy", "gymnasium")


def play(
    env: BatchEnv,
    policy: Policy | Holds,
    n: int,
    card: Card,
    *,
    explore: bool = True,
    context: bool = False,
    stop: Callable[[], bool] = never,
) -> Dataset:
    """Play `policy` from a reset until n transitions are there; return them episode by episode.

    Each world gives the same number of steps, as many as n needs; the last episode of a world is
    cut, and says so. The policy may see more columns than the data keeps (a goal): those that
    `card.env_options` hides are dropped. `context`: with the columns of the worlds' context. Raises
    Stopped where `stop`, asked before every step, says so.
    """
    steps = -(-n // env.num_envs)
    layout = layout_of(env, context)
    extra = context_values(env, layout)
    policy, obs = bare(policy), env.reset()
    state = initial = policy.initial_state(env.num_envs)
    played: list[tuple[Transitions, Tensor]] = []
    for _ in range(steps):
        if stop():
            raise Stopped("collecting was told to stop")
        action, state = policy.act(obs, state, explore=explore)
        batch, valid, obs = advance(env, obs, action.to(env.device), extra)
        state = reset_where(over(batch, valid), state, initial)
        played.append((batch, valid))
    grid = layout.unpack(torch.stack([layout.pack(batch) for batch, _ in played]))
    return episodes(grid, torch.stack([valid for _, valid in played]), None, card).head(n)


def episodes(grid: Transitions, valid: Tensor, episode: Tensor | None, card: Card) -> Dataset:
    """Return a grid [T, N] of steps as episodes, world after world; invalid steps cut.

    `episode` [T, N]: numbers that say where an episode ends although no flag does.
    """
    truncated = grid.truncated.clone()
    flagged = grid.ended
    cut = torch.zeros_like(flagged)
    cut[-1] = True
    cut[:-1] |= ~valid[1:]
    if episode is not None:
        cut[:-1] |= episode[1:] != episode[:-1]
    truncated[cut & ~flagged] = 1.0
    keep = valid.T.reshape(-1)
    grid = grid._replace(truncated=truncated)
    return Dataset.of(grid.map(lambda x: x.transpose(0, 1).flatten(0, 1)[keep]), card)


def from_run(run: Path, until: int | None, card: Card) -> Dataset:
    """Return what a run had stored by its checkpoint at step `until` (None: the newest)."""
    method, config = read_config(run)
    folder, shards = shards_of(run, "replay", until)
    if not shards:
        raise ValueError(f"{run} is a run of {method!r}, which keeps no replay buffer")
    contexts = parse_contexts(config.get("context", ()))
    worlds = make(card.env, len(contexts or [1]), context=contexts, **card.env_options)
    layout = layout_of(worlds, config.get("context_columns", False))
    num_envs = config.get("num_envs", 1)
    parts = [read_shard(folder / s.name, num_envs, layout.width) for s in shards]
    rows, episode, invalid = (
        torch.cat([p[k] for p in parts]) for k in ("rows", "episode", "invalid")
    )
    return episodes(layout.unpack(rows), ~invalid, episode, card)


@dataclass(frozen=True)
class CollectOptions:
    """Collect a dataset: policies in equal shares, or what a run has stored."""

    out: Path = Path("data/dataset")
    """file to write, without suffix: .safetensors and .json"""
    env: str | None = None
    """environment; None is the first policy's own"""
    policy: tuple[str, ...] = ("random",)
    """random, zoo:NAME or a run directory; several share the transitions equally"""
    replay: Path | None = None
    """a run directory whose replay buffer is the data, instead of policies"""
    until: int | None = None
    """the checkpoint of `replay` by its step; None is the newest"""
    transitions: int = 100_000
    """transitions to collect"""
    num_envs: int = 10
    """worlds stepped together"""
    seed: int = 0
    """seed of the worlds and of the policies' noise"""
    explore: bool = True
    """act with the policies' exploration noise"""
    context: tuple[str, ...] = ()
    """the context to play in, gravity=4.9: one value for each feature, or context_columns"""
    context_columns: bool = False
    """rows also tell their context: columns context_id and context"""
    reference: str | None = None
    """policy whose mean return is 100 of a score: zoo:NAME or a run; uniform actions are 0"""
    hdf5: bool = False
    """also write OUT.hdf5 in D4RL's layout, with actions in the environment's own units"""
    threads: int | None = None
    """CPU threads of the physics"""
    env_options: Mapping[str, Any] = field(default_factory=dict)
    """options of the task over the policy's own, from Python"""


def open_policy(name: str, env: BatchEnv, seed: int) -> Any:
    """Return the policy of a name that `CollectOptions.policy` takes."""
    if name == "random":
        seed = stream_seed(seed, "random policy")
        return RandomPolicy(env.act_dim, discrete=env.discrete, seed=seed)
    if name.startswith(zoo.PREFIX):
        return zoo.load(name.removeprefix(zoo.PREFIX), seed=seed)
    loaded = load_policy(name)
    inner: Any = getattr(loaded.policy, "agent", loaded.policy)  # a script's own may be an agent
    if hasattr(inner, "acting"):  # its exploration noise is the dataset's, not the run's
        inner.acting.manual_seed(seed)
    return loaded


def _config_of(name: str) -> dict[str, Any]:
    if name == "random":
        return {}
    if name.startswith(zoo.PREFIX):
        return zoo.card(name.removeprefix(zoo.PREFIX))
    return read_config(Path(name))[1]


class Blind:
    """A policy that sees a goal, playing worlds that record none: the columns are added here."""

    def __init__(self, policy: Any, goal: Tensor) -> None:
        self.policy, self.goal = bare(policy), goal

    def initial_state(self, n: int) -> Any:
        """Return the policy's memory."""
        return self.policy.initial_state(n)

    def act(self, obs: Tensor, state: Any = (), *, explore: bool = False) -> Any:
        """Act on the observation with the goal's columns [N, d] put behind it."""
        return self.policy.act(torch.cat([obs, self.goal], 1), state, explore=explore)


def seeing(name: str, policy: Any, env_id: str, env: BatchEnv, kwargs: dict[str, Any]) -> Any:
    """Return the policy as it acts in `env`, given the goal where it was trained to see one."""
    if _config_of(name).get("env_options", {}).get("show_goal"):
        shown = make(env_id, env.num_envs, **{**kwargs, "show_goal": True})
        width, acting = shown.obs_dim, Blind(policy, shown.reset()[:, env.obs_dim :])
    else:
        width, acting = env.obs_dim, policy
    if getattr(policy, "obs_dim", width) != width:
        raise ValueError(
            f"{name} takes observations of {policy.obs_dim} numbers, {env_id} has {width}"
        )
    return acting


def contexts_of(
    o: CollectOptions, config: Mapping[str, Any]
) -> tuple[dict[str, list[float]], bool]:
    """Return the features' values that the data is of, and whether its rows tell them.

    `config`: of the run that is replayed, or of the first policy. ValueError for rows of several
    contexts that do not tell theirs.
    """
    values = parse_values(o.context or tuple(config.get("context", ())))
    stored = o.replay is not None
    told = bool(config.get("context_columns")) if stored else o.context_columns
    if stored and (o.context or o.context_columns > told):
        raise ValueError(
            "--context and --context-columns are of policies: what a run has stored is of its own "
            "contexts, and tells them if the run was given --context-columns"
        )
    if not told and (n := math.prod(map(len, values.values()))) > 1:
        raise ValueError(
            f"a dataset without context columns is of one context, and this would be of {n}: "
            "give --context or --context-columns"
        )
    return values, told


def collect_dataset(options: CollectOptions, stop: Callable[[], bool] = never) -> Dataset:
    """Collect what the options say; return the dataset, not yet written. Stopped as `play`."""
    o = check(options)
    sources = [str(o.replay)] if o.replay is not None else list(o.policy)
    if not 1 <= len(sources) <= o.transitions:
        raise ValueError(
            f"{o.transitions} transitions of {len(sources)} policies: give --policy, and one "
            "transition at least for each of them"
        )
    if not o.out.name:
        raise ValueError(f"--out {str(o.out)!r} names no file: give data/NAME")
    own = next((c["env"] for c in map(_config_of, sources) if c), None)
    env_id = o.env or own
    if env_id is None:
        raise ValueError("uniform actions play in no environment of their own: give --env")
    check_named(env_id, o.env)
    if o.reference == "random":
        raise ValueError("--reference random: uniform actions are 0 of a score already")
    first: dict[str, Any] = next((c for c in map(_config_of, sources) if c), {})
    contexts, told = contexts_of(o, first)
    own_options = {k: v for k, v in first.get("env_options", {}).items() if k != "show_goal"}
    task: dict[str, Any] = {**own_options, **o.env_options}
    kwargs: dict[str, Any] = {**task, "context": contexts or None, "threads": o.threads}
    card = Card(
        env=env_id,
        policy=" + ".join(s if o.replay is None else f"replay of {Path(s).name}" for s in sources),
        context={k: v[0] if len(v) == 1 else v for k, v in contexts.items()},
        env_options={k: v for k, v in task.items() if k != "max_episode_steps"},
        seed=o.seed,
        versions={p: importlib.metadata.version(p) for p in PACKAGES},
    )
    env = make(env_id, o.num_envs, seed=stream_seed(o.seed, "collect"), **kwargs)
    card = replace(card, max_episode_steps=env.max_episode_steps)
    low, high = (reference(name, env_id, env, kwargs, stop) for name in ("random", o.reference))
    card = replace(card, random_return=low, reference_return=high)
    if o.replay is not None:
        return from_run(o.replay, o.until, card)
    parts, share = [], o.transitions // len(sources)
    for i, name in enumerate(sources):
        n = o.transitions - share * (len(sources) - 1) if i == 0 else share
        env = make(env_id, o.num_envs, seed=stream_seed(o.seed, f"collect {i}"), **kwargs)
        policy = open_policy(name, env, stream_seed(o.seed, f"policy {i}"))
        acting = seeing(name, policy, env_id, env, kwargs)
        parts.append(play(env, acting, n, card, explore=o.explore, context=told, stop=stop))
    return join(parts, card)


def reference(
    name: str | None,
    env_id: str,
    env: BatchEnv,
    kwargs: dict[str, Any],
    stop: Callable[[], bool] = never,
) -> float | None:
    """Return a policy's mean return over 20 episodes of its mode, None for no policy."""
    if name is None:
        return None
    judge = make(env_id, 20, **kwargs)
    policy = seeing(name, open_policy(name, env, 0), env_id, judge, kwargs)
    return evaluate(policy, judge, seed=REFERENCE_SEED, stop=stop).mean


def main(args: Sequence[str]) -> int:
    """Collect, write, and print the card's main numbers."""
    options = parse(CollectOptions, args, "collect")
    with stopping.stop_on_signals():
        data = collect_dataset(options, stopping.asked)
        card = data.save(options.out)
        if options.hdf5:
            own = actions_of(card.env, **card.env_options)  # D4RL's readers expect native units
            if not own.n and not own.whole:
                own = replace(own, dtype="float64")  # from which every bit comes back
            save_hdf5(data, options.out.with_name(options.out.name + ".hdf5"), own)
    returns = data.returns()
    print(
        f"{options.out}: {len(data):,} transitions in {len(returns)} episodes of {card.policy}; "
        f"return {returns.mean():.1f} ({returns.min():.1f} to {returns.max():.1f}); "
        f"sha256 {card.sha256[:12]}"
    )
    return 0
