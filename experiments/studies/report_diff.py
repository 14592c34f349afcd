"""What two reports say differently: `reverie report --diff A.html B.html`."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import stats
from .report_tables import number, span, table

VERSION = 1  # of the data in a page
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
Json = Mapping[str, Any]


def read_page(path: Path) -> Json:
    """Return the data in a report; ValueError for a file that is none, or another version's."""
    found = DATA.search(path.read_text(encoding="utf-8", errors="replace"))
    told = json.loads(found[1]) if found else None
    if not isinstance(told, dict) or "reverie_report" not in told:
        raise ValueError(f"{path} is no page of `reverie report`: there is no data of one in it")
    if told["reverie_report"] != VERSION:
        have = told["reverie_report"]
        raise ValueError(f"{path} has data of version {have}, not {VERSION}: write it again")
    return told


def claims(a: Json, b: Json) -> list[Sequence[str]]:
    """Return the claims whose verdicts differ: name, then state and interval in each."""
    both = [{c["name"]: c for c in page["claims"]} for page in (a, b)]
    out: list[Sequence[str]] = []
    for name in dict.fromkeys([*both[0], *both[1]]):
        told = [c.get(name) for c in both]
        if (
            told[0] is None
            or told[1] is None
            or any(told[0][k] != told[1][k] for k in ("state", "interval"))
        ):
            said = ["-" if c is None else f"{c['state']} ({_interval(c)})" for c in told]
            out.append((name, *said))
    return out


def _interval(claim: Json) -> str:
    return span(claim["interval"][1:]) if claim["interval"] else "no interval"


Key = tuple[str, str, str, str]


def rows_of(page: Json) -> dict[Key, Json]:
    """Return a page's final values by study, metric, task and arm."""
    return {
        (s["name"], metric, r["task"], r["arm"]): r
        for s in page["studies"]
        for metric, rows in s["tables"].items()
        for r in rows
    }


def values(a: Json, b: Json) -> list[Sequence[str]]:
    """Return the final values that differ: whose, mean in each, and what B has more, by seed.

    The difference is that of the seeds which both have, with its paired 95 % t interval from two.
    """
    left, right = rows_of(a), rows_of(b)
    out: list[Sequence[str]] = []
    for key in dict.fromkeys([*left, *right]):
        rows = [side[key]["values"] if key in side else None for side in (left, right)]
        if rows[0] == rows[1]:
            continue
        means = ["-" if not r else number(sum(r.values()) / len(r)) for r in rows]
        out.append((*key, *means, _more(rows[0] or {}, rows[1] or {})))
    return out


def _more(a: Mapping[str, float], b: Mapping[str, float]) -> str:
    shared = [seed for seed in a if seed in b]
    if len(shared) < 2:
        return f"{len(shared)} shared seeds"
    t = stats.paired_t([b[s] for s in shared], [a[s] for s in shared])
    return f"{number(t.difference)} ({span([t.low, t.high])}), {len(shared)} shared seeds"


def diff(a: Path, b: Path) -> str:
    """Return what two reports say differently, as Markdown."""
    one, two = read_page(a), read_page(b)
    lines = [f"# {a} against {b}", ""]
    if changed := claims(one, two):
        lines += ["## Claims", "", *table(("claim", "A", "B"), changed)]
    if moved := values(one, two):
        head = ("study", "metric", "task", "arm", "A", "B", "B less A (95 % paired t)")
        lines += ["## Final values", "", *table(head, moved)]
    digests = [{s["name"]: s["stamps"]["digest"] for s in page["studies"]} for page in (one, two)]
    same = [name for name, d in digests[0].items() if digests[1].get(name) == d]
    lines += [f"{len(same)} of {len(digests[0] | digests[1])} studies are of the same files."]
    return "\n".join(lines) + "\n"
