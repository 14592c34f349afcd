"""What a claims.toml says, before anything is looked up."""

import tomllib
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal

from ...envs.errors import unknown
from ..runs.config import in_range
from ..runs.typed import convert
from .stats import Paired
from .suite import parse_seeds

PILOT = range(100, 105)  # seeds that choose settings and never give a verdict


@dataclass(frozen=True)
class Claim:
    """One contrast, fixed before its runs: `better` beats `than` in `metric` at `steps`.

    What has a default may be missing: a claim from before there was such a key reads the same.
    """

    name: str
    says: str
    suite: str
    env: str
    """the task: its environment, or the name that the suite gives it"""
    steps: int
    metric: str
    better: str
    than: str
    seeds: str
    sign: Literal["higher", "lower"] = "higher"
    """which values are better"""
    differs: tuple[str, ...] | None = None
    """the settings in which the arms differ; None: those that the suite sets differently"""
    margin: float | None = None
    """given, the claim is that the arms differ by less than this"""
    unit: str | None = None
    """column or setting to pair by (`model`), averaged within; None: one value for each seed"""
    evaluations: int = 1
    """how many of them, up to `steps`, a run's value is the mean of: single ones may jump"""
    withdrawn: str = ""
    """why it was withdrawn"""


@dataclass(frozen=True)
class MatrixClaim:
    """One contrast of selectors on stored transfer matrices, fixed before they are drawn."""

    name: str
    says: str
    suite: str
    matrices: tuple[str, ...]
    """the suite's tasks; those of one task and features, log or linear, count once together"""
    sources: int
    """how many are picked"""
    better: str
    """a selector, or "best-of-k seeds" of the middle context, random, oracle"""
    than: str
    metric: Literal["performance", "worst_decile", "held_out"] = "performance"
    margin: float | None = None
    """given, the claim is that they differ by less than this"""
    withdrawn: str = ""
    """why it was withdrawn"""


AnyClaim = Claim | MatrixClaim


@dataclass(frozen=True)
class Verdict:
    """What the runs say: stands, undecided, refuted, or why there is no verdict."""

    claim: AnyClaim
    state: str
    detail: str
    t: Paired | None = None
    """the paired difference, where there is a verdict"""


Told = tuple[str, str]  # a state and its detail


def parse(text: str, where: str = "") -> dict[str, AnyClaim]:
    """Return the claims of a claims.toml; ValueError names claim and key of what is wrong.

    One that names `matrices` is a `MatrixClaim`.
    """
    where = f"{where}: " if where else ""
    claims: dict[str, AnyClaim] = {}
    try:
        rows = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{where}no valid TOML: {error}") from error
    for name, row in rows.items():
        here = f"{where}claim {name}"
        if not isinstance(row, Mapping):
            raise ValueError(f"{here}: got {row!r}, expected a table [{name}]")
        kind = MatrixClaim if "matrices" in row else Claim
        hints = typing.get_type_hints(kind)
        names = [f.name for f in fields(kind)][1:]
        needed = [f.name for f in fields(kind) if f.default is MISSING][1:]
        for key, value in row.items():
            if key not in names:
                raise unknown(f"key of {here}", key, names)
            convert(hints[key], value, f"{here}: {key}")
        if "steps" in row:
            in_range("steps", row["steps"], f"{here}: steps")
        if missing := [k for k in needed if k not in row]:
            raise ValueError(f"{here} lacks {', '.join(missing)}")
        if "seeds" in row and (overlap := set(parse_seeds(row["seeds"])) & set(PILOT)):
            raise ValueError(f"{here}: {sorted(overlap)} are pilot seeds, which choose")
        if row["better"] == row["than"]:
            raise ValueError(f"{here}: better and than are both {row['than']!r}")
        if row.get("margin", 1) <= 0:
            raise ValueError(f"{here}: margin: got {row['margin']!r}, expected more than 0")
        if row.get("sources", 1) < 1:
            raise ValueError(f"{here}: sources: got {row['sources']}, expected 1 or more")
        if kind is MatrixClaim and len(set(row["matrices"])) < max(1, len(row["matrices"])):
            raise ValueError(f"{here}: matrices: {row['matrices']} names none, or one twice")
        if row.get("evaluations", 1) < 1:
            raise ValueError(f"{here}: evaluations: got {row['evaluations']}, expected 1 or more")
        own: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
        claims[name] = kind(name=name, **own)
    return claims
