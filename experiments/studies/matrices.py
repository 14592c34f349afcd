"""Stored transfer matrices: verdicts on selectors, and the table of what each gets.

`python -m reverie.experiments.studies.matrices RESULTS/matrices RESULTS/curricula` prints the
tables; nothing is played or trained. The second folder is of rivals, and may be left out. A
matrix lies in a suite's results as `ARM-TASK-sSEED.safetensors` with its card and report, and is
of the run whose CSV and stamp are in `ARM/TASK-sSEED`.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...agents.mbtl import Matrix, load_matrix
from ...agents.mbtl.worth import BEST, KNOWN, METRICS, sample
from ..loops.grid import coordinates, grid_of
from . import evidence, stats
from .claim import MatrixClaim, Told, Verdict
from .evidence import Commit
from .results import Kept, read_result, read_results
from .suite import Suite
from .tables import digits

Picks = Mapping[str, Mapping[str, Sequence[Sequence[int]]]]  # of each count: of each selector


@dataclass(frozen=True)
class Drawn:
    """A stored matrix with the picks that were made when it was drawn."""

    name: str
    matrix: Matrix
    picks: Picks

    @property
    def unit(self) -> tuple[str, ...]:
        """Task and features: matrices that differ in the spacing of contexts alone are one."""
        card = self.matrix.card
        return (card.task, *(f.removeprefix("log ") for f in card.features))

    def sample(self, selector: str, k: int, metric: str) -> Tensor:
        """Return a value for each seed; as `agents.mbtl.worth.sample`."""
        try:
            return sample(self.matrix, selector, k, self.picks.get(str(k), {}), metric)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error


def files_of(folder: Path, name: str) -> list[Path]:
    """Return where a matrix, its card and its report lie."""
    return [folder / f"{name}.{end}" for end in ("safetensors", "json", "report.json")]


def read_drawn(folder: Path, name: str) -> Drawn:
    """Return a stored matrix; ValueError where its report lacks picks."""
    matrix, report = load_matrix(folder / name), files_of(folder, name)[2]
    try:
        picks = json.loads(report.read_text())["picks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{report} holds no picks: {type(error).__name__} {error}") from error
    return Drawn(name, matrix, picks)


def judge(claim: MatrixClaim, results: Path, commit: Commit, suite: Suite) -> Verdict:
    """Return the verdict of a claim whose suite is that of its commit.

    Raises ValueError for what cannot be read.
    """
    if len(suite.arms) > 1 or len(suite.seeds) > 1:
        told = f"{suite.name} is not of one arm and one seed, as matrices are"
        return Verdict(claim, "no suite", told)
    arm, seed, folder = suite.arms[0].name, suite.seeds[0], results / suite.name
    drawn, files = [], []
    for task in claim.matrices:
        path = folder / arm / f"{task}-s{seed}.csv"
        says = evidence.wanted(suite, arm, task)
        if not path.exists() or not (run := read_result(path)).finished:
            continue
        if broken := _broken(run, says, commit, seed):
            return Verdict(claim, *broken)
        files += [path, path.with_suffix(".json"), *files_of(folder, f"{arm}-{task}-s{seed}")]
        drawn.append(read_drawn(folder, f"{arm}-{task}-s{seed}"))
        card, config = drawn[-1].matrix.card, run.stamp["config"]
        if (card.task, card.budget) != (config["env"], config["steps"]):
            told = f"{task}: its card is of {card.budget:,} steps of {card.task}"
            return Verdict(claim, "other settings", told)
    if len(drawn) < len(claim.matrices):
        return Verdict(claim, "incomplete", f"{len(drawn)} of {len(claim.matrices)} matrices")
    if (dirty := evidence.not_committed(files)) is not None:
        told = f"{dirty} is not as in the last commit"
        return Verdict(claim, "results not committed", told)
    return decide(claim, drawn)


def _broken(run: Kept, says: Mapping[str, Any], commit: Commit, seed: int) -> Told | None:
    """Return the rule that the run of a matrix breaks; None if none."""
    who, revision = f"the matrix {run.task}", run.stamp.get("revision")
    if run.started < commit.when:
        return "too late", f"{who} was begun {run.started}, committed {commit.when}"
    if not revision or revision.endswith("-dirty"):
        return "code not clean", f"{who} was made by revision {revision}"
    departs = evidence.departures(run, says)
    if (made := run.stamp["config"].get("seed")) != seed:
        departs.append(f"seed is {made}")
    return ("other settings", f"{who}: {'; '.join(departs)}") if departs else None


Samples = list[tuple[Any, float]]  # values and the weight of their mean


def samples(
    drawn: Sequence[Drawn], better: str, than: str, k: int, metric: str
) -> tuple[Samples, dict[tuple[str, ...], float]]:
    """Return what the contrast of two selectors is made of, and the difference in each unit.

    Matrices of one unit share its weight. Selectors are paired by seed; best-of-k seeds is of more
    seeds, so it is a sample of its own: what both have in common makes the interval too wide.
    """
    units: dict[tuple[str, ...], list[Drawn]] = {}
    for one in drawn:
        units.setdefault(one.unit, []).append(one)
    out: Samples = []
    differences = {}
    for unit, own in units.items():
        gaps = []
        for one in own:
            a, b = (one.sample(name, k, metric) for name in (better, than))
            weight = 1 / len(units) / len(own)
            pairs = [(a, weight), (b, -weight)] if BEST in (better, than) else [(a - b, weight)]
            out += [(values.numpy(), w) for values, w in pairs]
            gaps.append(float(a.mean() - b.mean()))
        differences[unit] = sum(gaps) / len(gaps)
    return out, differences


def decide(claim: MatrixClaim, drawn: Sequence[Drawn]) -> Verdict:
    """Return the verdict on the named matrices, whose seeds are the noise.

    The claim is on the mean over these matrices: what is drawn anew is the training of policies,
    and the interval is of that. Tasks are few and chosen: whether another would show the same is
    what the spread over tasks and features says, which is told beside it.
    """
    k, metric = claim.sources, claim.metric
    level = 0.95 if claim.margin is None else 0.9
    parts, units = samples(drawn, claim.better, claim.than, k, metric)
    t = stats.contrast(parts, level)
    detail = f"difference {digits(t.difference)} ({digits(t.low)} to {digits(t.high)}) of "
    detail += f"{len(drawn)} matrices, {len(units)} tasks and features; over those "
    each = list(units.values())
    if len(each) > 1:
        wide = stats.mean_t(each, level)
        detail += f"{digits(wide.low)} to {digits(wide.high)}, "
    detail += f"least {digits(min(each))}"
    if claim.margin is not None:
        detail += f"; 90 % interval, margin {claim.margin:g}"
        shown = -claim.margin < t.low and t.high < claim.margin
        return Verdict(claim, "equivalent" if shown else "not shown", detail, t)
    state = "stands" if t.low > 0 else "refuted" if t.high < 0 else "undecided"
    return Verdict(claim, state, detail, t)


SELECTORS = ("random", "equidistant", "spread", "improved", "pairs", "own", "gp", "paper", "switch")
FIRST = ("improved and early", "guesses-4", "guesses-3")  # where a matrix has short rows


def table(drawn: Sequence[Drawn], k: int, metric: str = "performance") -> str:
    """Return a Markdown table: k sources of each selector on each matrix, means over seeds."""
    names = [BEST, *SELECTORS, *(FIRST if k == 5 else ()), "oracle"]
    lines = ["| matrix | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for one in drawn:
        cells = []
        for name in names:
            there = name in one.picks[str(k)] or name in (BEST, *KNOWN)
            there |= name in FIRST and one.matrix.short is not None
            cells.append(f"{float(one.sample(name, k, metric).mean()):.3f}" if there else "-")
        lines.append(f"| {one.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rivals(drawn: Sequence[Drawn], kept: Sequence[Kept], k: int) -> str:
    """Return a Markdown table: one policy over all contexts, for the steps of k sources.

    Mean over seeds of the last evaluation, not the best, in a matrix's units; the tenth of the
    contexts that it serves worst behind a slash. Raises ValueError for runs of other tasks,
    contexts or steps than their matrix.
    """
    arms = sorted({run.arm for run in kept})
    lines = ["| matrix | " + " | ".join(arms) + " | seeds |", "|---" * (len(arms) + 2) + "|"]
    for one in drawn:
        runs = [run for run in kept if run.finished and one.name == f"matrix-{run.task}-s0"]
        if not runs:
            continue
        card, cells = one.matrix.card, []
        for arm in arms:
            of_arm = [run for run in runs if run.arm == arm]
            for run in of_arm:
                require_rival(run, one, k)
            means = [[run.columns[m][-1] for run in of_arm] for m in ("return", "worst_decile")]
            told = [(np.mean(m) - card.low) / (card.high - card.low) for m in means if m]
            cells.append(" / ".join(f"{x:.3f}" for x in told) or "-")
        counts = sorted({sum(run.arm == arm for run in runs) for arm in arms} - {0})
        lines.append(f"| {one.name} | {' | '.join(cells)} | {', '.join(map(str, counts))} |")
    return "\n".join(lines)


def require_rival(run: Kept, one: Drawn, k: int) -> None:
    """Raise ValueError where a run is not of a matrix's task and contexts and k of its budgets."""
    c, card = SimpleNamespace(**run.stamp["config"]), one.matrix.card
    names, at = coordinates(c.context, grid_of(c))
    want, end = (card.task, k * card.budget, card.features), int(run.columns["step"][-1])
    here = at.shape == one.matrix.contexts.shape and torch.allclose(at, one.matrix.contexts)
    if (c.env, end, names) != want or not here:
        raise ValueError(f"{run.path} is not {k} x {card.budget:,} steps on all of {one.name}")


def main(args: Sequence[str]) -> int:
    """Print the tables of all matrices in a folder of results, and of the rivals in another."""
    if len(args) not in (1, 2):
        raise ValueError("give RESULTS/matrices, where matrices lie, and maybe RESULTS/curricula")
    cards = sorted(Path(args[0]).glob("*.safetensors"))
    if not cards:
        raise FileNotFoundError(f"{args[0]}: no matrix in it")
    drawn = [read_drawn(path.parent, path.stem) for path in cards]
    torch.set_num_threads(1)
    for metric in METRICS:
        for k in (5,) if metric != "performance" else (2, 3, 5, 8):
            there = [one for one in drawn if str(k) in one.picks]
            print(f"\n{k} sources, {metric}:\n\n{table(there, k, metric)}")
    if len(args) > 1:
        kept = read_results(Path(args[1]))
        print(f"\nOne policy, 5 sources' steps, mean / worst decile:\n\n{rivals(drawn, kept, 5)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
