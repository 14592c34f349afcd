"""The tables of methods and commands: the only place that finds code by its name."""

import importlib
import sys
from typing import Any, NamedTuple

from ..envs.errors import unknown
from ..envs.make import OPENERS, import_named


class Method(NamedTuple):
    """A method's script, relative to this package, and a line about it."""

    module: str
    about: str


METHODS = {
    "sac": Method(".sac", "soft actor-critic; presets redq, droq, crossq"),
    "td3": Method(".td3", "twin delayed DDPG"),
    "population": Method(".population", "several learners of one method trained as one"),
    "ppo": Method(".ppo", "Stable-Baselines3's PPO on our worlds, resumable"),
    "ncap": Method(".ncap", "the C. elegans circuit and its controls on the N-link swimmer"),
    "bc": Method(".bc", "behaviour cloning of offline data"),
    "td3bc": Method(".td3bc", "TD3+BC on offline data"),
    "iql": Method(".iql", "implicit Q-learning on offline data"),
    "rebrac": Method(".rebrac", "ReBRAC on offline data"),
    "oer": Method(".oer", "continual offline learning: OER with MBES, and its rivals"),
    "synther": Method(
        ".synther", "SAC on replay and rows of a diffusion model of it; its controls"
    ),
    "dreamland": Method(
        ".dreamland", "controllers trained in dreams of a world model, under its dropout masks"
    ),
    "mbtl": Method(".mbtl", "which contexts to train on: trained one by one, or a replayed matrix"),
    "matrix": Method(".matrix", "a transfer matrix: every context trained, scored on all"),
    "curriculum": Method(".curriculum", "one SAC over all contexts: multi-task, PLR or SFL"),
    "peer": Method(".studies.peer", "Stable-Baselines3's SAC or TD3, written down as our runs are"),
}
PARTS = ("Config", "PRESETS", "STEP", "main", "load")  # what a script has


class Command(NamedTuple):
    """A command's module, its function `(args) -> exit status`, and a line about it."""

    module: str
    function: str
    about: str


COMMANDS = {
    "eval": Command(
        ".looking.commands", "score", "score a run's policy: reverie eval RUN --episodes 20"
    ),
    "plot": Command(
        ".looking.commands", "plot", "learning curves: reverie plot RUN... --out a.png"
    ),
    "watch": Command(
        ".looking.commands", "watch", "a short video of a run's policy: reverie watch RUN"
    ),
    "list": Command(
        ".looking.commands", "show", "what there is: reverie list [methods | envs | runs | zoo]"
    ),
    "check-env": Command(
        ".looking.commands",
        "check",
        "is an environment fit to learn from: reverie check-env my_pkg:MyEnv-v0",
    ),
    "collect": Command(
        ".loops.collecting",
        "main",
        "a dataset from policies or a run's replay: reverie collect --policy zoo:NAME",
    ),
    "quality": Command(
        ".looking.quality",
        "main",
        "generated rows beside real ones: reverie quality RUN",
    ),
    "compare": Command(
        ".studies.compare", "main", "arms x tasks x seeds: reverie compare ncap | SUITE.toml"
    ),
    "claims": Command(
        ".studies.claims", "main", "what was claimed before it was tried, and whether it stands"
    ),
    "report": Command(
        ".studies.report", "main", "one page of results and verdicts: reverie report RESULTS..."
    ),
    "bench": Command(
        ".bench.cli",
        "main",
        "speed against other libraries: reverie bench env | buffer | learner | gpu ...",
    ),
    "demo": Command(".demo", "main", "five methods live at small scale, each beside a baseline"),
}


def _dream(run: str, num_envs: int, **options: Any) -> Any:
    return importlib.import_module(".loops.dreamt", __package__).open_dream(
        run, num_envs, **options
    )


OPENERS["dream"] = _dream  # make("dream:RUN")


def command(name: str) -> Any:
    """Return the function of a command in the table."""
    row = COMMANDS[name]
    return getattr(importlib.import_module(row.module, __package__), row.function)


def script(name: str) -> Any:
    """Return a method's script: of a name in the table, or your own as `my_package.module`.

    Raises ValueError for an unknown name, and for a module that lacks a part of a script.
    """
    if name in METHODS:
        return importlib.import_module(METHODS[name].module, __package__)
    if "." not in name:
        raise unknown("method", name, METHODS)
    module = import_named(name, f"method {name!r}")
    if missing := [part for part in PARTS if not hasattr(module, part)]:
        raise ValueError(f"method {name!r} lacks {', '.join(missing)}; a script has {PARTS}")
    return module


def known_script(name: str) -> Any:
    """Return the script that a run directory names, without importing anybody's module for it."""
    if name not in METHODS and name not in sys.modules:
        raise ValueError(
            f"the run was made by {name!r}, which is not one of our methods: import that module "
            "first, or name it with --method"
        )
    return script(name)
