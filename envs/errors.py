"""Errors for unknown names, with the nearest known one."""

import difflib
from collections.abc import Iterable


def unknown(what: str, name: str, known: Iterable[str]) -> ValueError:
    """Return the error for an unknown name; the nearest known one is suggested."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {what}: {name!r}{hint} Known: {', '.join(names)}")
