"""The tables of a report as Markdown, and how its numbers are written."""

from collections.abc import Mapping, Sequence
from typing import Any

from .shows import numbers
from .tables import digits


def number(x: float | None) -> str:
    """Return a number for a table, a dash where there is none."""
    return "-" if x is None else digits(x)


def span(ends: Sequence[float | None] | None) -> str:
    """Return an interval `low to high`, a dash where there is none."""
    return "-" if not ends or None in ends else f"{number(ends[0])} to {number(ends[1])}"


def _row(*cells: Any) -> str:
    return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return a table as lines of Markdown."""
    return [_row(*head), "|" + "---|" * len(head), *(_row(*r) for r in rows), ""]


def seeds(row: Mapping[str, Any]) -> str:
    """Return how many seeds a row of final values has, and what became of the others."""
    return ", ".join([str(len(row["values"])), *(f"{n} {s}" for s, n in row["states"].items())])


def claims(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the verdicts as lines of Markdown."""
    return table(("claim", "verdict", "runs"), [(c["says"], c["state"], c["detail"]) for c in rows])


def finals(metric: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return final values as lines of Markdown."""
    head = ("task", "arm", "mean", "95 % t interval", "IQM", "95 % BCa interval", "best (oracle)",
            "seeds")  # fmt: skip
    cells = [
        (
            *(r["task"], r["arm"], number(r["mean"][0] if r["mean"] else None)),
            *(span(r["mean"][1:]), number(r["iqm"]), span(r["iqm_interval"])),
            *(number(r["best"]), seeds(r)),
        )
        for r in rows
    ]
    return [f"Last evaluation, `{metric}`:", "", *table(head, cells)]


def improvement(pairs: Mapping[str, Mapping[str, Sequence[float]]], metric: str) -> list[str]:
    """Return probabilities of improvement as lines of Markdown."""
    rows = [
        [a, *(f"{row[b][0]:.2f}" if b in row else "" for b in pairs)] for a, row in pairs.items()
    ]
    about = f"Probability that a run of the row beats one of the column, `{metric}`:"
    return [about, "", *table(("", *pairs), rows)]


def costs(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what runs cost as lines of Markdown."""
    names = {"env_steps": "environment steps", "updates": "updates", "dreamed": "dreamed steps",
             "synthetic": "synthetic rows", "seconds": "seconds"}  # fmt: skip
    cells = [[c["arm"], *("-" if c[n] is None else f"{c[n]:,.0f}" for n in names)] for c in rows]
    return ["Cost, mean of a run:", "", *table(("arm", *names.values()), cells)]


def published(place: Mapping[str, Any]) -> list[str]:
    """Return numbers of others beside ours as lines of Markdown."""
    head = ("who", "step", "mean", "sd", "n", "version", "action repeat", "source")
    ours = [
        (f"ours: {r['arm']}", f"{r['step']:,.0f}", number(r["mean"][0]), "-", len(r["values"]),
         r["version"] or "-", 1, "this report")
        for r in place["ours"]
    ]  # fmt: skip
    theirs = [
        (p["exp"], f"{p['step']:,.0f}", number(p["mean"]), number(p["sd"]), p["n"] or "-",
         p["version"] or "-", p["action_repeat"] or "-", p["source"])
        for p in place["theirs"]
    ]  # fmt: skip
    return [f"Beside published numbers, {place['env']}:", "", *table(head, [*ours, *theirs])]


def study(s: Mapping[str, Any]) -> list[str]:
    """Return all tables of a study as lines of Markdown."""
    lines = [f"## {s['name']}", "", f"Steps are {', '.join(s['units'])}.", ""]
    for metric, rows in s["tables"].items():
        lines += finals(metric, rows)
    if s.get("improvement"):
        lines += improvement(s["improvement"], s["primary"])
    lines += costs(s["cost"])
    for place in s["published"]:
        lines += published(place)
    t = s["stamps"]
    made = f"Revisions {', '.join(t['revisions'])}; {t['first']} to {t['last']}"
    return [*lines, f"{made}; sha256 `{t['digest']}`", ""]


def markdown(data: Mapping[str, Any], title: str) -> str:
    """Return a report's tables as Markdown."""
    lines = [f"# {title}", "", f"Made {data['made']} by `{data['command']}`.", ""]
    if rows := data["panels"]["shows"]:
        head = ("method", "against", "metric", "numbers", "what it shows")
        cells = [
            (f"{r['title']}: {r['better']}", r["than"], f"{r['metric']}, {r['sign']} is better",
             numbers(r), r["says"])
            for r in rows
        ]  # fmt: skip
        lines += ["## Small runs", "", *table(head, cells)]
    if data["claims"]:
        lines += ["## Claims", "", *claims(data["claims"])]
    for s in data["studies"]:
        lines += study(s)
    return "\n".join(lines)
