"""The command `reverie bench`."""

import csv
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from ...buffers.aside import write_text
from ..runs.config import parse
from ..runs.stamp import measured
from . import (
    buffer,
    diffusion,
    dream,
    env,
    learner,
    matrix,
    offline,
    population,
    population_learner,
    stages,
)
from .report import OURS, BenchOptions, Report

MISSING = "not installed (pip install reverie[bench])"
BENCHES: dict[str, Callable[[BenchOptions], Report]] = {
    "env": env.run,
    "buffer": buffer.run,
    "learner": learner.run,
    "population": population.run,
    "population-learner": population_learner.run,
    "offline": offline.run,
    "diffusion": diffusion.run,
    "dream": dream.run,
    "matrix": matrix.run,
}


def _table(report: Report) -> Table:
    """Return a rate for each contestant, and ours as a multiple of it."""
    table = Table(title=f"reverie bench {report.what}: {report.unit}, median")
    table.add_column(no_wrap=True)
    for peer in report.peers:
        table.add_column(peer.name, justify="right")
        if peer.name != OURS:
            table.add_column("ratio", justify="right", style="bold")
    if report.shares:
        table.add_column("in the engine", justify="right")
    costs = next(iter(report.costs.values()), {})
    for name in costs:
        table.add_column(name, justify="right")
    for case in report.cases():
        cells = []
        for peer in report.peers:
            row, ratio = report.find(case, peer.name), report.ratio(case, peer.name)
            cells.append("-" if row is None else f"{row.rate:,.0f}")
            if peer.name != OURS:
                cells.append("-" if ratio is None else f"{ratio:.2f}x")
        if report.shares:
            cells.append(f"{report.shares[case]:.2f}" if case in report.shares else "-")
        own = report.costs.get(case, {})
        cells += [f"{own[name]:,.2f}" if name in own else "-" for name in costs]
        table.add_row(case, *cells)
    if len(report.cases()) > 1 and report.what == "env":
        table.add_section()
        table.add_row("geometric mean (share: mean)", *_mean_cells(report))
    return table


def _mean_cells(report: Report) -> list[str]:
    cells = []
    for peer in report.peers:
        cells.append("")
        if peer.name != OURS:
            mean = report.mean_ratio(peer.name)
            cells.append("-" if mean is None else f"{mean:.2f}x")
    if report.shares:
        cells.append(f"{sum(report.shares.values()) / len(report.shares):.2f}")
    return cells


def show(report: Report, options: BenchOptions) -> None:
    """Print the table and, below it, each contestant's version and settings."""
    wide = None if sys.stdout.isatty() else 140
    console = Console(width=wide, highlight=False, markup=False)
    console.print(_table(report))
    for peer in report.peers:
        console.print(f"{peer.name} {peer.version or MISSING}: {peer.settings}")
    console.print(
        f"Ratio: {OURS}'s rate over the peer's, the median of {options.repeats} repeats in which "
        f"each had its turn of {options.seconds} s."
    )


def main(argv: Sequence[str]) -> int:
    """Measure what the arguments name, print a table, write the JSON file.

    Return 0, and 1 where a case of a stage failed.
    """
    options = parse(BenchOptions, argv, "bench")
    if options.what == "gpu-learner":
        options = replace(options, what="gpu", stage=3)
    if options.what == "gpu":
        return int(any(m.what == "failed" for m in stages.run(options)))
    report = BENCHES[options.what](options)
    show(report, options)
    if options.json is not None:
        data = report.to_dict()
        write_text(options.json, measured(data, options))
        names = ("case", "who", "unit", "rate", "ratio")
        text = io.StringIO(newline="")
        lines = [names, *([row[n] for n in names] for row in data["rows"])]
        csv.writer(text, lineterminator="\n").writerows(lines)
        table = options.json.with_name(options.json.name.removesuffix(".json") + ".csv")
        write_text(table, text.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
