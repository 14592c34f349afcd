"""What a small contrast shows: a method beside its baseline, told in words by the numbers alone."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from . import stats
from .tables import digits

Json = dict[str, Any]


class Show(NamedTuple):
    """One contrast of a suite that is too small for a claim, and the claim that it hints at."""

    title: str
    about: str
    suite: str
    better: str
    than: str
    metric: str
    sign: Literal["higher", "lower"]
    claim: str


SAYS = {
    "shown": "Shows it here: {better} ahead in {won} of {n} seeds, the interval leaves zero out.",
    "hint": "A hint, no more: {better} ahead in all {n} seeds, but the interval holds zero.",
    "nothing": "Shows nothing at this scale: {better} ahead in {won} of {n} seeds, the interval "
    "holds zero.",
    "behind": "Shows nothing at this scale: {than} ahead in all {n} seeds, the interval "
    "holds zero.",
    "opposite": "Shows the opposite at this scale: {than} is better, the interval leaves zero out.",
    "single": "Shows nothing at this scale: one seed decides nothing.",
    "missing": "Not told: no seed of both arms came to its end.",
}  # what stands in a row, by its state


def state_of(gains: list[float], low: float, high: float) -> str:
    """Return what paired gains (above 0: better) with their interval amount to, a key of `SAYS`."""
    if low > 0:
        return "shown"
    if high < 0:
        return "opposite"
    if min(gains) > 0:
        return "hint"
    return "behind" if max(gains) < 0 else "nothing"


def told(show: Show, ours: Mapping[int, float], theirs: Mapping[int, float]) -> Json:
    """Return a contrast as plain data: values by seed, means, paired 95 % interval, state, words.

    `ours`, `theirs`: last values of `better` and `than` by seed; paired by the seeds that both
    have. The difference is of better less than, whichever sign is better.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    flip = 1.0 if show.sign == "higher" else -1.0
    gains = [flip * (ours[s] - theirs[s]) for s in seeds]
    mine, other = [ours[s] for s in seeds], [theirs[s] for s in seeds]
    interval = None
    state = ("missing", "single")[len(seeds)] if len(seeds) < 2 else ""
    if not state:
        t = stats.paired_t(mine, other)
        interval = [t.difference, t.low, t.high]
        low, high = (t.low, t.high) if flip > 0 else (-t.high, -t.low)
        state = state_of(gains, low, high)
    won = sum(g > 0 for g in gains)
    names = {"better": show.better, "than": show.than, "won": won, "n": len(seeds)}
    return {
        **show._asdict(),
        "values": {show.better: {str(s): ours[s] for s in seeds},
                   show.than: {str(s): theirs[s] for s in seeds}},
        "means": [sum(mine) / len(seeds), sum(other) / len(seeds)] if seeds else None,
        "interval": interval,
        "state": state,
        "says": SAYS[state].format(**names),
    }  # fmt: skip


def numbers(row: Mapping[str, Any]) -> str:
    """Return a row's numbers in a line: both means, and the difference with its interval."""
    if row["means"] is None:
        return "-"
    text = f"{digits(row['means'][0])} against {digits(row['means'][1])}"
    if row["interval"] is None:
        return text
    d, low, high = (digits(x) for x in row["interval"])
    return f"{text}: {'' if row['interval'][0] < 0 else '+'}{d} ({low} to {high})"
