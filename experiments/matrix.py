"""Draw a transfer matrix: train every context with several seeds, score each policy on all."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from tyro.conf import OmitArgPrefixes

from ..agents import SACConfig
from ..agents.mbtl import Matrix, MatrixCard
from ..agents.mbtl.geometry import middle
from ..agents.mbtl.library import Row
from ..agents.mbtl.report import report
from ..agents.playing import Evaluation
from ..buffers.aside import write_text
from ..envs.reality import require_real
from .looking.mbtl_figures import matrix_figure
from .loops import transfer
from .loops.contextual import wide_starts
from .loops.grid import SourceOptions, bounds_of, coordinates, grid_of, trainer_of
from .loops.scripted import worlds_as
from .loops.transfer import LEARNERS, Job
from .runs.config import RunOptions, check
from .runs.resources import use_threads
from .runs.result import Result
from .runs.run import Run
from .runs.stamp import hardware

PREFIXED = True  # --sac.lr, --ppo.lr
AT_ONCE = 48  # sources side by side at most, unless told


@dataclass(frozen=True)
class Config(SourceOptions):
    """A transfer matrix of trained policies."""

    env: str = "reverie/CartPoleSwingUp-v0"
    """task whose contexts are the sources and the targets"""
    context: tuple[str, ...] = ("length:pole=log:0.3:3:20",)
    """the contexts: length=log:0.3:3:20, gear=lin:0.5:2:10 or mass=0.5,1,2; every combination"""
    steps: int = 10_000
    """environment transitions of each source"""
    seed: int = 0
    """the first seed"""
    seed_offset: int = 0
    """added to it: matrices that share no seed are draws of their own"""
    trials: int = 6
    """seeds of each context, one after the other"""
    middle_trials: int = 12
    """seeds of the middle context, of which best-of-k is drawn"""
    short: float = 0.2
    """share of its budget after which a source's best snapshot has a row too, at the nearest of
    `select_every`; 0 for none"""
    members: int | None = None
    """sources trained side by side, a divisor of all; None is the greatest up to 48 (PPO and the
    circuit: 1)"""
    run: OmitArgPrefixes[RunOptions] = field(
        default_factory=lambda: RunOptions(
            log_every=50_000, eval_every=0, checkpoint_every=100_000, tensorboard=False
        )
    )
    """the run directory, in which matrix.safetensors, its card and its report come to lie"""


_CART, _POLE = "reverie/CartPoleSwingUp-v0", "reverie/PendulumSwingUp-v0"
PRESETS = {
    "default": Config(),
    "quick": Config(
        env=_CART, context=("length:pole=log:0.3:3:6",), steps=4_000, trials=2, middle_trials=2
    ),
    "cart-length-log": Config(
        env=_CART, context=("length:pole=log:0.3:3:20",), steps=18_000, seed_offset=100
    ),
    "cart-length-linear": Config(env=_CART, context=("length:pole=lin:0.3:3:20",), seed_offset=200),
    "cart-gear-log": Config(env=_CART, context=("gear=log:0.3:3:20",), seed_offset=300),
    "cart-gear-linear": Config(env=_CART, context=("gear=lin:0.3:3:20",), seed_offset=400),
    "cart-mass-log": Config(env=_CART, context=("mass:cart=log:0.3:3:20",), seed_offset=500),
    "cart-length-gear": Config(
        env=_CART,
        context=("length:pole=log:0.3:3:5", "gear=log:0.3:3:5"),
        seed_offset=600,
    ),
    "pendulum-length-linear": Config(
        env=_POLE, context=("length=lin:0.3:3:20",), steps=8_000, seed_offset=700
    ),
    "inverted-gear": Config(
        env="reverie/InvertedPendulum-v5",
        context=("gear=log:0.3:3:20",),
        steps=20_000,
        seed_offset=800,
    ),
    "cheetah-gravity": Config(
        env="reverie/HalfCheetah-v5",
        context=("gravity=log:2.94:29.4:12",),
        steps=60_000,
        seed_offset=900,
        select_every=10_000,
        high=6_000.0,
        sac=SACConfig(hidden=(64, 64), lr=7e-4),
    ),
    "swim-density": Config(
        env="reverie/Swim-v0",
        context=("density=log:900:9000:20",),
        learner="circuit",
        steps=48_000,
        seed_offset=1000,
        select_every=16_000,
        short=0.0,
    ),
}
STEP = "environment steps of each source"


def jobs_of(c: Config, contexts: Tensor) -> list[Job]:
    """Return all sources: each context with its seeds, then further seeds of the middle one."""
    seeds = seeds_of(c)
    jobs = [Job(i, s) for i in range(len(contexts)) for s in seeds[: c.trials]]
    return jobs + [Job(middle(contexts), s) for s in seeds[c.trials :]]


def seeds_of(c: Config) -> range:
    """Return the seeds of the middle context's sources, of which each context has the first."""
    first = c.seed + c.seed_offset
    return range(first, first + max(c.trials, c.middle_trials))


