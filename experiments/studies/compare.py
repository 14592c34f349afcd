"""`reverie compare SUITE`: arms x tasks x seeds on an engine, resumable."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...buffers.aside import write_text
from ...envs.errors import unknown
from ..runs.config import parse
from ..runs.stopping import stop_on_signals
from . import tables
from .claims import HERE
from .engines import EngineOptions, engine_of
from .groups import jobs_of, note_asked
from .jobs import Job
from .plots import panels
from .pool import Engine, run_jobs
from .results import read_result, write_results
from .suite import OTHER, Entry, read_suite


def run_all(entries: Sequence[Entry], engine: Engine, as_one: bool = False) -> None:
    """Bring every run that is not finished to its end, seed by seed, those of `first` arms before.

    A study that is cut short has then all arms of the seeds that it has. `as_one`: the seeds of an
    arm and a task are a population, where the method has some.
    """
    states = {e.path: e.status() for e in entries}
    done = sum(s == "finished" for s in states.values())
    print(f"{done} of {len(entries)} runs are finished", flush=True)
    for entry in entries:
        if states[entry.path] == OTHER:
            what = "; ".join(entry.departures())
            print(f"{OTHER} {entry.path}: {what}. Not counted and not gone on with: move it away")
    waiting = [e for e in entries if states[e.path] not in ("finished", OTHER)]
    waiting.sort(key=lambda e: (not e.arm.first, e.seed))
    work = jobs_of(waiting, states, as_one)
    for one in work:
        note_asked(one)
    by_path = {job.path: own for job, own in work}

    def told(job: Job, status: int, left: int) -> None:
        for entry in by_path[job.path]:
            print(f"{entry.status():11s} {entry.key} ({left} left)", flush=True)

    run_jobs([job for job, _ in work], engine, told)


@dataclass(frozen=True)
class CompareOptions(EngineOptions):
    """Run a suite, a file or the name of one of ours, to its end; write table, curves and CSVs."""

    threads: int = 1
    """CPU threads of each run"""
    population: bool = False
    """train the seeds of an arm and a task as one population, where the method has some"""
    out: Path = Path("runs")
    """folder of the run directories"""
    results: Path = Path("results")
    """folder of the small files to keep: CSV, stamps, table, curves"""


def suite_file(name: str) -> Path:
    """Return the file of a suite: a path, or the name of one of ours (`mbtl`).

    Raises FileNotFoundError for a path, and ValueError for a name, under which there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix or len(path.parts) != 1:
        raise FileNotFoundError(f"{path}: no such suite")
    ours = {p.stem: p for p in (HERE / "suites").glob("*.toml")}
    if name not in ours:
        raise unknown("suite", name, ours)
    return ours[name]


def main(args: Sequence[str]) -> int:
    """Run `reverie compare SUITE.toml`; the exit status is 1 if a run did not finish."""
    named = bool(args) and not args[0].startswith("-")
    if not named and not {"-h", "--help"} & set(args):
        raise ValueError("`reverie compare` needs a suite: reverie compare ncap --jobs 2")
    options = parse(CompareOptions, args[1:] if named else args, "compare SUITE")
    suite, entries = read_suite(suite_file(args[0]), options.out)
    engine = engine_of(options, options.threads)
    with stop_on_signals():
        run_all(entries, engine, options.population)
    results = options.results / suite.name
    write_results(entries, results)
    units = tables.units(entries)
    text = "\n\n".join(
        f"Last evaluation, `{metric}` (steps are {units}):\n\n{tables.table(entries, metric)}"
        for metric in suite.metrics
    )
    if suite.thresholds:
        text += f"\n\n{units[0].upper()}{units[1:]} until an evaluation reaches a return:\n\n"
        text += tables.reach(entries, suite.thresholds)
    write_text(results / "table.md", text + "\n")
    there = [e for e in entries if e.status() == "finished"]
    kept = [read_result(results / f"{e.key}.csv") for e in there]
    if any(len(r.columns.get("return", ())) for r in kept):
        panels(kept, results / "curves.png", units)
    print(f"\n{text}\n\n{results}/: table.md, curves.png and a CSV with stamp for each run")
    return 0 if len(there) == len(entries) else 1
