"""`make demo`: five methods live at small scale, each beside its baseline, and one page of it all.

Everything lies in `demo/`. The same command goes on with what is there; without that folder it
begins anew.
"""

import io
import json
import logging
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from ..buffers.aside import write_text
from ..envs.physics import affinity_threads
from .looking import quality
from .looking.commands import keep_episodes
from .runs import stopping
from .studies import report, shows
from .studies.claims import HERE
from .studies.flight import Flight
from .studies.pool import LocalEngine, run_jobs
from .studies.report_data import gather
from .studies.report_study import finals
from .studies.results import read_results, write_results
from .studies.shows import Show
from .studies.suite import OTHER, Entry, read_suite

MOST = 8  # runs at a time
PLAYED, LONGEST = 20, 200  # episodes that two are kept of, and their steps at most
COSTS = {"demo-ncap": 13.0, "demo-oer": 18.0, "demo-synther": 36.0, "demo-mbtl": 40.0,
         "demo-dreams": 22.0}  # CPU-seconds of a run: how far the bar goes by it  # fmt: skip
SHOWS = (
    Show("NCAP", "a swimmer's circuit after C. elegans against a sine wave, by the same search",
         "demo-ncap", "circuit", "cpg", "return", "higher", ""),
    Show("OER", "five rows of each task kept, chosen by MBES, against plain fine-tuning",
         "demo-oer", "mbes-5", "fine-tuning", "forgetting", "lower", ""),
    Show("OER", "the same against five rows kept at random",
         "demo-oer", "mbes-5", "random-5", "forgetting", "lower", "oer-d2"),
    Show("SynthER", "SAC with a diffusion model's rows in half of each batch against SAC without",
         "demo-synther", "with", "without", "return", "higher", "synther"),
    Show("MBTL", "pole lengths to train on, chosen by what the others earned, against random ones",
         "demo-mbtl", "improved", "random", "return", "higher", ""),
    Show("Dream worlds", "a controller trained in dreams under dropout masks, played in reality, "
         "against one from dreams without masks",
         "demo-dreams", "masks", "no-masks", "return", "higher", ""),
    Show("Dream worlds", "the same against SAC on the 6,000 real steps that the dreams are of",
         "demo-dreams", "masks", "sac", "return", "higher", ""),
)  # fmt: skip


class Demo(NamedTuple):
    """What a demo runs; where suites, claims and results lie; where all that it makes goes."""

    shows: Sequence[Show]
    costs: Mapping[str, float]
    home: Path
    folder: Path


OURS = Demo(SHOWS, COSTS, HERE, Path("demo"))


def main(args: Sequence[str] = (), demo: Demo = OURS) -> int:
    """Run what is not finished yet, write the page, print a table; 1 if a run did not finish."""
    if {"-h", "--help"} & set(args):
        print(f"usage: reverie demo\n\n{__doc__}")
        return 0
    if args:
        raise ValueError(f"`reverie demo` takes no options, got {' '.join(args)!r}")
    logging.getLogger("reverie").setLevel(logging.WARNING)
    start = time.monotonic(), _cpu()
    entries = {
        name: read_suite(demo.home / f"suites/{name}.toml", demo.folder / "runs")[1]
        for name in demo.costs
    }
    with stopping.stop_on_signals():
        run(entries, demo.costs)
        keep(entries, demo.folder / "results", stopping.asked)
    data = write_page(demo)
    tell(data)
    spent = (time.monotonic() - start[0]) / 60, _cpu() - start[1]
    print(f"\n{spent[0]:.1f} minutes, {spent[1]:,.0f} CPU-seconds.")
    left = [e for own in entries.values() for e in own if e.status() != "finished"]
    for e in left:
        print(f"{e.status():11s} {e.path}: see {e.path}.log")
    print(f"\nThe page: {demo.folder / 'report.html'}  (opens in any browser, needs no network)")
    print("Try next: reverie compare ncap --jobs 2   (a study at full size)")
    print("          reverie claims                   (what was claimed, and whether it stands)")
    return 1 if left else 0


