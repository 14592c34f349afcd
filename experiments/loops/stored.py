"""What a run has stored: its replay, its synthetic rows."""

from pathlib import Path

import torch

from ...buffers import Card, Dataset, Layout
from ...buffers.shards import Shard, read_shard, verify
from ...buffers.untrusted import READING, told
from ...envs import make
from ...envs.contexts import parse_contexts, parse_values
from ..runs import checkpoint
from ..runs.config import read_config
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


def synthetic(run: str, env: str | None = None, *, seed: int = 0) -> Dataset:
    """Return the rows that a run of `reverie synther` made last; each is an episode of its own.

    `env`: what the user names; ValueError where only the run names a module to import.
    """
    method, config = read_config(Path(run))
    folder, shards = shards_of(Path(run), "synthetic")
    if not shards:
        raise ValueError(f"{run}, a run of {method!r}, holds no synthetic rows (yet)")
    try:
        env_id, options, capacity = config["env"], config["env_options"], int(config["synthetic"])
        check_named(env_id, env)
        values = parse_values(context := tuple(config["context"]))
        worlds = make(env_id, 1, context=parse_contexts(context), **options)
        layout = Layout(worlds.obs_dim, worlds.act_dim)
        parts = [read_shard(folder / s.name, 1, layout.width)["rows"] for s in shards]
    except READING as error:
        raise ValueError(
            f"{run} does not say what its synthetic rows are: {told(error)}"
        ) from error
    rows = torch.cat(parts)[-capacity:, 0].clone()  # the ring holds no more
    flags = layout.unpack(rows)
    flags.truncated.copy_(1 - flags.terminated)
    card = Card(
        env=env_id,
        policy=f"synthetic rows of {Path(run).name}",
        context={k: v[0] if len(v) == 1 else v for k, v in values.items()},
        env_options={k: v for k, v in options.items() if k != "max_episode_steps"},
        max_episode_steps=worlds.max_episode_steps,
    )
    return Dataset(layout, rows, card, seed=seed)
