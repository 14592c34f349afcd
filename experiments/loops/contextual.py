"""Worlds of a grid of contexts: their starts, what they show of it, and those of a row."""

from typing import Any

from ...envs import BatchEnv, Contexts, make
from ...envs.contexts import spaced
from ...envs.make import PREFIX, noted
from ...envs.shown import ContextShown
from ...envs.tasks import TASKS


def wide_starts(c: Any) -> dict[str, Any]:
    """Return the option of wide random starts, where it is asked for and the task has it."""
    task = TASKS.get(c.env.removeprefix(PREFIX))
    return {"wide": True} if c.wide and task is not None and "wide" in task.params else {}


def shown(c: Any, grid: Contexts, env: BatchEnv) -> BatchEnv:
    """Return worlds that show their context as configured, over the range of the whole grid."""
    if c.context_in_obs == "hidden":
        return env
    return noted(ContextShown(env, grid, c.context_in_obs, spaced(c.context)))


def row_worlds(c: Any, grid: Contexts, threads: int) -> BatchEnv:
    """Return the worlds of a row: those of all contexts, `score_episodes` times over."""
    n = len(grid) * c.score_episodes
    return shown(c, grid, make(c.env, n, context=grid, threads=threads, **c.env_options))
