"""All that a report shows, as plain data: gathered once, then shown, embedded, compared."""

import dataclasses
import hashlib
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..runs.result import load_run
from ..runs.stamp import hardware
from . import report_panels
from .claim import Verdict, parse
from .claims import verdicts
from .plots import grouped
from .report_diff import VERSION
from .report_published import PROVENANCE, Published, beside, built_in
from .report_study import Study, study_data
from .results import Kept, has_results, read_results
from .suite import task_name

Json = dict[str, Any]


def find(paths: Sequence[Path]) -> list[Study]:
    """Return the studies in some folders: of `reverie compare`, folders of such, run directories.

    Runs that differ in nothing but the seed are an arm. Raises ValueError where there is nothing.
    """
    out: list[Study] = []
    runs = [p for p in paths if (p / "config.json").exists()]
    for path in paths:
        if path in runs:
            continue
        if not path.is_dir():
            raise FileNotFoundError(f"{path}: no such folder of results")
        folders = (path, *sorted(p for p in path.rglob("*") if p.is_dir()))
        for folder in filter(has_results, folders):
            own = folder.relative_to(path).as_posix()
            out.append(Study(path.name if own == "." else own, folder, read_results(folder)))
    if runs:
        out.append(_of_runs(runs))
    if not out:
        raise ValueError(
            f"no results of `reverie compare` and no runs in {[str(p) for p in paths]}"
        )
    return [_renamed(s, out) for s in out]


def _renamed(study: Study, among: Sequence[Study]) -> Study:
    """Return a study under a name of its own: with its folder's, where two share one."""
    if sum(s.name == study.name for s in among) == 1:
        return study
    return dataclasses.replace(study, name=f"{study.folder.parent.name}/{study.name}")


def _place(study: Study, paths: Sequence[Path]) -> int:
    """Return the number of the folder that a study was found in."""
    above = (study.folder, *study.folder.parents)
    return next((i for i, path in enumerate(paths) if path in above), len(paths))


def _of_runs(paths: Sequence[Path]) -> Study:
    """Return run directories as one study: an arm has the runs that differ in nothing but seed."""
    kept = []
    for name, mine in grouped([load_run(p) for p in paths]).items():
        env = str(mine[0].config.get("env", ""))
        arm = " ".join(word for word in name.replace(env, "", 1).split()).replace("/", "-")
        for run in mine:
            label = Path(arm, f"{task_name(env)}-s{run.config.get('seed', 0)}.csv")
            columns = run.frame() or {"step": np.empty(0)}
            kept.append(Kept(label, {**run.stamp, "config": run.config}, columns))
    return Study("runs", paths[0].parent, kept)


def digest(study: Study) -> str:
    """Return a sha256 over the names and contents of a study's files, in their order."""
    total = hashlib.sha256()
    for run in sorted(study.runs, key=lambda r: r.path):
        for path in (run.path, run.path.with_suffix(".json")):
            if path.exists():
                total.update(f"{path.parent.name}/{path.name}\0".encode())
                total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def stamps(study: Study) -> Json:
    """Return what a study's runs were made with, each once: code, versions, machines, dates."""
    seen = [r.stamp for r in study.runs]
    packages: dict[str, list[str]] = {}
    for stamp in seen:
        for name, version in stamp.get("packages", {}).items():
            packages.setdefault(name, []).append(version)
    starts = sorted(r.started for r in study.runs)
    commands = dict.fromkeys(shlex.join(s["command"]) for s in seen if s.get("command"))
    return {
        "revisions": _once(s.get("revision") or "unknown" for s in seen),
        "packages": {name: _once(v) for name, v in packages.items()},
        "machines": _once(
            f"{s.get('cpu')}, {s.get('cpus')} CPUs, {s.get('platform')}" for s in seen
        ),
        "threads": _once(str(s.get("threads", {}).get("torch")) for s in seen),
        "first": starts[0].date().isoformat(),
        "last": starts[-1].date().isoformat(),
        "commands": list(commands) or [f"reverie compare experiments/suites/{study.name}.toml"],
        "digest": digest(study),
    }


def _once(values: Any) -> list[str]:
    return list(dict.fromkeys(values))


def claim_data(v: Verdict) -> Json:
    """Return a verdict as plain data; `interval` is that of better less than."""
    own = dataclasses.asdict(v.claim)
    t = None if v.t is None else [v.t.difference, v.t.low, v.t.high]
    level = 95 if v.claim.margin is None else 90
    told = {"state": v.state, "detail": v.detail, "interval": t, "level": level}
    return {"sign": "higher", **own, **told}  # a matrix claim has no sign: more is better there


def judged(found: Sequence[Study], file: Path) -> list[Json]:
    """Return the verdicts on those claims of a file whose suites are among some studies."""
    if not file.exists():
        return []
    out: list[Json] = []
    names = {c.suite for c in parse(file.read_text(), str(file)).values()}
    for root in dict.fromkeys(s.folder.parent for s in found if s.name in names):
        here = {s.name for s in found if s.folder.parent == root}
        out += [claim_data(v) for v in verdicts(file, root) if v.claim.suite in here]
    return out


def metrics_of(study: Study, claims: Sequence[Json]) -> list[tuple[str, str]]:
    """Return what a study's tables show, with sign: what is claimed of it, and the return."""
    own = {c["metric"]: c["sign"] for c in claims if c["suite"] == study.name}
    own = {m: sign for m, sign in own.items() if m in study.columns}
    return list({**own, **({} if "return" in own else {"return": "higher"})}.items())


def gather(
    paths: Sequence[Path], claims: Path, published: Sequence[Published] = (), command: str = ""
) -> Json:
    """Return all that a page shows of some results, as plain data that `json` takes."""
    found = find(paths)
    told = judged(found, claims)
    suites = {c["suite"] for c in told}
    found.sort(key=lambda s: (_place(s, paths), s.name not in suites))
    shown = report_panels.panels(paths, found)
    reference = [*published, *built_in()]
    studies = []
    for study in found:
        data = study_data(study, metrics_of(study, told))
        envs = {r.task: str(r.stamp["config"].get("env", "")) for r in study.runs}
        data["published"] = beside(data, envs, reference)
        data["stamps"] = stamps(study)
        data["claims"] = [c["name"] for c in told if c["suite"] == study.name]
        studies.append(data)
    page: Json = plain(
        {
            "reverie_report": VERSION,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command,
            "stamp": hardware(),
            "claims": told,
            "studies": studies,
            "panels": shown,
            "reference": reference,
            "provenance": PROVENANCE,
        }
    )
    return page


def embedded(data: Mapping[str, Any]) -> str:
    """Return the data as JSON that may stand in a page: no NaN, no end of a script in it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def plain(value: Any) -> Any:
    """Return nested data, fractions with six digits, and None for what is not finite."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, str | bool | int) or value is None:
        return value
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else float(f"{number:.6g}")