def _cpu() -> float:
    """Return CPU-seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def run(entries: Mapping[str, Sequence[Entry]], costs: Mapping[str, float]) -> None:
    """Bring every run to its end, with one bar; raise Interrupted where asked to stop.

    Arm after arm of a seed over all suites: a run that others of its suite wait for comes early.
    """
    jobs, cost, done = [], {}, 0.0
    for name, own in entries.items():
        arms = list(dict.fromkeys(e.arm.name for e in own))
        for e in own:
            status = e.status()
            if status == OTHER:
                what = "; ".join(e.departures())
                raise ValueError(f"{e.path} is of another demo ({what}): move it away, or demo/")
            if status == "finished":
                done += costs[name]
            else:
                jobs.append((e.seed, arms.index(e.arm.name), e.job))
                cost[e.path] = costs[name]
    jobs.sort(key=lambda row: row[:2])
    n, at_once = sum(map(len, entries.values())), min(MOST, affinity_threads())
    print(f"{len(entries)} methods, {n} small runs, {n - len(jobs)} finished; {at_once} at a time")
    engine, todo = LocalEngine(at_once, 1), [job for _, _, job in jobs]
    if todo:
        run_jobs(todo, engine, bar=Flight(todo, engine.begun, cost, done))


def keep(entries: Mapping[str, Sequence[Entry]], results: Path, stop: Callable[[], bool]) -> None:
    """Write the small files of each suite, and what the page's panels show of its first seed."""
    for name, own in entries.items():
        folder = results / name
        write_results(own, folder)
        for e in own:
            if stop():
                raise stopping.Interrupted("all runs had ended; the same command goes on")
            if e.seed == own[0].seed and e.status() == "finished":
                keep_panels(e, folder)


def keep_panels(e: Entry, folder: Path) -> None:
    """Write episodes of a run, dreams and generated rows where it has some, and what it chose."""
    episodes, rows = (folder / f"{e.arm.name}{end}" for end in (".json", "-rows.json"))
    if _older(episodes, e.path):
        keep_episodes(e.path, episodes, PLAYED, LONGEST, dream=e.arm.method == "dreamland")
    if e.arm.method == "synther" and e.config.rows == "diffusion" and _older(rows, e.path):
        with redirect_stdout(io.StringIO()):  # its table is in the page
            quality.main([str(e.path), "--rows", "2000", "--json", str(rows)])
    chosen = e.path / "figures" / "selection.json"
    if chosen.exists():
        write_text(folder / f"{e.arm.name}-selection.json", chosen.read_text())


def _older(file: Path, run: Path) -> bool:
    """Return whether a file is not there, or from before a run's end."""
    return not file.exists() or file.stat().st_mtime < (run / "stamp.json").stat().st_mtime


def write_page(demo: Demo) -> dict[str, Any]:
    """Write what each method shows, and the page of it beside the committed results."""
    rows, home, folder = [], demo.home, demo.folder
    for show in demo.shows:
        place = folder / "results" / show.suite
        there = read_results(place) if any(place.glob("*/*.json")) else []
        arms = (show.better, show.than)
        ours, theirs = (finals([r for r in there if r.arm == arm], show.metric) for arm in arms)
        rows.append(shows.told(show, ours, theirs))
    told = {"reverie_shows": 1, "rows": rows}
    write_text(folder / "results" / "shows.json", json.dumps(told, indent=1) + "\n")
    paths = [p for p in (folder / "results", home / "results") if p.is_dir()]
    out = folder / "report.html"
    command = shlex.join(["reverie", "report", *map(os.path.relpath, paths), "--out", str(out)])
    data = gather(paths, home / "claims.toml", command=command)
    report.write(data, out, "Reverie demo")
    return data


def tell(data: Mapping[str, Any]) -> None:
    """Print each method with its baseline and numbers, what that shows, and the verdict on it."""
    from rich.console import Console
    from rich.table import Table

    table = Table("method", "what is compared", "numbers", "what it shows", "committed verdict",
                  title="Small runs: what they show at this scale", show_lines=True)  # fmt: skip
    verdicts = {c["name"]: c["state"] for c in data["claims"]}
    for row in data["panels"]["shows"]:
        about = f"{row['about']} ({row['better']}, {row['than']})"
        what = f"{row['metric']}, {row['sign']} is better: {shows.numbers(row)}"
        table.add_row(row["title"], about, what, row["says"], _verdict(row, verdicts))
    Console(width=None if os.isatty(1) else 110).print(table)


def _verdict(row: Mapping[str, Any], verdicts: Mapping[str, str]) -> str:
    """Return the verdict of the claim that a row is a small version of."""
    return verdicts.get(row["claim"], "not run yet") if row["claim"] else "none claimed"
