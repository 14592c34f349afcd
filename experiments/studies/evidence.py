"""What a verdict rests on: commits of claims, suites and results, and the stamped settings."""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from ...envs.errors import unknown
from .. import methods
from ..runs.config import to_dict
from .results import Kept
from .settings import NEUTRAL, flat
from .suite import Suite, parse_suite

OURS = Path(__file__).parent.parent.parent  # the code whose revision a stamp tells


class Commit(NamedTuple):
    """A commit, and when it was made."""

    id: str
    when: datetime


def git(folder: Path, *args: str, feed: str | None = None) -> str | None:
    """Return what git says in a folder; None where it fails or is not there."""
    command = ["git", "-C", str(folder), *args]
    try:
        out = subprocess.run(command, input=feed, capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return out.stdout


def versions(path: Path) -> list[tuple[Commit, str]]:
    """Return what a file said at each commit that changed it, the newest first."""
    out = []
    for line in (git(path.parent, "log", "--format=%H %cI", "--", path.name) or "").splitlines():
        commit, when = line.split()
        text = git(path.parent, "show", f"{commit}:./{path.name}") or ""
        out.append((Commit(commit, datetime.fromisoformat(when)), text))
    return out


def suite_at(claims: Path, commit: Commit, name: str) -> Suite:
    """Return a suite as of a commit: `suites/NAME.toml` beside the claims, or `NAME.toml`.

    Raises ValueError where there was none of that name, or none that can be read.
    """
    places = (f"suites/{name}.toml", f"{name}.toml")
    for place in places:
        text = git(claims.parent, "show", f"{commit.id}:./{place}")
        if text is not None:
            suite = parse_suite(text, f"{place} of {commit.id[:12]}")
            if suite.name == name:
                return suite
    raise ValueError(f"no {' or '.join(places)} named {name!r} in the claim's {commit.id[:12]}")


def not_committed(files: Sequence[Path]) -> Path | None:
    """Return the first file that does not lie in the last commit as it lies in its folder.

    Contents are compared, not git's notes about them: those can be told to look away.
    """
    for folder in dict.fromkeys(f.parent for f in files):
        names = [f.name for f in files if f.parent == folder]
        tree = git(folder, "ls-tree", "-z", "HEAD", "./") or ""
        rows = [entry.split("\t", 1) for entry in tree.split("\0") if entry]
        committed = {name: row.split()[2] for row, name in rows}
        paths = "".join(f"{(folder / name).resolve()}\n" for name in names)
        hashes = git(folder, "hash-object", "--stdin-paths", feed=paths) or ""
        now = dict(zip(names, hashes.split(), strict=False))
        for name in names:
            if committed.get(name) is None or committed[name] != now.get(name):
                return folder / name
    return None


def settings_of(run: Kept) -> dict[str, Any]:
    """Return what a run was made with, under dotted names: the method too, the seed not."""
    config = flat(run.stamp["config"])
    kept = {k: v for k, v in config.items() if k not in NEUTRAL and k != "seed"}
    return {"method": run.stamp.get("method"), **kept}


def wanted(suite: Suite, arm: str, task: str, revision: str | None = None) -> dict[str, Any]:
    """Return what a suite sets for an arm on a task, its preset's settings among them.

    Presets are this code's, or those of a revision. Raises ValueError where there is no such arm,
    task or preset.
    """
    arms = [a for a in suite.arms if a.name == arm]
    tasks = [t for t in suite.tasks if t.name == task]
    if not arms or not tasks:
        what = f"arm {arm!r}" if not arms else f"task {task!r}"
        raise ValueError(f"the suite {suite.name} has no {what}")
    own = {"method": arms[0].method, "env": tasks[0].env, "steps": tasks[0].steps}
    own |= flat(tasks[0].settings) | flat(arms[0].settings)
    preset = preset_settings(arms[0].method, arms[0].preset, revision)
    return {k: v for k, v in (preset | own).items() if k not in NEUTRAL}


_ASK = """import dataclasses, json, sys
from reverie.experiments import {method} as script
print(json.dumps([dataclasses.asdict(script.PRESETS[n]) for n in ("default", sys.argv[1])]))"""


def preset_settings(method: str, preset: str, revision: str | None = None) -> dict[str, Any]:
    """Return where a preset departs from the default: in this code, or in that of a revision.

    A revision's code runs in a process of its own. It is this package's own history that is asked,
    never a repository that claims happen to lie in; nor is anybody's method imported for a claim.
    """
    if preset == "default":
        return {}
    if method not in methods.METHODS:
        raise ValueError(f"preset {preset!r} of {method!r}: name what it sets in the suite's `set`")
    if revision is None:
        presets = methods.script(method).PRESETS
        if preset not in presets:
            raise unknown(f"preset of {method}", preset, presets)
        pair = [to_dict(presets[n]) for n in ("default", preset)]
    else:
        pair = _presets_then(method, preset, revision)
    base, own = (flat(json.loads(json.dumps(p))) for p in pair)
    return {k: v for k, v in own.items() if k not in base or base[k] != v}


def _presets_then(method: str, preset: str, revision: str) -> list[dict[str, Any]]:
    commit = git(OURS, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    what = f"preset {preset!r} of {method} in revision {revision}"
    if commit is None:
        raise ValueError(f"{what}: that revision is not in {OURS}'s history")
    with tempfile.TemporaryDirectory(prefix="reverie-") as folder:
        try:
            command = ["git", "-C", str(OURS), "archive", commit.strip()]
            packed = subprocess.run(command, capture_output=True, check=True).stdout
            with tarfile.open(fileobj=io.BytesIO(packed)) as tree:
                tree.extractall(Path(folder) / "reverie", filter="data")
            ask = [sys.executable, "-c", _ASK.format(method=method), preset]
            env = {**os.environ, "PYTHONPATH": folder}
            told = subprocess.run(ask, capture_output=True, check=True, cwd=folder, env=env).stdout
            pair: list[dict[str, Any]] = json.loads(told)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise ValueError(f"{what} cannot be read: {error}") from error
    return pair


def departures(run: Kept, want: Mapping[str, Any]) -> list[str]:
    """Return where a run's stamp departs from what its suite sets, as far as the suite sets it."""
    found = settings_of(run)
    return [f"{k} is {found.get(k)!r}, not {v!r}" for k, v in want.items() if found.get(k) != v]
