"""Values from files, command lines and Python as a dataclass's types say, or one clear error."""

import dataclasses
import math
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

from ...envs.errors import nearest, unknown

DEPTH = 20  # of tables within tables, where any are allowed
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def convert(hint: Any, value: Any, at: str) -> Any:
    """Return a value as its type says: nested tables as dataclasses, lists as tuples.

    `at`: its dotted name. A type that is not known here takes anything. Raises ValueError, naming
    the value, its name and what was expected; True is no number, 1.0 no whole one, NaN none at all.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _settings(hint, value, at)
    if origin in (types.UnionType, typing.Union):
        return _one_of(args, value, at)
    if origin is Literal:
        return _choice(args, value, at)
    if origin in (tuple, list):
        return _listed(origin, args, value, at)
    if (origin or hint) in (Mapping, dict):
        return _table(args, value, at)
    if hint is Path:
        text = str(value) if isinstance(value, Path) else value
        _plain_text(text, at)
        return value if text is not value else Path(text)
    if hint in (int, float):
        return _number(hint, value, at)
    if hint is bool and not isinstance(value, bool):
        raise wrong(at, "true or false", value)
    if hint is str:
        _plain_text(value, at)
    return value


def wrong(at: str, expected: str, value: Any) -> ValueError:
    """Return the error for a value that is not what it should be."""
    return ValueError(f"{at} must be {expected}, got {shown(value)}")


def shown(value: Any) -> str:
    """Return a value as a message shows it, cut where it is long."""
    try:
        text = "null" if value is None else _short.repr(value)
    except Exception:  # a number of thousands of digits, or somebody's own __repr__
        text = f"a {type(value).__name__}"
    kind = type(value)  # a numpy number looks like one of Python's
    return text if kind.__module__ == "builtins" else f"{text} ({kind.__name__})"


def _settings(cls: Any, value: Any, at: str) -> Any:
    """Return a dataclass from a table of its fields, or itself after a look at each of them."""
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    what = at or cls.__name__
    if isinstance(value, Mapping):
        given: dict[str, Any] = dict(value)
    elif isinstance(value, cls):
        given = {name: getattr(value, name) for name in fields}
    else:
        raise wrong(what, f"a table of the settings of {cls.__name__}", value)
    for name in given:
        if name not in fields:
            raise unknown(f"field of {what}", str(name), fields)
    hints = typing.get_type_hints(cls)
    new = {k: convert(hints[k], v, f"{at}.{k}" if at else k) for k, v in given.items()}
    if isinstance(value, cls) and all(new[k] is v for k, v in given.items()):
        return value
    none = dataclasses.MISSING
    needed = [k for k, f in fields.items() if f.default is none and f.default_factory is none]
    if lacking := [k for k in needed if k not in new]:
        raise ValueError(f"{what} lacks {', '.join(lacking)}")
    try:
        return cls(**new)
    except ValueError as error:  # of a class that checks itself
        raise ValueError(f"{at}: {error}" if at else str(error)) from error


def _one_of(kinds: Iterable[Any], value: Any, at: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    errors = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return convert(kind, value, at)
            except ValueError as error:
                errors.append(str(error))
    raise ValueError("; ".join(errors))


def _choice(choices: Iterable[Any], value: Any, at: str) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return value
    near = nearest(value, [c for c in choices if isinstance(c, str)]) if type(value) is str else ""
    names = ", ".join(str(c) for c in choices)
    raise ValueError(f"{at} must be one of {names}, got {shown(value)}{near}")


def _listed(kind: Any, args: tuple[Any, ...], value: Any, at: str) -> Any:
    if not isinstance(value, list | tuple):
        raise wrong(at, "a list", value)
    open_ended = kind is list or args[-1:] == (...,)
    kinds = args[:1] * len(value) if open_ended else args
    if len(kinds) != len(value):
        raise wrong(at, f"a list of {len(kinds)}", value)
    new = [convert(k, v, f"{at}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True))]
    same = isinstance(value, kind) and all(a is b for a, b in zip(new, value, strict=True))
    return value if same else kind(new)


def _table(args: tuple[Any, ...], value: Any, at: str) -> Any:
    if not isinstance(value, Mapping):
        raise wrong(at, "a table", value)
    for name in value:
        if not isinstance(name, str):
            raise wrong(f"{at}: a name in it", "a text", name)
    if args[1:] and args[1] is not Any:
        return {name: convert(args[1], v, f"{at}.{name}") for name, v in value.items()}
    _writable(value, at, DEPTH)
    return value


def _writable(value: Any, at: str, depth: int) -> None:
    """Raise ValueError for what a config.json would not give back as it was."""
    if depth == 0:
        raise ValueError(f"{at} lies {DEPTH} tables deep: that is too deep for a configuration")
    if isinstance(value, Mapping):
        for name, inner in value.items():
            convert(str, name, f"{at}: a name in it")
            _writable(inner, f"{at}.{name}", depth - 1)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            _writable(inner, f"{at}[{i}]", depth - 1)
    elif isinstance(value, float):
        _number(float, value, at)
    elif isinstance(value, str):
        _plain_text(value, at)
    elif not (value is None or isinstance(value, bool | int)):
        raise wrong(at, "a number, a text, a list or a table", value)


def _number(kind: Any, value: Any, at: str) -> Any:
    """Return an int or a finite float; numpy's numbers become Python's, which JSON takes."""
    fits = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if not fits:
        raise wrong(at, "a whole number" if kind is int else "a number", value)
    if type(value) is not kind:
        try:
            value = kind(value)
        except OverflowError:
            raise wrong(at, "a finite number", value) from None
    if kind is float and not math.isfinite(value):
        raise wrong(at, "a finite number", value)
    return value


def _plain_text(value: Any, at: str) -> None:
    """Raise ValueError for what is no text, and for text that no file can hold, or no path."""
    if not isinstance(value, str):
        raise wrong(at, "a text", value)
    if "\0" in value or value != value.encode("utf-8", "ignore").decode():
        raise wrong(at, "a plain text", value)
