"""What runs cost, as far as their stamps and settings say it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from .results import Kept

OFFLINE = ("bc", "td3bc", "iql", "rebrac", "oer")
COSTS = ("env_steps", "updates", "dreamed", "synthetic", "seconds")


def _owed(config: Mapping[str, Any], steps: int) -> float:
    """Return the updates of an off-policy run: `utd` for each transition after the first ones."""
    return float(config.get("utd", 1.0) * max(0, steps - config["learning_starts"]))


def cost_of(run: Kept) -> dict[str, float]:
    """Return what one run cost, by the names in COSTS; what its method does not say is left out.

    `seconds` are between its start and its last row, waits included.
    """
    c, stamp = run.stamp["config"], run.stamp
    method, steps = stamp.get("method"), int(stamp.get("step", 0))
    out: dict[str, float] = {}
    if method in ("sac", "td3", "peer", "curriculum"):
        out |= {"env_steps": steps, "updates": _owed(c, steps)}
    elif method == "synther":
        online = c["learner"] == "sac"
        refits = steps // c["refit_every"] if online else 1
        made = 0 if c["rows"] == "none" else refits * c["synthetic"]
        out |= {"updates": _owed(c, steps) if online else steps, "synthetic": made}
        out |= {"env_steps": steps if online else 0}
    elif method in OFFLINE:
        out |= {"env_steps": 0, "updates": steps}
    elif method in ("ncap", "ppo"):
        out |= {"env_steps": steps}
        if method == "ncap" and c["search"] not in ("td3", "ppo"):
            out |= {"updates": 0}
        elif method == "ncap" and c["search"] == "td3":
            out |= {"updates": _owed(c, steps)}
    elif method == "dreamland":
        out |= {"dreamed": steps * c["controllers"]}
        if "real_steps" in run.columns and run.finished:
            out |= {"env_steps": float(run.columns["real_steps"][-1])}
    if stamp.get("updated"):
        ended = datetime.fromisoformat(stamp["updated"])
        out["seconds"] = (ended - datetime.fromisoformat(stamp["started"])).total_seconds()
    return out


def cost(runs: Sequence[Kept]) -> dict[str, float | None]:
    """Return the mean cost of a finished run; None for what none of them says."""
    rows = [cost_of(r) for r in runs if r.finished]
    out: dict[str, float | None] = {"runs": len(rows)}
    for name in COSTS:
        told = [row[name] for row in rows if name in row]
        out[name] = sum(told) / len(told) if told else None
    return out