def members_of(c: Config, jobs: int) -> int:
    """Return how many sources are trained at once; ValueError where they make no equal groups."""
    if c.learner not in LEARNERS and c.members is None:
        return 1
    divisors = [m for m in range(1, jobs + 1) if jobs % m == 0]
    if c.members is None:
        return max(m for m in divisors if m <= AT_ONCE)
    if c.members not in divisors:
        raise ValueError(f"members={c.members}: {jobs} sources make groups of {divisors}")
    return c.members


def short_of(c: Config) -> int:
    """Return after how many transitions a source has a row too, 0 for none: when one is looked at.

    Raises ValueError for a share that is none.
    """
    if not 0 <= c.short < 1:
        raise ValueError(f"short={c.short} is a share of the budget: give 0 (none) to 1")
    every = min(c.select_every, c.steps)
    return max(1, round(c.short * c.steps / every)) * every if c.short else 0


class Drawing:
    """The rows so far and what trains the others, as one state."""

    def __init__(self, jobs: Sequence[Job], trainer: transfer.Trainer, steps: int) -> None:
        self.jobs, self.trainer, self.steps = list(jobs), trainer, steps
        self.rows: list[Tensor] = []  # [E, N] of the first jobs: single episodes
        self.shorts: list[Tensor] = []  # [E, N] of the same, where they were looked at early

    def more(self) -> Sequence[Job]:
        """Return the next sources."""
        return self.jobs[len(self.rows) :][: self.trainer.members]

    def tell(self, job: Job, row: Row, actor: Any) -> None:
        """Take what a source earned; sources end in the order in which they begin."""
        self.rows.append(row.each)
        if row.short is not None:
            self.shorts.append(row.short)

    def judge(self) -> Evaluation:
        """Return what the sources trained so far earn on their own contexts."""
        pairs = zip(self.jobs, self.rows, strict=False)
        own = [float(row[:, job.context].mean()) for job, row in pairs]
        returns = np.array(own)[:, None] if own else np.zeros((1, 1))
        return Evaluation(returns, np.zeros(returns.shape, np.int64), {"sources": len(own)})

    def row(self) -> dict[str, Any]:
        """Return what to log."""
        more = {"sources": len(self.rows), "evaluation_steps": self.trainer.judged}
        return {**self.trainer.row(), **more}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs."""
        rows, shorts = list(self.rows), list(self.shorts)
        agent = {"rows": rows, "shorts": shorts, "steps": self.steps}
        return {"agent": agent, "trainer": self.trainer.state_dict()}

    def require_budget(self, path: Path, state: Mapping[str, Any]) -> None:
        """Raise ValueError where the sources of a saved state have another budget."""
        if (begun := state["agent"]["steps"]) != self.steps:
            raise ValueError(
                f"{path} was begun with sources of {begun:,} steps, not {self.steps:,}: a matrix "
                "is of one budget"
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; the trainer's buffer is refilled before."""
        self.rows, self.shorts = list(state["agent"]["rows"]), list(state["agent"]["shorts"])
        self.trainer.load_state_dict(state["trainer"])


