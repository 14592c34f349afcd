"""`reverie compare SUITE.toml`: arms x tasks x seeds on a local process pool, resumable."""

import csv
import json
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..envs.names import unknown
from . import cli, stats
from .config import from_dict, save_config, to_dict
from .result import load_run


@dataclass(frozen=True)
class Arm:
    """One contestant: a method script and what it sets, as dotted names."""

    name: str
    method: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """One run of a suite."""

    arm: Arm
    env: str
    seed: int
    config: Any
    path: Path

    @property
    def key(self) -> str:
        """Name of the run within its suite."""
        return f"{self.arm.name}/{self.env.split('/')[-1]}-s{self.seed}"

    def status(self) -> str:
        """Return the run's state: missing, running (or killed), interrupted, finished, ..."""
        stamp = self.path / "stamp.json"
        if not stamp.exists():
            return "missing"
        data = json.loads(stamp.read_text())
        done = data["status"] == "finished" and data["step"] >= self.config.steps
        return "finished" if done else str(data["status"]).replace("finished", "shorter")


def put(values: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values with dotted settings, e.g. {"agent.critic_norm": "layer"}, put in."""
    out = json.loads(json.dumps(values))
    for name, value in settings.items():
        at = out
        *parents, last = name.split(".")
        for parent in parents:
            if parent not in at:
                raise unknown("setting", name, out)
            at = at[parent]
        if last not in at:
            raise unknown(f"setting {name!r}, part", last, at)
        at[last] = value
    return dict(out)


KEYS = ("name", "seeds", "arms", "tasks", "thresholds", "metrics")


def read_suite(path: Path, out: Path) -> tuple[dict[str, Any], list[Job]]:
    """Return the suite and its runs; every setting is checked before anything starts."""
    import importlib

    suite = tomllib.loads(path.read_text())
    for key in suite:
        if key not in KEYS:
            raise unknown("suite key", key, KEYS)
    jobs = []
    for row in suite["arms"]:
        arm = Arm(row["name"], row["method"], row.get("set", {}))
        if arm.method not in cli.METHODS:
            raise unknown("method", arm.method, cli.METHODS)
        module = importlib.import_module(f".{arm.method}", __package__)
        base = to_dict(module.PRESETS[row.get("preset", "default")])
        for task in suite["tasks"]:
            for seed in cli.parse_seeds(suite["seeds"]):
                short = task["env"].split("/")[-1]
                folder = out / suite["name"] / arm.name
                place = {
                    "run.out": str(folder),
                    "run.name": f"{short}-s{seed}",
                    "run.progress": False,
                }
                own = {"env": task["env"], "steps": task["steps"], "seed": seed}
                values = put(base, {**own, **task.get("set", {}), **arm.settings, **place})
                config = from_dict(module.Config, values)
                jobs.append(Job(arm, task["env"], seed, config, folder / f"{short}-s{seed}"))
    return suite, jobs


def _start(job: Job, threads: int) -> subprocess.Popen[bytes]:
    """Start a run, or go on with one that was cut; its output goes beside its directory."""
    job.path.parent.mkdir(parents=True, exist_ok=True)
    resumable = job.arm.method != "peer" and (job.path / "config.json").exists()
    command = [sys.executable, "-m", "reverie.experiments.cli", job.arm.method]
    if resumable:
        command += ["--resume", str(job.path), "--steps", str(job.config.steps)]
    else:
        if job.path.exists():  # a peer cannot be continued: it starts again
            shutil.rmtree(job.path)
        file = job.path.with_suffix(".config.json")
        save_config(file, job.arm.method, job.config)
        command += ["--config", str(file)]
    command += ["--threads", str(threads)]
    with job.path.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def run_all(jobs: Sequence[Job], parallel: int, threads: int) -> None:
    """Bring every run that is not finished to its end, `parallel` at a time, seed by seed.

    A study that is cut short has then all arms of the seeds that it has.
    """
    waiting = sorted((j for j in jobs if j.status() != "finished"), key=lambda j: j.seed)
    running: dict[str, tuple[Job, subprocess.Popen[bytes]]] = {}
    print(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are finished", flush=True)
    while waiting or running:
        while waiting and len(running) < parallel:
            job = waiting.pop(0)
            running[job.key] = (job, _start(job, threads))
        time.sleep(0.1)
        for key, (job, process) in list(running.items()):
            if process.poll() is not None:
                del running[key]
                print(f"{job.status():11s} {key} ({len(waiting)} waiting)", flush=True)


def write_results(jobs: Sequence[Job], results: Path) -> None:
    """Write each run's CSV `step,return,seed,...` and stamp; failed ones too.

    A continual learner's matrix, a row after each task, goes to `NAME.tasks.csv` beside it.
    """
    for job in jobs:
        if job.status() == "missing":
            continue
        run = load_run(job.path)
        target = results / f"{job.key}.csv"
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_csv(target, run.frame(), job.seed)
        if tasks := run.frame("task"):
            _write_csv(target.with_suffix(".tasks.csv"), tasks, job.seed)
        # What was run and on what, without the folders of the machine that it was run on.
        settings = {k: v for k, v in run.config["run"].items() if k != "out"}
        stamp = {k: v for k, v in run.stamp.items() if k != "command"}
        stamp |= {"status": job.status(), "config": {**run.config, "run": settings}}
        target.with_suffix(".json").write_text(json.dumps(stamp, indent=1) + "\n")


def _write_csv(target: Path, frame: Mapping[str, Any], seed: int) -> None:
    with target.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        others = [k for k in frame if k not in ("step", "return")]
        writer.writerow(["step", "return", "seed", *others])
        for i, step in enumerate(frame.get("step", [])):
            values = [repr(float(frame[k][i])) for k in ("return", *others)]
            writer.writerow([int(step), values[0], seed, *values[1:]])


def finals(jobs: Sequence[Job], arm: str, env: str, metric: str = "return") -> dict[int, float]:
    """Return a metric in the last evaluation of each finished seed of an arm on a task."""
    out = {}
    for job in jobs:
        if (job.arm.name, job.env) == (arm, env) and job.status() == "finished":
            frame = load_run(job.path).frame()
            if metric in frame:
                out[job.seed] = float(frame[metric][-1])
    return out


def table(jobs: Sequence[Job], metric: str = "return") -> str:
    """Return final values as a Markdown table: mean, t interval, IQM, seeds, other states."""
    lines = ["| task | arm | mean | 95 % t interval | IQM | seeds |", "|---|---|---|---|---|---|"]
    for env in dict.fromkeys(j.env for j in jobs):
        for arm in dict.fromkeys(j.arm.name for j in jobs):
            mine = [j for j in jobs if (j.arm.name, j.env) == (arm, env)]
            values = np.array(list(finals(jobs, arm, env, metric).values()))
            other = [j.status() for j in mine if j.status() != "finished"]
            seeds = f"{len(values)}" + "".join(
                f", {other.count(s)} {s}" for s in sorted(set(other))
            )
            if len(values) < 2:
                mean = digits(values.mean()) if len(values) else "-"
                lines.append(f"| {env} | {arm} | {mean} | - | - | {seeds} |")
                continue
            t = stats.paired_t(values, np.zeros(len(values)))
            middle = float(stats.iqm(values[:, None]))
            lines.append(
                f"| {env} | {arm} | {digits(t.difference)} | {digits(t.low)} to {digits(t.high)} | "
                f"{digits(middle)} | {seeds} |"
            )
    return "\n".join(lines)


def digits(x: float) -> str:
    """Return a number for a table: one decimal of returns, three of scores."""
    return f"{x:,.1f}" if abs(x) >= 10 else f"{x:.3f}"


def steps_to(frame: Mapping[str, Any], threshold: float) -> float:
    """Return the step of the first evaluation at or above a threshold; NaN if there is none."""
    above = np.flatnonzero(np.asarray(frame["return"]) >= threshold)
    return float(frame["step"][above[0]]) if len(above) else float("nan")


def reach(jobs: Sequence[Job], thresholds: Sequence[float]) -> str:
    """Return how soon each arm's evaluations reach a return, as a Markdown table.

    Mean steps with t interval where every seed got there, else how many did.
    """
    head = " | ".join(f"to {x:g}" for x in thresholds)
    lines = [f"| task | arm | {head} |", "|---" * (2 + len(thresholds)) + "|"]
    for env in dict.fromkeys(j.env for j in jobs):
        for arm in dict.fromkeys(j.arm.name for j in jobs):
            mine = [j for j in jobs if (j.arm.name, j.env) == (arm, env)]
            frames = [load_run(j.path).frame() for j in mine if j.status() == "finished"]
            cells = []
            for threshold in thresholds:
                steps = np.array([steps_to(f, threshold) for f in frames])
                there = steps[np.isfinite(steps)]
                if len(there) < max(len(steps), 2):
                    cells.append(f"{len(there)} of {len(steps)}")
                    continue
                t = stats.paired_t(there, np.zeros(len(there)))
                cells.append(f"{t.difference:,.0f} ({t.low:,.0f} to {t.high:,.0f})")
            lines.append(f"| {env} | {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def curves(jobs: Sequence[Job], out: Path) -> None:
    """Draw a panel for each task: mean over seeds of every arm, single seeds thin."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(j.env for j in jobs))
    figure, panels = plt.subplots(
        1, len(tasks), figsize=(5.5 * len(tasks), 4), layout="constrained", squeeze=False
    )
    for env, axes in zip(tasks, panels[0], strict=True):
        for i, arm in enumerate(dict.fromkeys(j.arm.name for j in jobs)):
            frames = [
                load_run(j.path).frame()
                for j in jobs
                if (j.arm.name, j.env) == (arm, env) and j.status() == "finished"
            ]
            for frame in frames:
                axes.plot(frame["step"], frame["return"], color=f"C{i}", lw=0.6, alpha=0.35)
            if frames:
                mean = np.mean([f["return"] for f in frames], axis=0)
                axes.plot(
                    frames[0]["step"], mean, color=f"C{i}", lw=2, label=f"{arm} ({len(frames)})"
                )
        axes.set(title=env, xlabel="environment steps", ylabel="evaluation return")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    figure.savefig(out, dpi=130)
    plt.close(figure)


@dataclass(frozen=True)
class CompareOptions:
    """Run a suite to its end and write its table, curves and CSVs."""

    jobs: int = 1
    """runs at a time"""
    threads: int = 1
    """CPU threads of each run"""
    out: Path = Path("runs")
    """folder of the run directories"""
    results: Path = Path("results")
    """folder of the small files to keep: CSV, stamps, table, curves"""


def main(args: Sequence[str]) -> int:
    """Run `reverie compare SUITE.toml`; the exit status is 1 if a run did not finish."""
    import tyro

    if not args or args[0].startswith("-"):
        raise ValueError("`reverie compare` needs a suite: reverie compare SUITE.toml --jobs 2")
    options = tyro.cli(CompareOptions, args=list(args[1:]), prog="reverie compare SUITE.toml")
    path = Path(args[0])
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such suite")
    suite, jobs = read_suite(path, options.out)
    run_all(jobs, options.jobs, options.threads)
    results = options.results / suite["name"]
    write_results(jobs, results)
    text = "\n\n".join(
        f"Last evaluation, `{metric}`:\n\n{table(jobs, metric)}"
        for metric in suite.get("metrics", ["return"])
    )
    if "thresholds" in suite:
        text += "\n\nEnvironment steps until an evaluation reaches a return:\n\n"
        text += reach(jobs, suite["thresholds"])
    results.mkdir(parents=True, exist_ok=True)
    (results / "table.md").write_text(text + "\n")
    curves(jobs, results / "curves.png")
    print(f"\n{text}\n\n{results}/: table.md, curves.png and a CSV with stamp for each run")
    return 0 if all(j.status() == "finished" for j in jobs) else 1
