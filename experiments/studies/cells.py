"""Selectors on the synthetic families of SD-MBTL, beside the published cells.

`python -m reverie.experiments.studies.cells` writes a line for each family and selector, and the
aggregates with a stamp. Cells that the table already has are kept: a stopped run goes on.
"""

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ...agents.mbtl.study import TRIALS, aggregate, cell, units
from ...agents.mbtl.synthetic import Grid, grids, grids_5d
from ...buffers.aside import write_text
from ..runs.config import parse
from ..runs.stamp import hardware
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


def published() -> list[Line]:
    """Return the lines of the published tables: a family's row with a score of each selector."""
    with PUBLISHED.open(newline="") as file:
        return list(csv.DictReader(file))


def grid_of(line: Line) -> Grid:
    """Return the family of a published line."""
    table = grids_5d() if line["family"] == "5d" else grids(float(line["noise"]))
    return table[line["row"].replace("-", ",")]


def measured(line: Line, o: Options, done: Sequence[Line]) -> list[Line]:
    """Return a line for each selector on the family of a published one, or the one in `done`."""
    grid, out = grid_of(line), []
    trials = o.trials if grid.noise else 1
    matrices = None
    for name in o.selectors:
        key = {k: line[k] for k in NAMES[:3]} | {"selector": name, "trials": str(trials)}
        kept = [d for d in done if key.items() <= d.items()]
        if not kept:
            if matrices is None:
                matrices = units(grid, range(trials), of=5 if line["family"] == "5d" else TRIALS)
            score = f"{cell(name, grid.contexts, matrices):.4f}"
            kept = [{**key, "score": score, "published": line.get(name, "")}]
            print(*kept[0].values(), flush=True)
        out += kept
    return out


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
            cells = [(r[name], r["random"], r["oracle"]) for r in rows.values() if name in r]
            out[f"{family} {name}"] = round(aggregate(cells), 4)
    return out


def main(args: Sequence[str]) -> int:
    """Measure every cell; write the table after each row."""
    o = parse(Options, args, "cells")
    torch.set_num_threads(o.threads)
    table, done, lines = o.out / "cells.csv", [], []
    if table.exists():
        with table.open(newline="") as file:
            done = list(csv.DictReader(file))
    for line in published():
        if f"{line['family']}-{line['noise']}" not in o.families:
            continue
        lines += measured(line, o, done)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, NAMES, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*lines, *(d for d in done if d not in lines)])
        write_text(table, text.getvalue())
    ours, theirs = places(lines, "score"), places(lines, "published")
    settings = json.loads(json.dumps(asdict(o), default=str))
    data = {"places": ours, "published": theirs, "options": settings, "stamp": hardware()}
    write_text(o.out / "cells.json", json.dumps(data, indent=1) + "\n")
    print(json.dumps({"places": ours, "published": theirs}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