def main(config: Config | None = None, *, resume: bool = False) -> Result:
    """Draw a matrix as configured; `resume` continues the run directory bit for bit."""
    c = worlds_as(check(config or Config()))
    grid, threads = grid_of(c), use_threads(c.run.threads)
    names, contexts = coordinates(c.context, grid)
    findings = require_real(c.env, grid, c.env_options)
    jobs, short = jobs_of(c, contexts), short_of(c)
    label = f"matrix-{c.env.split('/')[-1]}-{'-'.join(grid.names)}-s{c.seed}".replace(":", "-")
    folder = Path(c.run.out, c.run.name or label)
    members = members_of(c, len(jobs))
    trainer = trainer_of(c, grid, members, c.steps, threads, folder / "sources", short)
    low, high = bounds_of(c, trainer.scored)
    s = Drawing(jobs, trainer, c.steps)
    total = len(jobs) * trainer.each
    with Run("matrix", c, label=label, steps=total, seed=c.seed, resume=resume) as run:
        run.home.note(**trainer.scored.notes, reality=f"{len(findings)} tests")
        if run.home.found is not None:  # before its buffer, which is of that budget too
            s.require_budget(run.path, run.home.found.state)
        with run.restored(trainer.stores) as state:
            if state is not None:
                s.load_state_dict(state)
        judged = transfer.train(run, trainer, s.more, s.tell, s.judge, s.row, s.state_dict)
        card = MatrixCard(
            task=c.env,
            features=names,
            budget=c.steps,
            seeds=tuple(seeds_of(c)[: c.trials]),
            low=low,
            high=high,
            versions=_versions(),
            short=short if s.shorts else 0,
            notes=_notes(c, trainer.judged),
        )  # before the run is over: a finished one has its matrix
        write(run.path / "matrix", s, contexts, card, [dataclasses.asdict(c), findings])
    return Result(run.path, run.step, judged)


def _versions() -> dict[str, str]:
    """Return the versions of what made a matrix."""
    made = hardware()
    own = {name: str(made[name]) for name in ("reverie", "revision", "python")}
    return {**made["packages"], **own}


def _notes(c: Config, judged: int) -> str:
    how = f"{c.learner}, {c.context_in_obs} contexts, {'wide' if wide_starts(c) else 'own'} starts"
    return f"{how}; {judged:,} environment steps of evaluation. Undertrained by its budget."


def write(
    path: Path, drawn: Drawing, contexts: Tensor, card: MatrixCard, facts: Sequence[Any]
) -> Matrix:
    """Write the matrix of all rows, its card, its report and a picture; return it."""
    rows = [Row(each, 0) for each in drawn.rows]
    values, further = squared([row.returns for row in rows], contexts, card)
    halves = [squared([row.halves[k] for row in rows], contexts, card) for k in (0, 1)]
    early = [Row(each, 0) for each in drawn.shorts]
    parts = [[row.returns for row in early], *([row.halves[k] for row in early] for k in (0, 1))]
    shorts = [squared(part, contexts, card)[0] for part in parts if part]
    matrix = Matrix(
        values,
        contexts,
        card,
        further,
        halves=torch.stack([own for own, _ in halves]),
        middle_halves=torch.stack([more for _, more in halves]),
        short=shorts[0] if shorts else None,
        short_halves=torch.stack(shorts[1:]) if shorts else None,
    )
    matrix.save(path)
    settings, findings = facts
    told = {**report(matrix), "reality": [f._asdict() for f in findings], "config": settings}
    write_text(path.with_suffix(".report.json"), json.dumps(told, indent=1, default=str) + "\n")
    matrix_figure(path.with_suffix(".png"), matrix.unit(), [])
    return matrix


def squared(rows: Sequence[Tensor], contexts: Tensor, card: MatrixCard) -> tuple[Tensor, Tensor]:
    """Return rows [N] of all sources as values [N, N, S], and those of the middle's seeds [M, N].

    The first N x S rows are those of each context's seeds, what follows of the middle's others.
    """
    n, count = len(contexts), len(card.seeds)
    values = torch.stack(list(rows[: n * count])).view(n, count, n).transpose(1, 2)
    own = values[middle(contexts)].T  # [S, N]
    return values.contiguous(), torch.stack([*own, *rows[n * count :]])


def load(config: Mapping[str, Any], state: Mapping[str, Any]) -> NoReturn:
    """Raise ValueError: a matrix keeps what its policies earned, not the policies."""
    raise ValueError("a matrix keeps returns and no policy: train one by `reverie mbtl --env ...`")
