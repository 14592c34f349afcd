"""Errors for what is not there, with the nearest known name and how to get it."""

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path

MOST = 30  # names in a message
EXTRAS = {  # of our packages, by the module that is imported
    "envpool": "bench",
    "cpprb": "bench",
    "mujoco_warp": "gpu",
    "warp": "gpu",
    "minari": "minari",
    "ray": "cluster",
    "wandb": "wandb",
    "shimmy": "suites",
    "dm_control": "suites",
    "gymnasium_robotics": "suites",
    "av": "video",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the nearest known name, nothing if none is near."""
    near = difflib.get_close_matches(name[:100], list(known), n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else ""


def unknown(what: str, name: str, known: Iterable[str]) -> ValueError:
    """Return the error for an unknown name; the nearest known one is suggested."""
    names = sorted({*known})
    hint, text = nearest(name, names), f"unknown {what}: {name[:100]!r}"
    if len(names) <= MOST:
        return ValueError(f"{text}{hint} Known: {', '.join(names)}")
    near = difflib.get_close_matches(name[:100], names, n=8, cutoff=0)
    return ValueError(f"{text}{hint} The nearest of {len(names):,} known: {', '.join(near)}")


def missing(what: str, module: str, error: ImportError) -> ValueError:
    """Return the error for `what`, whose `module` or something imported by it is not there."""
    name = error.name or module
    if f"{module}.".startswith(f"{name}."):
        return ValueError(
            f"{what}: there is no module {name!r}. Install it, or put its folder on PYTHONPATH "
            "(the command line also looks in the current folder)"
        )
    frames = traceback.extract_tb(error.__traceback__)
    where = [f for f in frames if "importlib" not in f.filename][-1]
    line = f"{Path(where.filename).name}, line {where.lineno}"
    return ValueError(f"{what}: {line} imports {name!r}, which is not there: {how_to_get(name)}")


def how_to_get(module: str) -> str:
    """Return the command that installs a module."""
    package = module.partition(".")[0]
    extra = EXTRAS.get(package)
    return f"pip install 'reverie[{extra}]'" if extra else f"pip install {package}"
