"""What methods leave behind beside returns: found in folders by what it holds, shown if there."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...agents.mbtl.matrix import load_matrix
from .report_study import Study
from .results import read_tasks

Json = dict[str, Any]
INNER = {"checkpoints", "best", "buffer", "synthetic", "real", "dump", "sources", "tensorboard"}
RUN = re.compile(r".*-s\d+(\.tasks)?\.json")  # a run's stamp, in results
LARGEST = 20_000_000  # bytes of a file that is looked into
HOW = {
    "selections": "transfer matrices with the order of picks (`reverie mbtl` writes them)",
    "matrices": "stored transfer matrices (`reverie matrix`)",
    "forgetting": "forgetting (suites of `reverie oer` keep what each task was worth after each)",
    "samplers": "samplers and their two-sample score (`experiments/studies/samplers.py`)",
    "marginals": "marginals of generated rows (`reverie quality RUN --json FILE`)",
    "episodes": "playable episodes (`reverie watch RUN --out FILE.json`)",
    "fans": "dreams of one episode (`reverie watch RUN --dream --out FILE.json`)",
    "circuits": "a circuit's activity (`reverie watch RUN --out FILE.json`, where it has one)",
    "conflict": "how much tasks conflict (suites of `reverie oer` with `conflict = true`)",
}


def files(paths: Sequence[Path]) -> Iterator[tuple[Path, Any]]:
    """Yield the JSON files of some folders that may hold a panel, with what they say."""
    seen = set()
    for path in paths:
        for file in sorted(path.rglob("*.json")):
            inner = file.relative_to(path).parts[:-1]
            # A matrix in a suite's results has its card, named as a stamp is, beside it.
            stamp = RUN.fullmatch(file.name) and not file.with_suffix(".safetensors").exists()
            if INNER & set(inner) or stamp or file.resolve() in seen:
                continue
            seen.add(file.resolve())
            if file.stat().st_size <= LARGEST:
                try:
                    yield file, json.loads(file.read_text())
                except ValueError:  # somebody else's file: no panel
                    continue


def kind_of(told: Any) -> str | None:
    """Return which panel a file's contents are, None for no panel's."""
    if not isinstance(told, Mapping):
        return None
    if "reverie_episodes" in told:
        return "episodes"
    if "reverie_shows" in told:
        return "shows"
    if {"picks", "values"} <= told.keys():
        return "selections"
    if {"features", "budget", "sha256"} <= told.keys():
        return "matrices"
    if {"marginals", "two_sample_auc"} <= told.keys():
        return "marginals"
    rows = told.get("rows")
    if isinstance(rows, list) and rows and "sampler" in rows[0]:
        return "samplers"
    return None


def panels(paths: Sequence[Path], studies: Sequence[Study]) -> Json:
    """Return what there is of each panel, and a line for each that is left out."""
    out: dict[str, list[Json]] = {kind: [] for kind in HOW}
    show = {"selections": selection, "matrices": matrix, "samplers": samplers,
            "marginals": marginals, "episodes": episodes}  # fmt: skip
    out["shows"] = []
    for file, told in files(paths):
        kind = kind_of(told)
        if kind == "shows":
            out["shows"] += told["rows"]
        elif kind is not None:
            out[kind].append({"name": _name(file), **show[kind](file, told)})
    out["fans"] = [{k: e[k] for k in ("name", "fan")} for e in out["episodes"] if e.get("fan")]
    out["circuits"] = [e for e in out["episodes"] if "circuit" in e["episodes"][0]]
    out["forgetting"] = [f for s in studies if (f := forgetting(s))]
    out["conflict"] = [c for s in studies if (c := conflict(s))]
    missing = [how for kind, how in HOW.items() if not out[kind]]
    del out["circuits"]  # they lie with their episodes
    return {**out, "missing": missing}


def _name(file: Path) -> str:
    """Return what a file is called by: its own name, in a run directory the run's."""
    runs = [p for p in file.parents if (p / "config.json").exists()]
    return runs[0].name if runs else f"{file.parent.name}/{file.stem}"


def episodes(file: Path, told: Mapping[str, Any]) -> Json:
    """Return kept episodes as they are."""
    return dict(told)


def selection(file: Path, told: Mapping[str, Any]) -> Json:
    """Return a selection: the returns [N, N] that it could see, and the sources in their order."""
    return {"values": told["values"], "picks": told["picks"]}


def matrix(file: Path, told: Mapping[str, Any]) -> Json:
    """Return a stored transfer matrix in units, mean over its seeds."""
    stored = load_matrix(file)
    about = f"{told['task']}, {' x '.join(told['features'])}, {len(told['seeds'])} seeds"
    return {"values": stored.unit().tolist(), "picks": [], "about": about}


def samplers(file: Path, told: Mapping[str, Any]) -> Json:
    """Return what each sampler's rows are like, mean over repeats; real rows beside."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for row in told["rows"]:
        rows.setdefault(row["sampler"], []).append(row)
    names = ("two_sample_auc", "marginal", "correlation", "nearest_ratio", "dynamics",
             "rows_per_second")  # fmt: skip
    table = [
        {"sampler": name, **{k: float(np.mean([r[k] for r in mine])) for k in names}}
        for name, mine in rows.items()
    ]
    first = told["rows"][0]
    real = {"marginal": first["marginal_real"], "correlation": first["correlation_real"],
            "dynamics": first["dynamics_real"]}  # fmt: skip
    return {"task": told.get("task", ""), "table": table, "real": real}


def marginals(file: Path, told: Mapping[str, Any]) -> Json:
    """Return histograms of each column of generated rows and of real ones, and their scores."""
    return {k: told[k] for k in ("what", "marginals", "two_sample_auc", "marginal")}


def forgetting(study: Study) -> Json | None:
    """Return each arm's returns [after task, on task], mean over seeds; None where none is kept."""
    arms = {}
    for arm in study.arms:
        kept = [t for r in study.runs if r.arm == arm and r.finished and (t := read_tasks(r))]
        names = [n for n in (kept[0] if kept else ()) if re.fullmatch(r"task\d+", n)]
        seeds = [np.stack([t[n] for n in names], axis=1) for t in kept] if names else []
        if seeds and len({x.shape for x in seeds}) == 1:
            arms[arm] = {"values": np.mean(seeds, axis=0).tolist(), "seeds": len(seeds)}
    return {"name": study.name, "arms": arms} if arms else None


def conflict(study: Study) -> Json | None:
    """Return each arm's cosines [task i, task j] of gradients at mu_j, mean over seeds, or None."""
    arms = {}
    for arm in study.arms:
        kept = [r.columns for r in study.runs if r.arm == arm and r.finished]
        names = [n for n in (kept[0] if kept else ()) if re.fullmatch(r"conflict_\d+_\d+", n)]
        if names:
            n = math.isqrt(len(names))
            rows = [[float(c[name][-1]) for name in names] for c in kept]
            arms[arm] = {"values": np.mean(rows, axis=0).reshape(n, n).tolist(), "seeds": len(rows)}
    return {"name": study.name, "arms": arms} if arms else None
