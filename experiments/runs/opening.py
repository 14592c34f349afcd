"""What lies in a run directory, read and judged before anything in it is changed."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from . import checkpoint
from .config import read_config
from .lock import is_lock
from .rows import digest_of
from .sameness import changes, lasting_of

log = logging.getLogger("reverie")
POPULATION = "population"  # in the stamp of a member: the run that holds its checkpoints
SET_ASIDE = "set-aside"  # folders of what lay there before a restart
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


class Counts(NamedTuple):
    """How far a run was at a checkpoint."""

    step: int = 0
    previous: int = 0  # before the last tick
    inner: int = 0  # steps of all phases
    owed: bool = False  # the step is made, what follows it is not
    phases: Mapping[str, int] = MappingProxyType({})  # how far each phase of the step was


class There(NamedTuple):
    """What there is to go on from; nothing, where nothing was saved."""

    found: checkpoint.Checkpoint | None = None
    stamp: Mapping[str, Any] = MappingProxyType({})
    rows: tuple[int, Any] = (0, None)  # bytes of metrics.jsonl that stay, their running digest


def require_empty(path: Path, method: str) -> None:
    """Raise FileExistsError where a new run would lie upon something."""
    if _contents(path):
        raise FileExistsError(
            f"{path} exists. Continue it with `reverie {method} --resume {path}`, or choose "
            f"another --name or --out; nothing is overwritten. {_anew(path, method)}"
        )


def to_continue(path: Path, method: str, config: Any) -> There:
    """Return what a run goes on from.

    Raises ValueError where it is not the run that was begun there, and where what it needs is
    damaged or gone: it never starts over by itself once something was saved.
    """
    points, file = path / "checkpoints", path / "config.json"
    stamp, anew = read_object(path / "stamp.json"), _anew(path, method)
    if (group := stamp.get(POPULATION)) is not None:
        raise ValueError(
            f"{path} is a member of the population {group}, which saves and goes on as one: "
            f"`reverie population --resume {group}`. {anew}, alone"
        )
    some = bool(checkpoint.list_checkpoints(points) or any(points.glob(f"{checkpoint.BAD}/*")))
    if file.exists():
        _require_config(path, method, config, some)
    elif not some and _contents(path):
        raise FileNotFoundError(f"{path} is no run: it has no config.json and no checkpoints")
    try:
        found = checkpoint.load(points, path / "buffer", check=_require_parts)
    except (checkpoint.Unusable, checkpoint.OtherVersion) as error:
        raise ValueError(f"{error}\nNothing was changed. {anew}") from error
    if found is not None:
        facts = found.state["facts"]
        _require_same(path, facts["method"], facts["config"], method, config)
        return There(found, stamp, _kept_rows(path, found, anew))
    if some or stamp.get("saved"):
        raise ValueError(
            f"{path} had saved up to step {stamp.get('saved')}, and in {points} there is no "
            f"checkpoint now. Put one back. {anew}"
        )
    log.warning("%s was cut before its first checkpoint, if it was ever begun: it begins", path)
    return There(None, stamp)


def is_aside(path: Path) -> bool:
    """Return whether this holds what a restart has set aside."""
    return path.name.startswith(f"{SET_ASIDE}-")


def read_object(path: Path) -> dict[str, Any]:
    """Return a JSON file's object, {} where there is none that can be read."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _anew(path: Path, method: str) -> str:
    return f"`reverie {method} --restart {path}` sets aside what is there and begins anew"


def _contents(path: Path) -> list[Path]:
    """Return what lies there of a run; a run killed at its very start leaves nothing that counts.

    Its first file is the lock, its second one beside config.json, to be renamed.
    """
    own = (p for p in path.iterdir() if not is_lock(p.name) and not is_aside(p))
    return [p for p in own if not (p.name.startswith(".config.json.") and p.suffix == ".tmp")]


def _require_config(path: Path, method: str, config: Any, some: bool) -> None:
    """Compare with config.json, at once: a checkpoint, which takes longer, knows it too."""
    try:
        begun_by, settings = read_config(path)
        before = lasting_of(settings)
    except _UNREADABLE as error:
        if some:
            return
        raise ValueError(
            f"{path}/config.json cannot be read ({error}). Put it back. {_anew(path, method)}"
        ) from error
    _require_same(path, begun_by, before, method, config)


def _require_same(
    path: Path, begun_by: str, before: Mapping[str, Any], method: str, config: Any
) -> None:
    if begun_by != method:
        raise ValueError(f"{path} is a run of {begun_by!r}, not of {method!r}")
    if changed := changes(before, config):
        raise ValueError(
            f"{path} was begun with another configuration: {'; '.join(changed)}. A resume may "
            "change --steps and the run's own options, not the device; for another run choose "
            "another --name"
        )


def _require_parts(state: Any, manifest: Mapping[str, Any]) -> None:
    """Raise what a checkpoint raises that lacks what every run saves."""
    counts, facts = Counts(**state["run"]), state["facts"]
    numbers = (counts.step, counts.previous, counts.inner, *counts.phases.values())
    if not all(isinstance(n, int) for n in numbers):
        raise TypeError(f"its counts are {counts}")
    rows = manifest["metrics"]
    for part, kind in (
        (state["stores"], dict),
        (facts["config"], dict),
        (facts["method"], str),
        (rows["size"], int),
        (rows["sha256"], str),
    ):
        if not isinstance(part, kind):
            raise TypeError(f"{part!r} is no {kind.__name__}")


def _kept_rows(path: Path, found: checkpoint.Checkpoint, anew: str) -> tuple[int, Any]:
    """Return size and running digest of the rows up to a checkpoint; ValueError if not as then."""
    file, want = path / "metrics.jsonl", found.manifest["metrics"]
    try:
        digest = digest_of(file, int(want["size"]))
        if digest.hexdigest() != want["sha256"]:
            raise ValueError(f"a row of {file} is not as it was written")
    except ValueError as error:
        raise ValueError(
            f"{error}, up to the checkpoint {found.path.name}. Put the file back as it was; or "
            f"move {found.path} away, to go on from the one before. {anew}"
        ) from error
    return int(want["size"]), digest
