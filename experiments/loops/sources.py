"""What `--data` says: sources by name, with shares."""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...agents.seeding import stream_seed
from ...buffers import Card, Dataset, ReplayBuffer, Source, load_dataset, mix
from ...buffers.dataset import rows_digest
from ...buffers.formats import Actions, load_hdf5, load_minari
from ...envs import actions_of, describe, make
from ..runs.directory import Directory
from .stored import synthetic


@dataclass(frozen=True)
class Part:
    """One part of the data, with its share of a batch: `replay`, without a path, or a dataset.

    `synther:RUN` is the path of a run's synthetic rows, `dream:RUN` of rows dreamt in its model
    (`Branches` where there is a replay, else `dreamt_rows`), `minari:ID` of Minari's data.
    """

    path: str | None
    share: float

    @property
    def dreamt(self) -> bool:
        """Whether its rows are dreamt: where there is a replay, anew for each batch."""
        return self.path is not None and self.path.startswith("dream:")


def parse_data(texts: Sequence[str]) -> list[Part]:
    """Read `replay:0.5 dataset:PATH:0.5`; the share may be left out and is 1 then."""
    parts = []
    for text in texts:
        kind, _, rest = text.partition(":")
        head, _, tail = rest.rpartition(":")
        share, place = 1.0, rest
        with suppress(ValueError):
            share, place = float(tail), head
        if not 0 < share <= 1e9:
            raise ValueError(f"--data {text!r}: a share is a number above 0, got {share}")
        if kind == "replay" and not place:
            parts.append(Part(None, share))
        elif kind == "dataset" and Path(place).name:
            parts.append(Part(place, share))
        elif kind in ("synther", "dream") and Path(place).name:
            parts.append(Part(f"{kind}:{place}", share))
        else:
            raise ValueError(
                f"--data {text!r}: give replay, dataset:PATH, synther:RUN or dream:RUN, each with "
                "a share behind it or none: dataset:PATH:0.5"
            )
    return parts


# What a card may not set of `make`: the worlds are the run's.
OWN = set(inspect.signature(make).parameters) - {"options", "backend", "rng", "max_episode_steps"}


def open_dataset(
    path: str, seed: int, env: str | None = None, options: Mapping[str, Any] | None = None
) -> Dataset:
    """Read a dataset of ours, an HDF5 file in D4RL's layout, or `minari:ID`.

    `env` and its `options`: what the user names, whose action bounds count; None is the card's.
    Raises ValueError for a card that would import a module that nobody named.
    """

    def actions(card: Card) -> Actions:
        check_card(card, env)
        return actions_of(env or card.env, **{**card.env_options, **(options or {})})

    if path.startswith("synther:"):
        return synthetic(path.removeprefix("synther:"), env, seed=seed)
    if path.startswith("dream:"):
        from .dreamt import dreamt_rows  # most runs have no use for all of it

        return dreamt_rows(path.removeprefix("dream:"), env, seed=seed)
    if path.startswith("minari:"):
        data = load_minari(path.removeprefix("minari:"), describe, seed=seed)
    elif Path(path).suffix in (".hdf5", ".h5"):
        data = load_hdf5(path, env, actions=actions, seed=seed)
    else:
        data = load_dataset(path, seed=seed)
    check_card(data.card, env)
    return data


def check_card(card: Card, env: str | None) -> None:
    """Refuse what a card, which anybody may have written, must not ask for.

    `module:id` imports the module: only the user may name one, as `env`.
    """
    if env is None and ":" in card.env:
        raise ValueError(
            f"the data's card names the environment {card.env!r}, for which a module would be "
            f"imported that you did not name. If it is to be, say so: --env {card.env}"
        )
    if own := sorted(OWN & card.env_options.keys()):
        raise ValueError(f"the data's card sets {', '.join(own)}, which are no options of a task")


def open_datasets(
    parts: Sequence[Part],
    seed: int,
    env: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Dataset]:
    """Read every dataset of the parts, each with a stream of draws of its own."""
    paths = [p.path for p in parts if p.path is not None]
    named = (env, options) if options else (env,)
    return [open_dataset(p, stream_seed(seed, f"data {i}"), *named) for i, p in enumerate(paths)]


def open_branches(parts: Sequence[Part], config: Any, replay: ReplayBuffer, agent: Any) -> Any:
    """Return what dreams the rows of each `dream:RUN` anew, from the replay and by the agent.

    Raises ValueError where there is no replay to begin at, or not on the CPU.
    """
    runs = [p.path.removeprefix("dream:") for p in parts if p.dreamt and p.path]
    if not runs:
        return []
    from .branches import Branches  # most runs have no use for all of it

    if config.run.device != "cpu" or all(p.path is not None for p in parts):
        raise ValueError(
            "--data dream:RUN dreams from steps of the replay, on the CPU: give replay beside it, "
            f"replay:0.5 dream:RUN:0.5, and device=cpu (it is {config.run.device})"
        )
    seeds = [stream_seed(config.seed, f"dreams {i}") % 2**62 for i in range(len(runs))]
    return [Branches(x, config.env, replay, agent, s) for x, s in zip(runs, seeds, strict=True)]


def require_same(home: Directory, datasets: Sequence[Dataset], dreams: Sequence[Any] = ()) -> None:
    """Note the digests of a run's data, and of models that rows are dreamt in (those of `dreams`
    with a digest); ValueError where it was begun with others.
    """
    home.same(**{f"data {i}": rows_digest(d.rows) for i, d in enumerate(datasets)})
    models = [d.digest for d in dreams if hasattr(d, "digest")]
    home.same(**{f"world model {i}": told for i, told in enumerate(models)})


def compose(
    parts: Sequence[Part],
    datasets: Sequence[Dataset],
    replay: ReplayBuffer | None,
    dreams: Sequence[Any] = (),
) -> Source:
    """Return the source of batches, in their shares: the replay buffer, the datasets, and dreams;
    without the latter, dreamt rows are datasets too.
    """
    data, live = iter(datasets), iter(dreams)
    sources: list[tuple[Source, float]] = []
    for part in parts:
        source = replay if part.path is None else next(live if part.dreamt and dreams else data)
        if source is None:
            raise ValueError("--data replay: there is no replay buffer here")
        sources.append((source, part.share))
    if not sources:
        raise ValueError("--data names nothing: give replay, dataset:PATH or both")
    layouts = [s.layout for s in (replay, *datasets, *dreams) if s is not None]
    widths = {(x.obs_dim, x.act_dim) for x in layouts}
    if len(widths) > 1:
        raise ValueError(f"--data: parts of different (obs, action) widths {sorted(widths)}")
    for name in set.intersection(*(set(x.extra) for x in layouts)):
        if len(found := {x.extra[name] for x in layouts}) > 1:
            raise ValueError(f"--data: parts whose column {name!r} has widths {sorted(found)}")
    return sources[0][0] if len(sources) == 1 else mix(sources)
