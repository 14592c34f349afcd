"""Settings by dotted names: checked against a configuration's types, put into it, compared."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from ...envs.errors import unknown

# What a run is told that changes nothing of what it learns: where it lies, what it shows and keeps.
NEUTRAL = frozenset(
    f"run.{name}"
    for name in (
        "out", "name", "threads", "progress", "tensorboard", "wandb", "log_every",
        "checkpoint_every", "keep",
    )
)  # fmt: skip


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted names; an empty mapping sets nothing."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = list(value) if isinstance(value, tuple) else value
    return out


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the dotted names under which two flat configurations differ, with both values.

    What only one of them has differs from None.
    """
    names = dict.fromkeys([*found, *wanted])
    pairs = {n: (found.get(n), wanted.get(n)) for n in names if n not in NEUTRAL}
    return {n: p for n, p in pairs.items() if p[0] != p[1]}


def expected(hint: Any, value: Any) -> str | None:
    """Return what a type wants to be given instead of `value`; None where it fits.

    Integers of a configuration are counts, sizes and seeds: negative ones do not fit.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        wants = [expected(a, value) for a in args]
        return None if None in wants else " or ".join(w for w in wants if w)
    if origin is Literal:
        return None if value in args else "one of " + ", ".join(repr(a) for a in args)
    if origin is tuple:
        items = args[:1] if args[-1:] == (...,) else args
        if not isinstance(value, list | tuple):
            return "a list"
        each = items * len(value) if args[-1:] == (...,) else items
        wants = [expected(a, v) for a, v in zip(each, value, strict=False)]
        if len(each) != len(value):
            return f"a list of {len(items)}"
        return next((f"a list, each of it {w}" for w in wants if w), None)
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    fits: dict[Any, tuple[bool, str]] = {
        bool: (isinstance(value, bool), "true or false"),
        str: (isinstance(value, str), "a text in quotes"),
        int: (plain and isinstance(value, int) and value >= 0, "an integer of at least 0"),
        float: (plain and math.isfinite(value), "a finite number"),
        type(None): (value is None, "nothing"),
    }
    if (origin or hint) in (Mapping, dict):
        return None if isinstance(value, Mapping) else "a table"
    fit, want = fits.get(hint, (True, ""))
    return None if fit else want


def checked(config: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under dotted names, after a look at the configuration's names and types.

    A table for a part of the configuration sets what it names and leaves the rest:
    `{"agent": {"gamma": 0.9}}` is `{"agent.gamma": 0.9}`. Raises ValueError for an unknown name
    and for a value of another type.
    """
    out: dict[str, Any] = {}
    for name, value in settings.items():
        hint: Any = config
        parts = name.split(".")
        for i, part in enumerate(parts):
            if not dataclasses.is_dataclass(hint):
                if expected(hint, {}) is None:  # a free table, as env_options
                    hint = Any
                    break
                raise ValueError(f"{name}: {'.'.join(parts[:i])} is a value, not a table")
            hints = typing.get_type_hints(typing.cast(type, hint))
            if part not in hints:
                raise unknown(f"setting {name!r}, part" if i else "setting", part, hints)
            hint = hints[part]
        if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
            inner = checked(typing.cast(type, hint), value)
            out |= {f"{name}.{key}": v for key, v in inner.items()}
        elif dataclasses.is_dataclass(hint):
            raise ValueError(f"{name}: got {value!r}, expected a table of its settings")
        elif want := expected(hint, value):
            raise ValueError(f"{name}: got {value!r}, expected {want}")
        else:
            out |= flat({name: value})
    return out


def put(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values with settings under dotted names put in."""
    out: dict[str, Any] = json.loads(json.dumps(values))
    for name, value in settings.items():
        at = out
        *parents, last = name.split(".")
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = value
    return out
