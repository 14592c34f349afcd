"""Choose which contexts to train on, one source after the other: MBTL.

Sources are trained on a task's contexts, or replayed on a matrix, which holds the returns of a
policy for each context on every context: of a synthetic family, or of a stored file. A selector
is shown the rows that it has asked for alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tyro.conf import OmitArgPrefixes

from ..agents import Policy
from ..agents.mbtl import Locked, Selector, load_matrix, scores, selector_of
from ..agents.mbtl.guesses import guessed, share_of
from ..agents.mbtl.rules import Places
from ..agents.mbtl.selector import Rule
from ..agents.mbtl.synthetic import flat, grids, hill, line_contexts
from ..agents.playing import Evaluation
from ..envs.reality import require_real
from .looking.mbtl_figures import draw
from .loops import transfer
from .loops.grid import SourceOptions, bounds_of, coordinates, grid_of, trainer_of
from .loops.scripted import worlds_as
from .loops.selecting import Selection, library_of
from .runs.config import RunOptions, check, from_dict
from .runs.resources import use_threads
from .runs.result import Result
from .runs.run import Run

# Trains a policy on a context, and returns its returns [N] on every one: (context, seed) -> row.
TrainRow = Callable[[int, int], Tensor]


PREFIXED = True  # --sac.lr, --ppo.lr


@dataclass(frozen=True)
class Config(SourceOptions):
    """A run of a selector."""

    env: str = ""
    """task whose contexts are the sources, trained as they are asked for; none replays a matrix"""
    matrix: str = "hill"
    """hill, flat, a family by its f, g and h (const,linear,L1 with const or linear, linear or none,
    nd or L1), or the path of a stored matrix"""
    noise: float = 5.0
    """standard deviation of single returns in a family, whose returns are around 500"""
    selector: Literal[
        "improved",
        "own",
        "paper",
        "gp",
        "mountain",
        "switch",
        "pairs",
        "spread",
        "equidistant",
        "pseudo-greedy",
        "random",
        "worst-served",
    ] = "improved"
    """how the next source is chosen"""
    steps: int = 15
    """sources to replay; of a task environment transitions of all sources, `source_steps` each"""
    source_steps: int = 10_000
    """environment transitions of each source"""
    batch: int = 1
    """sources asked for at once, and trained side by side"""
    guesses: int = 0
    """contexts of a stored matrix that are tried by short trainings first, of which the sources
    are chosen by what those earned; 0 for none"""
    seed: int = 0
    """seed of a synthetic matrix and of what the selector draws; which seed of a stored matrix"""
    figures: bool = True
    """draw the matrix with the order of picks, performance, and what was expected of each round"""
    run: OmitArgPrefixes[RunOptions] = field(
        default_factory=lambda: RunOptions(log_every=1, eval_every=1, checkpoint_every=1)
    )
    """the run directory"""


PRESETS = {
    "default": Config(),
    "synthetic": Config(matrix="const,linear,L1", steps=50),
    "paper": Config(selector="paper"),
    "quick": Config(
        env="reverie/CartPoleSwingUp-v0",
        context=("length:pole=log:0.3:3:10",),
        steps=24_000,
        source_steps=6_000,
        batch=2,
        run=RunOptions(log_every=3_000, eval_every=12_000, checkpoint_every=12_000),
    ),
}
STEP = "sources, or environment steps of all sources"


class World(NamedTuple):
    """A matrix [N, N] of one seed, in units, and its contexts [N, d].

    `short` [N, N]: rows of short trainings, each a `share` of a whole one.
    """

    values: Tensor
    contexts: Tensor
    short: Tensor | None = None
    share: float = 0.0


def world(c: Config) -> World:
    """Return the matrix that is replayed; ValueError for a seed that a stored one lacks."""
    if c.matrix in ("hill", "flat"):
        return World(hill(c.seed) if c.matrix == "hill" else flat(), line_contexts())
    families = grids(c.noise)
    if c.matrix in families:
        values = families[c.matrix].trial(c.seed)
        low, high = values.aminmax()
        return World((values - low) / (high - low), families[c.matrix].contexts)
    stored = load_matrix(c.matrix)
    if c.seed >= len(stored.card.seeds):
        raise ValueError(f"{c.matrix} has seeds 0 to {len(stored.card.seeds) - 1}, not {c.seed}")
    w = World(stored.unit(c.seed), stored.contexts)
    if not c.guesses:
        return w
    share = share_of(stored)
    return w._replace(short=stored.units_of("short")[..., c.seed], share=share)


def main(config: Config | None = None, *, resume: bool = False) -> Result:
    """Select as configured; `resume` continues the run directory bit for bit."""
    c = check(config or Config())
    if c.env:
        return train_sources(c, resume)
    if c.context:
        raise ValueError(f"a replay has the contexts of its matrix: give --env, or no {c.context}")
    if c.env_options:
        raise ValueError(f"a replay plays no task: leave out {', '.join(c.env_options)}")
    use_threads(c.run.threads)
    w = world(c)
    if c.steps > len(w.contexts):
        raise ValueError(f"steps={c.steps} sources of {len(w.contexts)} contexts are too many")
    s, locked = selector_of(c.selector, w.contexts, k=c.steps, seed=c.seed), Locked(w.values)
    early = w.values[:0]
    if c.guesses:
        order, early = first_guesses(c, w)
        s = Selector(w.contexts, order)
    label = f"mbtl-{c.selector}-{c.matrix.replace('/', '-')}-s{c.seed}"
    with Run("mbtl", c, label=label, steps=c.steps, seed=c.seed, resume=resume) as run:
        judged = train(run, c, s, lambda context, seed: locked.train(context), early, w.share)
    if c.figures:
        rule = (
            s.rule
            if c.guesses
            else selector_of(c.selector, w.contexts, k=c.steps, seed=c.seed).rule
        )
        draw(run.path / "figures", w.values, s.seen, rule)
    return Result(run.path, run.step, judged)


def first_guesses(c: Config, w: World) -> tuple[Rule, Tensor]:
    """Return the rule that takes what short trainings promise, and their rows [G, N].

    Raises ValueError where there are none, or too few for the sources.
    """
    if w.short is None:
        raise ValueError(f"{c.matrix} has no rows of short trainings: give a stored --matrix")
    if c.guesses < c.steps:
        raise ValueError(f"guesses={c.guesses} are fewer than steps={c.steps} sources of them")
    g = guessed(w.contexts, w.short, c.guesses, c.steps)
    return Places(lambda _, taken: next(i for i in g.whole if i not in taken)), w.short[g.short]


def train(
    run: Run, c: Config, s: Selector, train_row: TrainRow, early: Tensor, share: float
) -> Evaluation:
    """Ask, train and tell until `c.steps` sources are trained; return what their library is worth.

    `early` [G, N]: rows of short trainings, each a `share` of a whole one, that serve too.
    A source asked for is saved as asked for before its training is over, and is trained again by a
    resumed run that was stopped inside it.
    """
    with run.restored() as state:
        if state is not None:
            s.load_state_dict(state["agent"]["selector"])

    def judging() -> Evaluation:
        rows = torch.cat([s.rows, early])
        best = scores.served(rows)[:, None].numpy()
        extra = {"worst_decile": scores.worst_decile(rows)}
        return Evaluation(best, np.zeros(best.shape, np.int64), extra)

    def row() -> dict[str, float]:
        own = float(s.rows[-1, s.picks[-1]])
        worth = scores.performance(torch.cat([s.rows, early]))
        told = {"context": s.picks[-1], "own_return": own, "performance": worth}
        spent = len(s.picks) * (1 - share) + len(early) * share
        return {**told, "trainings": spent} if len(early) else told

    def saved() -> dict[str, Any]:
        return {"agent": {"selector": s.state_dict()}}

    judged: Evaluation | None = None
    while run.owed or run.step < c.steps:
        if not run.owed:  # else only what follows the source is left of it
            if not s.pending:  # a batch is whole at the end too: a longer run goes on with it
                s.ask(min(c.batch, len(s.contexts) - run.step))
            context = s.pending[0]
            with run.interruptible(saved, owed=False):
                returns = train_row(context, c.seed)
            s.tell(context, returns)
            run.tick(1)
        judged = run.after_step(judging, row, saved)
    return run.final(judged, judging)


def train_sources(c: Config, resume: bool) -> Result:
    """Train what the selector asks for, on the task's contexts, until `c.steps` transitions."""
    if c.guesses:
        raise ValueError("guesses are of the short rows of a stored --matrix, and of no --env")
    c = worlds_as(c)
    grid, threads = grid_of(c), use_threads(c.run.threads)
    names, contexts = coordinates(c.context, grid)
    each = c.batch * c.source_steps
    count = -(-c.steps // each) * c.batch
    if count > len(grid):
        raise ValueError(
            f"steps={c.steps:,} are {count} sources of {c.source_steps:,} steps, {c.batch} at "
            f"once; there are {len(grid)} contexts"
        )
    real = require_real(c.env, grid, c.env_options)
    label = f"mbtl-{c.selector}-{c.env.split('/')[-1]}-s{c.seed}"
    folder = Path(c.run.out, c.run.name or label) / "sources"
    trainer = trainer_of(c, grid, c.batch, c.source_steps, threads, folder)
    selector = selector_of(c.selector, contexts, k=count, seed=c.seed)
    s = Selection(c, selector, trainer, bounds_of(c, trainer.scored))
    with Run("mbtl", c, label=label, steps=c.steps, seed=c.seed, resume=resume) as run:
        run.home.note(**trainer.scored.notes, reality=f"{len(real)} tests of {', '.join(names)}")
        with run.restored(trainer.stores) as state:
            if state is not None:
                s.load_state_dict(state)
        judged = transfer.train(
            run, trainer, s.more, s.tell, lambda: s.judge(lambda: run.stopping), s.row, s.state_dict
        )
    if c.figures and s.rows:
        values = contexts.new_full((len(grid), len(grid)), torch.nan)
        values[selector.picks] = selector.rows
        rule = selector_of(c.selector, contexts, k=count, seed=c.seed).rule
        draw(run.path / "figures", values, selector.seen, rule)
    return Result(run.path, run.step, judged)


def load(config: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[Policy, int]:
    """Return the library of a run whose sources were trained, and its observations' width.

    Raises ValueError for a replay: the policies whose returns a matrix holds are not in it.
    """
    c = from_dict(Config, config)
    if not c.env:
        raise ValueError("a replay of a matrix trained no policy: there is nothing to play")
    return library_of(c, state), int(state["obs_dim"])
