"""`reverie claims`: what was claimed before it was tried, and what came of it."""

import csv
import json
import subprocess
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from ...envs.errors import unknown
from . import stats
from .suite import parse_seeds
from .tables import digits

HERE = Path(__file__).parent.parent
PILOT = range(100, 105)  # seeds that choose settings and never give a verdict


@dataclass(frozen=True)
class Claim:
    """One contrast, fixed before its runs: `better` beats `than` in `metric` at `steps`."""

    name: str
    says: str
    suite: str
    env: str
    steps: int
    metric: str
    better: str
    than: str
    seeds: str

    def file(self, results: Path, arm: str, seed: int) -> Path:
        """Return where `reverie compare` puts the CSV of a run."""
        return results / self.suite / arm / f"{self.env.split('/')[-1]}-s{seed}.csv"


@dataclass(frozen=True)
class Verdict:
    """What the runs say: stands, undecided, refuted, or why there is no verdict."""

    claim: Claim
    state: str
    detail: str


FAULTS = ("not committed", "too late", "mixed settings")


def parse(text: str) -> dict[str, Claim]:
    """Return the claims of a claims.toml; ValueError for an unknown or missing key."""
    names = [f.name for f in fields(Claim)][1:]
    claims = {}
    for name, row in tomllib.loads(text).items():
        for key in row:
            if key not in names:
                raise unknown(f"key of claim {name}", key, names)
        if missing := [k for k in names if k not in row]:
            raise ValueError(f"claim {name} lacks {', '.join(missing)}")
        if overlap := set(parse_seeds(row["seeds"])) & set(PILOT):
            raise ValueError(f"claim {name}: {sorted(overlap)} are pilot seeds, which choose")
        claims[name] = Claim(name=name, **row)
    return claims


def _git(folder: Path, *args: str) -> str | None:
    try:
        command = ["git", "-C", str(folder), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def committed(path: Path, claim: Claim) -> datetime | None:
    """Return when the claim was committed as it reads now; None if it was not, or git is gone."""
    log = _git(path.parent, "log", "--format=%H %cI", "--", path.name)
    since = None
    for line in (log or "").splitlines():  # from the newest back, while it reads the same
        commit, when = line.split()
        text = _git(path.parent, "show", f"{commit}:./{path.name}")
        try:
            then = parse(text or "").get(claim.name)
        except ValueError:
            then = None
        if then != claim:
            break
        since = datetime.fromisoformat(when)
    return since


def _last(path: Path, claim: Claim) -> float | None:
    """Return the metric in the row of the claim's step, or of the first one beyond it."""
    with path.open() as file:
        rows = [r for r in csv.DictReader(file) if int(r["step"]) >= claim.steps]
    if not rows:
        return None
    if claim.metric not in rows[0]:
        raise unknown(f"metric of claim {claim.name}", claim.metric, rows[0])
    return float(rows[0][claim.metric])


def _settings(stamp: dict[str, Any]) -> dict[str, Any]:
    config = {k: v for k, v in stamp["config"].items() if k != "seed"}
    config["run"] = {k: v for k, v in config["run"].items() if k not in ("name", "threads")}
    return config


def verdict_of(claim: Claim, results: Path, since: datetime | None) -> Verdict:
    """Compare the arms over all verdict seeds, paired by seed, with the t interval.

    There is no verdict before every run is there, finished and younger than the claim.
    """
    if since is None:
        return Verdict(claim, "not committed", "commit it before its runs")
    arms: dict[str, list[float]] = {claim.better: [], claim.than: []}
    seeds = parse_seeds(claim.seeds)
    for arm, values in arms.items():
        settings = None
        for seed in seeds:
            path = claim.file(results, arm, seed)
            if not path.exists():
                continue
            stamp = json.loads(path.with_suffix(".json").read_text())
            if datetime.fromisoformat(stamp["started"]) < since:
                detail = f"{arm} seed {seed} started {stamp['started']}, committed {since}"
                return Verdict(claim, "too late", detail)
            if settings is not None and _settings(stamp) != settings:
                return Verdict(claim, "mixed settings", f"{arm} seed {seed} differs")
            settings = _settings(stamp)
            value = _last(path, claim)
            if value is not None and stamp["status"] == "finished":
                values.append(value)
    have = min(len(v) for v in arms.values())
    if have < len(seeds):
        return Verdict(claim, "incomplete", f"{have} of {len(seeds)} pairs")
    t = stats.paired_t(arms[claim.better], arms[claim.than])
    means = [sum(v) / len(v) for v in arms.values()]
    detail = (
        f"{digits(means[0])} against {digits(means[1])}: difference {digits(t.difference)} "
        f"({digits(t.low)} to {digits(t.high)}), {len(seeds)} pairs"
    )
    state = "stands" if t.low > 0 else "refuted" if t.high < 0 else "undecided"
    return Verdict(claim, state, detail)


@dataclass(frozen=True)
class ClaimsOptions:
    """Say which claims stand."""

    claims: Path = HERE / "claims.toml"
    """the file of claims, in a git repository"""
    results: Path = HERE / "results"
    """the results of `reverie compare`"""


def main(args: Sequence[str]) -> int:
    """Run `reverie claims`; the exit status is 1 if a claim breaks the rules."""
    import tyro

    options = tyro.cli(ClaimsOptions, args=list(args), prog="reverie claims")
    if not options.claims.exists():
        raise FileNotFoundError(f"{options.claims}: no such file of claims")
    claims = parse(options.claims.read_text())
    verdicts = [
        verdict_of(c, options.results, committed(options.claims, c)) for c in claims.values()
    ]
    print("| claim | verdict | runs |\n|---|---|---|")
    for v in verdicts:
        print(f"| {v.claim.says} | {v.state} | {v.detail} |")
    return 1 if any(v.state in FAULTS for v in verdicts) else 0
