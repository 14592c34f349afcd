"""`reverie claims`: what was claimed before it was tried, and what came of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...envs.errors import unknown
from ..runs.config import parse as parse_options
from . import evidence, matrices, stats
from .claim import AnyClaim, Claim, MatrixClaim, Told, Verdict, parse
from .evidence import Commit
from .results import Kept, read_result
from .settings import differences
from .suite import Suite, parse_seeds, task_name
from .tables import digits

HERE = Path(__file__).parent.parent


FAULTS = (
    "not committed",
    "no suite",
    "too late",
    "code not clean",
    "mixed code",
    "other settings",
    "mixed settings",
    "other differences",
    "cannot be read",
    "results not committed",
)


History = Sequence[tuple[Commit, Mapping[str, AnyClaim]]]


def history(path: Path) -> History:
    """Return the claims as of each commit of their file, the newest first."""
    out = []
    for commit, text in evidence.versions(path):
        try:
            out.append((commit, parse(text)))
        except ValueError:
            out.append((commit, {}))
    return out


def committed(past: History, claim: AnyClaim) -> Commit | None:
    """Return the commit since which the claim reads as it does now; None if it was not."""
    since = None
    for commit, claims in past:  # from the newest back, while it reads the same
        if claims.get(claim.name) != claim:
            break
        since = commit
    return since


def removed(past: History, now: Mapping[str, AnyClaim]) -> list[Verdict]:
    """Return the claims that the file had once and has no more: they stay withdrawn."""
    out: dict[str, Verdict] = {}
    newer = None
    for commit, claims in past:
        for name, claim in claims.items():
            if name not in now and name not in out:
                by = f"by commit {newer.id[:12]}" if newer else "and that is not committed"
                out[name] = Verdict(claim, "withdrawn", f"taken out of the file, {by}")
        newer = commit
    return list(out.values())


def runs_of(claim: Claim, results: Path) -> dict[str, dict[int, Kept]]:
    """Return the runs that there are of both arms, by seed."""
    out: dict[str, dict[int, Kept]] = {claim.better: {}, claim.than: {}}
    for arm, runs in out.items():
        for seed in parse_seeds(claim.seeds):
            path = results / claim.suite / arm / f"{task_name(claim.env)}-s{seed}.csv"
            if path.exists():
                runs[seed] = read_result(path)
    return out


def broken(
    claim: Claim, arms: Mapping[str, Mapping[int, Kept]], commit: Commit, suite: Suite
) -> Told | None:
    """Return the first rule that a run breaks; None if none does."""
    code = None
    for arm, runs in arms.items():
        for seed, run in runs.items():
            who, stamp = f"{arm} seed {seed}", run.stamp
            if run.started < commit.when:
                return "too late", f"{who} started {run.started}, committed {commit.when}"
            revision = stamp.get("revision")
            if not revision or revision.endswith("-dirty"):
                return "code not clean", f"{who} was made by revision {revision}"
            code = code or revision
            if revision != code:
                return "mixed code", f"{who} was made by revision {revision}, others by {code}"
            if (made := stamp["config"].get("seed")) != seed:
                return "other settings", f"{who} was made with seed {made}"
    return _other_settings(claim, arms, suite, code) if code else None


def _other_settings(
    claim: Claim, arms: Mapping[str, Mapping[int, Kept]], suite: Suite, code: str
) -> Told | None:
    task, unit = task_name(claim.env), claim.unit or ""
    says: dict[str, Mapping[str, Any]] = {}
    own: dict[str, dict[str, Any]] = {}
    for arm, runs in arms.items():
        says[arm] = _says(suite, arm, task, list(runs.values()), code)
        for seed, run in runs.items():
            if departs := evidence.departures(run, says[arm]):
                return "other settings", f"{arm} seed {seed}: {'; '.join(departs)}"
            made = {k: v for k, v in evidence.settings_of(run).items() if k != unit}
            if differ := differences(made, own.setdefault(arm, made)):
                return "mixed settings", f"{arm} seed {seed} differs in {', '.join(differ)}"
    if len(own) < 2:
        return None
    allowed = claim.differs
    if allowed is None:
        allowed = tuple(differences(*says.values()))
    differ = differences(*own.values())
    if "method" in differ:  # what only one of two methods has is part of that
        differ = {k: p for k, p in differ.items() if all(k in made for made in own.values())}
    more = [k for k in differ if not any(f"{k}.".startswith(f"{name}.") for name in allowed)]
    if more or not differ:
        return "other differences", f"the arms differ in {', '.join(more) or 'nothing'}"
    return None


def _says(suite: Suite, arm: str, task: str, runs: Sequence[Kept], code: str) -> Mapping[str, Any]:
    """Return what the suite sets for an arm; its preset as of the runs, if it changed since."""
    try:
        says = evidence.wanted(suite, arm, task)
        if not any(evidence.departures(run, says) for run in runs):
            return says
    except ValueError:
        pass
    return evidence.wanted(suite, arm, task, code)


def values_of(claim: Claim, run: Kept, step: int) -> list[tuple[Any, float]]:
    """Return the metric of a run in its rows of a step, each with the unit that it is of.

    Of a claim on several evaluations, those of the steps before it too; none where they are fewer.
    """
    if claim.metric not in run.columns:
        raise unknown(f"metric of claim {claim.name}", claim.metric, run.columns)
    steps, known = run.columns["step"], np.isfinite(run.columns[claim.metric])
    last = np.unique(steps[known & (steps <= step)])[-claim.evaluations :]
    if step not in last or len(last) < claim.evaluations:
        return []
    at = known & np.isin(steps, last)
    values = run.columns[claim.metric][at].tolist()
    if claim.unit is None and len(values) > len(last):
        raise ValueError(f"{run.path} has {len(values)} rows at {last}: name the claim's unit")
    unit = claim.unit or "seed"
    settings = {**evidence.settings_of(run), "seed": run.stamp["config"]["seed"]}
    if unit in run.columns:
        return list(zip(run.columns[unit][at].tolist(), values, strict=True))
    if unit not in settings:
        raise unknown(f"unit of claim {claim.name}", unit, [*run.columns, *settings])
    return [(settings[unit], value) for value in values]


Means = dict[str, dict[Any, float]]  # of each arm: by unit


def gather(
    claim: Claim, arms: Mapping[str, Mapping[int, Kept]]
) -> tuple[Means, dict[str, list[int]], str]:
    """Return the mean of each arm's units, the seeds that diverged, and what is still missing.

    All are read at one step, the first evaluation at or beyond the claim's: a run that missed it
    is not read at another.
    """
    ended = [run for runs in arms.values() for run in runs.values() if run.finished]
    firsts = [step for run in ended if (step := run.first(claim.steps)) is not None]
    step = min(firsts, default=claim.steps)
    means: Means = {}
    diverged: dict[str, list[int]] = {}
    missing, pairs = [], []
    for arm, runs in arms.items():
        values: list[tuple[Any, float]] = []
        there = 0
        for seed, run in runs.items():
            if run.stamp["status"] == "diverged":
                diverged.setdefault(arm, []).append(seed)
                there += 1
            elif run.finished:
                own = values_of(claim, run, step)
                values += own
                there += bool(own)
                if not own:
                    missing.append(f"{arm} seed {seed} has no {claim.metric} at {step:,}")
        means[arm] = stats.within([v for _, v in values], [unit for unit, _ in values])
        pairs.append(there)
    if min(pairs) < (seeds := len(parse_seeds(claim.seeds))):
        return means, diverged, "; ".join([f"{min(pairs)} of {seeds} pairs", *missing])
    odd = set(means[claim.better]) ^ set(means[claim.than])
    if claim.unit and odd and not diverged:
        return means, diverged, f"{claim.unit} {sorted(odd)} in one of the arms only"
    return means, diverged, ""


def decide(
    claim: Claim, means: Mapping[str, Mapping[Any, float]], diverged: Mapping[str, Sequence[int]]
) -> Verdict:
    """Return the verdict of complete runs, paired by unit, with the t interval.

    A diverged run has the worst value of all; an arm that diverged once does not win, and is not
    equivalent.
    """
    lost = "undecided" if claim.margin is None else "not shown"
    told = "; ".join(f"{arm} diverged: seed {seeds}" for arm, seeds in diverged.items())
    both = {arm: dict(values) for arm, values in means.items()}
    if diverged:
        every = [v for values in both.values() for v in values.values()]
        if claim.unit or not every:
            return Verdict(claim, lost, told)
        worst = min(every) if claim.sign == "higher" else max(every)
        for arm, seeds in diverged.items():
            both[arm] |= dict.fromkeys(seeds, worst)
    a, b = both[claim.better], both[claim.than]
    if len(a) < 2:
        return Verdict(claim, "incomplete", f"{len(a)} pair; an interval needs 2")
    pair = [a[unit] for unit in a], [b[unit] for unit in a]
    t = stats.paired_t(*pair, level=0.95 if claim.margin is None else 0.9)
    mean_a, mean_b = (digits(sum(x.values()) / len(x)) for x in (a, b))
    detail = f"{mean_a} against {mean_b}: difference {digits(t.difference)} "
    detail += f"({digits(t.low)} to {digits(t.high)}), {len(a)} pairs"
    detail += f" of {claim.unit}" if claim.unit else ""
    detail += f"; {told}, counted as the worst" if told else ""
    if claim.margin is not None:
        detail += f"; 90 % interval, margin {claim.margin:g}"
        shown = stats.equivalent(*pair, claim.margin) and not diverged
        return Verdict(claim, "equivalent" if shown else lost, detail, t)
    low, high = (t.low, t.high) if claim.sign == "higher" else (-t.high, -t.low)
    if low > 0:
        return Verdict(claim, "stands" if claim.better not in diverged else lost, detail, t)
    return Verdict(claim, "refuted" if high < 0 else lost, detail, t)


def verdict_of(
    claim: AnyClaim, results: Path, commit: Commit | None, suite: Suite | str
) -> Verdict:
    """Compare the arms over all verdict seeds, if no rule is broken and every run is there.

    `commit`: the claim's; `suite`: its suite as of that commit, or why there is none. The results
    must be committed too.
    """
    if claim.withdrawn:
        return Verdict(claim, "withdrawn", claim.withdrawn)
    if commit is None:
        return Verdict(claim, "not committed", "commit it before its runs")
    if isinstance(suite, str):
        return Verdict(claim, "no suite", suite)
    try:
        if isinstance(claim, MatrixClaim):
            return matrices.judge(claim, results, commit, suite)
        arms = runs_of(claim, results)
        if told := broken(claim, arms, commit, suite):
            return Verdict(claim, *told)
        means, diverged, missing = gather(claim, arms)
    except ValueError as error:  # a damaged file, a metric, arm or preset that is not there
        return Verdict(claim, "cannot be read", str(error))
    if missing:
        return Verdict(claim, "incomplete", missing)
    files = [run.path for runs in arms.values() for run in runs.values()]
    files += [path.with_suffix(".json") for path in files]
    if (dirty := evidence.not_committed(files)) is not None:
        return Verdict(claim, "results not committed", f"{dirty} is not as in the last commit")
    return decide(claim, means, diverged)


@dataclass(frozen=True)
class ClaimsOptions:
    """Say which claims stand."""

    claims: Path = HERE / "claims.toml"
    """the file of claims, in a git repository; suites lie in `suites` beside it"""
    results: Path = HERE / "results"
    """the results of `reverie compare`, committed"""


def unchecked(claim: AnyClaim, results: Path) -> Verdict:
    """Return what numbers without a git history say of a claim: never that it stands."""
    told = "whether it was claimed before its runs can be told in a clone of the repository alone"
    if isinstance(claim, MatrixClaim) or claim.withdrawn:
        return Verdict(claim, "not checked", told)
    means, diverged, missing = gather(claim, runs_of(claim, results))
    if missing:
        return Verdict(claim, "incomplete", missing)
    v = decide(claim, means, diverged)
    detail = f"{v.detail}; by the numbers {v.state}; {told}"
    return dataclasses.replace(v, state="not checked", detail=detail)


def verdicts(file: Path, results: Path) -> list[Verdict]:
    """Return the verdict of every claim of a file, and those that it had once as withdrawn.

    The package's own claims, installed without their history, are `unchecked`.
    """
    claims = parse(file.read_text(), str(file))
    past = history(file)
    if not past and file == HERE / "claims.toml":  # installed: what came with the package
        return [unchecked(claim, results) for claim in claims.values()]
    out = []
    for claim in claims.values():
        commit = committed(past, claim)
        suite: Suite | str = ""
        if commit is not None:
            try:
                suite = evidence.suite_at(file, commit, claim.suite)
            except ValueError as error:
                suite = str(error)
        out.append(verdict_of(claim, results, commit, suite))
    return out + removed(past, claims)


def main(args: Sequence[str]) -> int:
    """Run `reverie claims`; the exit status is 1 if a claim breaks the rules."""
    options = parse_options(ClaimsOptions, args, "claims")
    if not options.claims.exists():
        raise FileNotFoundError(f"{options.claims}: no such file of claims")
    found = verdicts(options.claims, options.results)
    print("| claim | verdict | runs |\n|---|---|---|")
    for v in found:
        print(f"| {v.claim.says} | {v.state} | {v.detail} |")
    return 1 if any(v.state in FAULTS for v in found) else 0
