"""What a run has stored: its replay, its synthetic rows and the generator of these."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...agents.synther.codec import rules_of
from ...agents.synther.config import DiffusionConfig
from ...agents.synther.diffusion import Diffusion
from ...buffers import Card, Dataset, Layout
from ...buffers.shards import Shard, read_shard, verify
from ...buffers.untrusted import READING, told
from ...envs import BatchEnv, make
from ...envs.contexts import parse_contexts, parse_values
from ..runs import checkpoint
from ..runs.config import from_dict, read_config
from ..runs.policy import check_named


def shards_of(run: Path, store: str, until: int | None = None) -> tuple[Path, list[Shard]]:
    """Return the folder of a run's store, and its shards at step `until` (None: the newest).

    There are none where the run keeps no such store. Raises FileNotFoundError without a checkpoint,
    ValueError where it or a shard is damaged.
    """
    points = checkpoint.list_checkpoints(run / "checkpoints")
    steps = {checkpoint.step_of(p): p for p in points}
    if until is not None and until not in steps:
        raise FileNotFoundError(f"{run} has no checkpoint at {until}; it has {sorted(steps)}")
    if not points:
        raise FileNotFoundError(f"{run} has no checkpoint")
    point = steps[until] if until is not None else points[-1]
    if problem := checkpoint.problem(point, run / "buffer"):
        raise ValueError(f"{point} cannot be used: {problem}")
    shards = checkpoint.manifest_stores(point).get(store, [])
    folder = run / "buffer" / store
    if problem := verify(folder, shards):
        raise ValueError(f"{problem}: the {store} of {run} is damaged")
    return folder, shards


class Kind(NamedTuple):
    """What a run's synthetic rows are: of which task, and how they lie."""

    worlds: BatchEnv
    layout: Layout
    card: Card
    capacity: int


def kind_of(run: str, env: str | None = None) -> Kind:
    """Return what a run's synthetic rows are.

    `env`: what the user names; ValueError where only the run names a module to import.
    """
    _, config = read_config(Path(run))
    try:
        env_id, options, capacity = config["env"], config["env_options"], int(config["synthetic"])
        check_named(env_id, env)
        values = parse_values(context := tuple(config["context"]))
        worlds = make(env_id, 1, context=parse_contexts(context), **options)
    except READING as error:
        raise ValueError(
            f"{run} does not say what its synthetic rows are: {told(error)}"
        ) from error
    card = Card(
        env=env_id,
        policy=f"synthetic rows of {Path(run).name}",
        context={k: v[0] if len(v) == 1 else v for k, v in values.items()},
        env_options={k: v for k, v in options.items() if k != "max_episode_steps"},
        max_episode_steps=worlds.max_episode_steps,
    )
    return Kind(worlds, Layout(worlds.obs_dim, worlds.act_dim), card, capacity)


def synthetic(run: str, env: str | None = None, *, seed: int = 0) -> Dataset:
    """Return the rows that a run of `reverie synther` made last; each is an episode of its own.

    `env` and errors as `kind_of`.
    """
    method, _ = read_config(Path(run))
    folder, shards = shards_of(Path(run), "synthetic")
    if not shards:
        raise ValueError(f"{run}, a run of {method!r}, holds no synthetic rows (yet)")
    kind = kind_of(run, env)
    try:
        parts = [read_shard(folder / s.name, 1, kind.layout.width)["rows"] for s in shards]
    except READING as error:
        raise ValueError(
            f"{run} does not say what its synthetic rows are: {told(error)}"
        ) from error
    rows = torch.cat(parts)[-kind.capacity :, 0].clone()  # the ring holds no more
    flags = kind.layout.unpack(rows)
    flags.truncated.copy_(1 - flags.terminated)
    return Dataset(kind.layout, rows, kind.card, seed=seed)


def generator(
    run: str, env: str | None = None, sampler: Mapping[str, Any] | None = None
) -> Diffusion | None:
    """Return the generator of a run's newest checkpoint, None for one that was never fit.

    `sampler`: settings of the generator in place of the run's, that only sampling asks for. `env`
    and errors as `kind_of`; FileNotFoundError without a checkpoint.
    """
    method, config = read_config(Path(run))
    if "diffusion" not in config:
        raise ValueError(f"{run} is a run of {method!r}, which has no generator of rows")
    found = checkpoint.load(Path(run) / "checkpoints", Path(run) / "buffer", stores=False)
    if found is None:
        raise FileNotFoundError(f"{run} has no usable checkpoint yet")
    kind = kind_of(run, env)
    settings = replace(from_dict(DiffusionConfig, config["diffusion"]), **(sampler or {}))
    settings.check()
    try:
        state = found.state["more"]["diffusion"]
        model = Diffusion(kind.layout, settings, rules=rules_of(kind.worlds))
        if len(state["codec"]["mean"]) != model.codec.dim:  # offline, judged in other worlds
            model = Diffusion(kind.layout, settings)
        model.load_state_dict(state)
    except READING as error:
        raise ValueError(f"{run} does not hold a readable generator: {told(error)}") from error
    return model if model.fits else None
