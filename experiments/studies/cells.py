"""Selectors on the synthetic families of SD-MBTL, beside the published cells.

`python -m reverie.experiments.studies.cells` writes a line for each family and selector, and the
aggregates with a stamp. Cells that the table already has are kept: a stopped run goes on.
"""

import csv
import functools
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import torch
from torch import Tensor

from ...agents.mbtl.study import TRIALS, aggregate, cell, units
from ...agents.mbtl.synthetic import grids, grids_5d
from ...buffers.aside import write_text
from ..runs.config import parse
from ..runs.stamp import measured
from .report_published import BUILT_IN

PUBLISHED = BUILT_IN.with_name("mbtl-cells.csv")
NAMES = ("family", "noise", "row", "selector", "trials", "score", "published")
Line = Mapping[str, str]


@dataclass(frozen=True)
class Options:
    """Play selectors on synthetic matrices, 50 sources each."""

    families: tuple[str, ...] = ("3d-0", "3d-5", "3d-30", "5d-5")
    """which of the published tables: dimensions and noise"""
    selectors: tuple[str, ...] = ("random", "oracle", "mountain", "gp", "switch", "improved")
    """random and oracle are what the others' places lie between"""
    trials: int = 5
    """matrices of each family (one where there is no noise)"""
    threads: int = 1
    """CPU threads"""
    out: Path = Path("experiments/results/mbtl-cells")
    """folder for cells.csv and cells.json"""

    def __post_init__(self) -> None:
        if missing := {"random", "oracle"} - set(self.selectors):
            raise ValueError(f"selectors lack {', '.join(missing)}, between which the others lie")
        tables = {f"{line['family']}-{line['noise']}" for line in published()}
        if unknown := set(self.families) - tables:
            raise ValueError(f"no published table {', '.join(unknown)}, only {sorted(tables)}")


def published() -> list[Line]:
    """Return the lines of the published tables: a family's row with a score of each selector."""
    with PUBLISHED.open(newline="") as file:
        return list(csv.DictReader(file))


def asked(o: Options) -> list[Line]:
    """Return what is to be measured: a line without a score for each row and selector."""
    lines: list[Line] = []
    for line in published():
        if f"{line['family']}-{line['noise']}" in o.families:
            at = [line[k] for k in NAMES[:3]]
            trials = str(o.trials if float(line["noise"]) else 1)
            rows = [[*at, name, trials, "", line.get(name, "")] for name in o.selectors]
            lines += [dict(zip(NAMES, row, strict=True)) for row in rows]
    return lines


@functools.lru_cache(maxsize=1)  # the selectors of a row share its matrices
def matrices(family: str, noise: str, row: str, trials: int) -> tuple[Tensor, list[Tensor]]:
    """Return the contexts and the matrices of a family."""
    table = grids_5d() if family == "5d" else grids(float(noise))
    grid = table[row.replace("-", ",")]
    return grid.contexts, units(grid, range(trials), of=5 if family == "5d" else TRIALS)


def places(lines: Sequence[Line], column: str) -> dict[str, float]:
    """Return the mean place of each family's selectors between random (0) and the oracle (1)."""
    tables: dict[str, dict[str, dict[str, float]]] = {}
    for line in lines:
        if line[column]:
            rows = tables.setdefault(f"{line['family']}-{line['noise']}", {})
            rows.setdefault(line["row"], {})[line["selector"]] = float(line[column])
    out = {}
    for family, rows in tables.items():
        for name in sorted({n for r in rows.values() for n in r} - {"random", "oracle"}):
            names = (name, "random", "oracle")
            whole = [r for r in rows.values() if r.keys() >= set(names)]
            if whole:
                out[f"{family} {name}"] = round(aggregate([*map(itemgetter(*names), whole)]), 4)
    return out


def main(args: Sequence[str]) -> int:
    """Measure every cell; write the table after each."""
    o = parse(Options, args, "cells")
    torch.set_num_threads(o.threads)
    table = o.out / "cells.csv"
    cells = {itemgetter(*NAMES[:5])(line): line for line in read(table)}
    for line in asked(o):
        key = family, noise, row, selector, trials = itemgetter(*NAMES[:5])(line)
        score = cells[key]["score"] if key in cells else ""
        if not score:
            score = f"{cell(selector, *matrices(family, noise, row, int(trials))):.4f}"
            print(*key, score, line["published"], flush=True)
        cells[key] = {**line, "score": score}
        write(table, [*cells.values()])
    own = [line for line in cells.values() if int(line["trials"]) in (o.trials, 1)]
    told = {"places": places(own, "score"), "published": places(own, "published")}
    write_text(o.out / "cells.json", measured(told, o))
    print(json.dumps(told, indent=1))
    return 0


def read(table: Path) -> list[Line]:
    """Return the lines of a table of cells; none where there is no such file."""
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def write(table: Path, lines: Sequence[Line]) -> None:
    """Write the table, whole."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, NAMES, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(table, text.getvalue())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
