"""Settings by dotted names: checked against a configuration's types, put into it, compared."""

import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Any

from ...envs.errors import unknown
from ..runs.typed import convert

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
                at = ".".join(parts[:i])
                try:
                    convert(hint, {}, at)
                except ValueError:
                    raise ValueError(f"{name}: {at} is a value, not a table") from None
                hint = Any  # of a free table, as env_options
                break
            hints = typing.get_type_hints(typing.cast(type, hint))
            if part not in hints:
                raise unknown(f"setting {name!r}, part" if i else "setting", part, hints)
            hint = hints[part]
        if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
            inner = checked(typing.cast(type, hint), value)
            out |= {f"{name}.{key}": v for key, v in inner.items()}
        else:
            convert(hint, value, name)
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
