"""What a sequence of tasks may be, and what learns each of them."""

from typing import Any

from ...agents.oer import rivals
from ...agents.oer.inner import Learns, by_iql, by_td3
from ...agents.oer.rivals import RIVALS
from ...agents.oer.selectors import SELECTORS
from ...buffers import Layout
from ...envs.errors import unknown
from ...envs.families import members
from .memories import MEMORIES

KEPT = ("replay", "none", "distilled", "joint")  # beside the MEMORIES


def refuse(c: Any) -> None:
    """Raise ValueError where settings of `oer` do not fit each other."""
    if c.run.device != "cpu":
        raise ValueError(f"OER learns on the CPU in this version, got device={c.run.device!r}")
    for selector in (c.selector, *c.fidelity):
        if selector not in SELECTORS:
            raise unknown("selector", selector, SELECTORS)
    n, what = len(members(c.env, c.members, c.goals)), "goals" if c.goals else "members"
    if not 1 <= c.tasks <= n:
        raise ValueError(f"tasks={c.tasks} of the {n} {what}: give 1 to {n}")
    if len(set(c.goals)) < len(c.goals):
        raise ValueError(f"goals={c.goals}: one stands in it twice")
    if c.memory not in (*KEPT, *MEMORIES):
        raise unknown("memory", c.memory, (*KEPT, *MEMORIES))
    a = c.agent
    if c.memory == "joint" and (a.dbc, a.heads, a.penalty) != (False, "one", "none"):
        raise ValueError(
            "memory='joint' is one policy that is told the goal: set agent.dbc=False, "
            f"agent.heads='one', agent.penalty='none', got {a.dbc}, {a.heads!r}, {a.penalty!r}"
        )
    if c.agent.penalty in ("agem", "gem") and c.memory in ("none", "distilled"):
        raise ValueError(
            f"penalty={c.agent.penalty!r} projects on a memory's gradient: it needs memory='replay'"
        )
    if c.steps > c.tasks * c.task_steps:
        raise ValueError(
            f"steps={c.steps} is more than {c.tasks} tasks of {c.task_steps} gradient steps"
        )
    if c.learner == "iql" and c.iql.hidden != c.agent.td3.hidden:
        raise ValueError(
            f"iql.hidden={c.iql.hidden}: mu has the layers of pi, agent.td3.hidden="
            f"{c.agent.td3.hidden}; set both alike"
        )
    _refuse_rivals(c)
    if c.agent.heads == "one" and not c.env_options.get("show_goal", True):
        raise ValueError("agent.heads='one' is told the goal: leave env_options.show_goal out")
    if c.clone_finish and not c.agent.dbc:
        raise ValueError(
            f"clone_finish={c.clone_finish} is of pi that clones mu: it needs agent.dbc=True"
        )
    if c.mu_folder:
        _refuse_shared(c)


def _refuse_rivals(c: Any) -> None:
    """Raise ValueError where a rival of the memories does not fit the other settings."""
    a = c.agent
    rivals.refuse(a.penalty, a.mu_init)
    rival, alone = a.penalty in RIVALS, c.memory == "none" and a.heads == "each"
    if (rival or a.merge != "none") and not (a.dbc and alone):
        raise ValueError(
            f"penalty={a.penalty!r}, merge={a.merge!r} is of a pi without memory, with a head for "
            "each task: set memory='none', agent.dbc=True, agent.heads='each', got "
            f"{c.memory!r}, {a.dbc}, {a.heads!r}"
        )
    if a.merge == "none" and a.merge_when != "at_end":
        raise ValueError(f"merge_when={a.merge_when!r} is of merged experts: set agent.merge too")
    if a.merge != "none" and (rival or a.mu_init != "first" or c.clone_finish):
        raise ValueError(
            f"merge={a.merge!r} is of mus that start alike: set agent.mu_init='first' (got "
            f"{a.mu_init!r}), no penalty and no clone_finish"
        )


def _refuse_shared(c: Any) -> None:
    """Raise ValueError where mu is no other run's, or would be judged before it is known."""
    if not c.agent.dbc or c.agent.mu_init == "pi":
        raise ValueError(
            f"mu_folder={c.mu_folder!r}: mu is the same in other runs only with dual cloning "
            f"(agent.dbc) and agent.mu_init previous or fresh, got agent.dbc={c.agent.dbc}, "
            f"agent.mu_init={c.agent.mu_init!r}: leave mu_folder out, or change them"
        )
    if c.run.eval_every % c.task_steps:
        raise ValueError(
            f"run.eval_every={c.run.eval_every} judges inside a task, where a mu from mu_folder is "
            f"known at the end only: give 0, or a multiple of task_steps={c.task_steps}"
        )


def learns_of(c: Any, layout: Layout) -> Learns:
    """Return what learns each task: TD3+BC or IQL."""
    shape = layout.obs_dim, layout.act_dim
    return by_iql(*shape, c.iql) if c.learner == "iql" else by_td3(*shape, c.agent.td3)
