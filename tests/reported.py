"""Results for reports, written by hand as `reverie compare` keeps them, and a claim of them."""

import csv
import json
import subprocess
from datetime import UTC, datetime, timedelta

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CLAIM = """[faster]
says = "a returns more than b"
suite = "s"
env = "E-v0"
steps = 20
metric = "return"
better = "a"
than = "b"
seeds = "0:3"
"""
SUITE = """name = "s"
seeds = "0:3"
[[arms]]
name = "a"
method = "mine.a"
set = { lr = 1.0 }
[[arms]]
name = "b"
method = "mine.a"
set = { lr = 2.0 }
[[tasks]]
env = "E-v0"
steps = 20
"""


def git(folder, *args, when=NOON):
    stamp = {"GIT_AUTHOR_DATE": when.isoformat(), "GIT_COMMITTER_DATE": when.isoformat()}
    name = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *name, *args], check=True, capture_output=True,
                   env=stamp)  # fmt: skip


def put(folder, arm, seed, rows, task="E-v0", method="mine.a", **stamp):
    """Write a run: `rows` maps columns to values, step among them."""
    path = folder / arm / f"{task}-s{seed}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*rows, "seed"])
        writer.writerows([*values, seed] for values in zip(*rows.values(), strict=True))
    config = {"env": task, "steps": 20, "seed": seed, "lr": {"a": 1.0, "b": 2.0}.get(arm, 0.0)}
    told = {
        "method": method, "seed": seed, "status": "finished", "started": NOON.isoformat(),
        "updated": (NOON + timedelta(seconds=30)).isoformat(), "revision": "abc123", "step": 20,
        "packages": {"torch": "2.13.0"}, "cpu": "a cpu", "cpus": 2, "platform": "Linux",
        "threads": {"torch": 1}, "config": config,
    }  # fmt: skip
    told |= stamp
    path.with_suffix(".json").write_text(json.dumps(told))
    return path


def claimed(folder):
    """Commit a claim with its suite, then its results: a is 2, 3 and 4 above b; return them."""
    (folder / "suites").mkdir(parents=True)
    (folder / "suites" / "s.toml").write_text(SUITE)
    (folder / "claims.toml").write_text(CLAIM)
    git(folder, "init", "-q")
    git(folder, "add", "-A", when=NOON - timedelta(hours=1))
    git(folder, "commit", "-qm", "x", when=NOON - timedelta(hours=1))
    results = folder / "results" / "s"
    for seed in range(3):
        put(results, "a", seed, {"step": [10, 20], "return": [1.0, 12.0 + seed]})
        put(results, "b", seed, {"step": [10, 20], "return": [2.0, 10.0]})
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "x")
    return results
