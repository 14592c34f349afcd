"""Generated rows, and the real ones that they are judged by: seen by their fit, and not seen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...agents.synther.diffusion import Diffusion
from ...buffers import Card, Dataset, Layout
from ...buffers.transitions import NEXT_KNOWN
from ..loops.collecting import from_run
from ..loops.sources import open_dataset, open_datasets, parse_data
from ..loops.stored import generator, kind_of, shards_of, synthetic
from ..runs.config import read_config
from ..runs.policy import check_named

LEAST = 20  # rows of each kind below which no measure says anything
PREFIX = "dataset:"


class Made(NamedTuple):
    """Generated rows [n, width]. Of a run also the real rows that it learned from, and others."""

    name: str
    rows: Tensor
    layout: Layout
    card: Card
    model: Diffusion | None = None  # that made them
    learned: Tensor | None = None
    held: Tensor | None = None


class Real(NamedTuple):
    """Real rows [n, width] that the fit saw, and others; why they are others, and how many not."""

    train: Tensor
    fresh: Tensor
    how: str
    seen: int


def made_by(
    name: str,
    n: int,
    *,
    anew: bool = False,
    sampler: Mapping[str, Any] | None = None,
    env: str | None = None,
    seed: int = 0,
) -> Made:
    """Return n of the rows of `dataset:PATH` or of a run, or all where there are fewer.

    `anew`: the run's generator makes them, its `sampler` with other settings; else they are those
    that it stored. Errors as `generator` and `synthetic`.
    """
    if name.startswith(PREFIX):
        if anew:
            raise ValueError(f"{name} is data and has no generator: leave --sample out")
        data = real_of(name, env)
        layout, rows = plain(data)
        return Made(name, some(rows, n, seed), layout, data.card)
    learned, held = None, None
    if anew:
        model = generator(name, env, sampler)
        if model is None:
            raise ValueError(f"the generator of {name} was never fit: leave --sample out")
        model.generator.manual_seed(seed)
        kind = kind_of(name, env)
        rows, layout, card = model.generate(n), kind.layout, kind.card
    else:
        data = synthetic(name, env)
        layout, rows = plain(data)
        rows, card = some(rows, n, seed), data.card
        model = generator(name, env) if read_config(Path(name))[1]["rows"] == "diffusion" else None
    _, own = plain(real_of(name, env))
    out = torch.zeros(len(own), dtype=torch.bool) if model is None else model.held(own)
    learned, held = own[~out], own[out]
    return Made(name, rows, layout, card, model, learned, held)


def real_of(name: str, env: str | None = None) -> Dataset:
    """Return the rows of `dataset:PATH`, or a run's real ones: its replay, or the data it knew."""
    if name.startswith(PREFIX):
        return open_dataset(name.removeprefix(PREFIX), 0, env)
    run = Path(name)
    method, config = read_config(run)
    if shards_of(run, "replay")[1]:
        check_named(config["env"], env)
        options = {k: v for k, v in config["env_options"].items() if k != "max_episode_steps"}
        return from_run(run, None, Card(config["env"], env_options=options))
    parts = [p for p in parse_data(config.get("data") or ()) if p.path is not None]
    if not parts:
        raise ValueError(f"{run}, a run of {method!r}, keeps no real rows: give dataset:PATH")
    data = open_datasets(parts, config["seed"], env)
    if config.get("fraction", 1) < 1:
        data = [d.share(config["fraction"], seed=config["seed"]) for d in data]
    return Dataset(data[0].layout, torch.cat([d.rows for d in data]), data[0].card)


def plain(data: Dataset) -> tuple[Layout, Tensor]:
    """Return rows without their extra columns, those left out whose successor is not known."""
    layout, rows = Layout(data.layout.obs_dim, data.layout.act_dim), data.rows
    if NEXT_KNOWN in data.layout.extra:
        rows = rows[rows[:, data.layout.slices[NEXT_KNOWN]] > 0]
    return layout, rows[:, : layout.width]


def some(rows: Tensor, n: int, seed: int) -> Tensor:
    """Return n of the rows, drawn at random without replacement; all where there are no more."""
    draws = torch.Generator().manual_seed(seed)
    return rows[torch.randperm(len(rows), generator=draws)[:n]]


def beside(
    made: Made,
    data: Sequence[str],
    fresh: Sequence[str],
    held_out: float,
    env: str | None = None,
) -> Real:
    """Return the real rows that generated ones are judged by.

    `data`: those that the fit saw; none are the run's own. Those that it did not see are `fresh`,
    or the last `held_out` of `data`, or what the run's fit held out. Raises ValueError where
    nothing says which they are, for rows of other widths, and for too few.
    """
    if fresh and held_out:
        raise ValueError("--fresh and --held-out both say which rows no fit saw: give one of them")
    if not data and made.learned is None:
        raise ValueError(f"{made.name} does not say what it was made from: give --data")
    given, named = (_joined(names, made, env) for names in (data, fresh))
    if not data:
        given = torch.cat([x for x in (made.learned, made.held) if x is not None])
    if fresh:
        train = given if data or made.learned is None else made.learned
        out, how = named, f"of {' '.join(fresh)}"
    elif held_out:
        k = round(held_out * len(given))
        train, out = given[: len(given) - k], given[len(given) - k :]
        how = f"the last {held_out:g} of {' '.join(data) or made.name}, as --held-out says"
    elif not data and made.learned is not None and made.held is not None and len(made.held):
        train, out, how = made.learned, made.held, "held out by the fit itself"
    else:
        raise ValueError(
            f"nothing says which real rows the fit of {made.name} did not see: give others, "
            "--fresh dataset:PATH, or the share at the end of --data that it never had, "
            "--held-out 0.1"
        )
    for rows, what in ((made.rows, "generated"), (train, "real"), (out, "real and unseen")):
        if len(rows) < LEAST:
            raise ValueError(f"{len(rows)} {what} rows are too few: give {LEAST} at least")
    return Real(train, out, how, common(out, train if made.learned is None else made.learned))


def _joined(names: Sequence[str], made: Made, env: str | None) -> Tensor:
    """Return the rows of several names, which are like the generated ones."""
    parts = [torch.zeros(0, made.layout.width)]
    for name in names:
        layout, rows = plain(real_of(name, env))
        if layout != made.layout:
            raise ValueError(
                f"{name} has rows of obs {layout.obs_dim} and action {layout.act_dim}, {made.name} "
                f"of {made.layout.obs_dim} and {made.layout.act_dim}: give rows of one task"
            )
        parts.append(rows)
    return torch.cat(parts)


def common(rows: Tensor, among: Tensor) -> int:
    """Return how many packed rows are, bit for bit up to their flags, among others."""
    known = {row.tobytes() for row in among[:, :-2].numpy()}
    return sum(row.tobytes() in known for row in rows[:, :-2].numpy())
