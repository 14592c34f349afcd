"""What a resumed run must share with the run that it goes on with, by meaning."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from .config import to_dict

TOLD = (  # of a stamp: another one may give other numbers; it is told, not refused
    "reverie", "revision", "python", "packages", "cpu", "gpu", "cuda", "threads",
)  # fmt: skip


def lasting(config: Any) -> dict[str, Any]:
    """Return by dotted names the settings that a resume must not change.

    It may change how long the run is, and what only it writes and shows: `steps` and `run.*`, but
    for the device. Where data lies is not in it either: digests say which data it is.
    """
    return lasting_of(to_dict(config))


def lasting_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return `lasting` of a configuration that is written down."""
    settings = flat(json.loads(json.dumps(settings)))
    settings.pop("data_folder", None)
    if isinstance(data := settings.get("data"), list):
        settings["data"] = [_without_place(str(part)) for part in data]
    return {
        name: value
        for name, value in settings.items()
        if name != "steps" and (name == "run.device" or not name.startswith("run."))
    }


def changes(before: Mapping[str, Any], config: Any) -> list[str]:
    """Return what a configuration changes of the settings `before`: name, old and new value.

    A setting that was not there yet is no change where it has the value that nobody gave it.
    """
    after, default = lasting(config), {}
    with suppress(TypeError):  # somebody's own script, whose settings have no defaults
        default = lasting(type(config)())
    names = [n for n in dict.fromkeys([*before, *after]) if not _same(n, before, after)]
    return [
        f"{name}: {_shown(before, name)} -> {_shown(after, name)}"
        for name in names
        if name in before or not _same(name, after, default)
    ]


def differs(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return in what that counts for the numbers two stamps differ; "" if in nothing."""
    a, b = (flat({n: stamp[n] for n in TOLD if n in stamp}) for stamp in (old, new))
    names = [n for n in dict.fromkeys([*a, *b]) if a.get(n) != b.get(n)]
    return "; ".join(f"{n}: {_shown(a, n)} -> {_shown(b, n)}" for n in names)


def flat(tree: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted names."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        inner = isinstance(value, Mapping) and value
        out |= flat(value, f"{at}{name}.") if inner else {f"{at}{name}": value}
    return out


def _without_place(part: str) -> str:
    """Return a part of `--data` with its share, and without the path of a dataset."""
    kind, _, rest = part.partition(":")
    try:
        share = float(rest.rpartition(":")[2])
    except ValueError:
        share = 1.0
    return f"{kind}:{share}"


def _same(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    if name not in a or name not in b:
        return False
    return bool(a[name] == b[name]) or json.dumps(a[name]) == json.dumps(b[name])  # NaN


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return repr(settings[name]) if name in settings else "not there"
