"""The zoo: small trained policies that the repository keeps, to collect data with."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from ...agents.actors import gaussian_policy
from ...buffers import shards
from ...buffers.aside import aside, write_text
from ...envs.errors import unknown
from . import checkpoint
from .config import read_config
from .policy import LoadedPolicy
from .result import load_run

HERE = Path(__file__).parent.parent / "zoo"
PREFIX = "zoo:"


def names() -> list[str]:
    """Return the names of the zoo's policies."""
    return sorted(p.stem for p in HERE.glob("*.json"))


def add(run: Path, name: str, step: int, note: str = "") -> Path:
    """Put the actor of a SAC run's checkpoint at `step` into the zoo, with its card and curve."""
    method, config = read_config(run)
    if method != "sac":
        raise ValueError(f"{run} was trained by {method!r}; the zoo holds actors of SAC")
    folder = run / "checkpoints" / f"step-{step:012d}"
    if not folder.exists():
        steps = [checkpoint.step_of(p) for p in checkpoint.list_checkpoints(run / "checkpoints")]
        raise FileNotFoundError(f"{run} has no checkpoint at {step}; it has {steps}")
    state, loaded = checkpoint.read(folder), load_run(run)
    curve = loaded.frame()
    rows = list(zip(map(int, curve["step"]), map(float, curve["return"]), strict=True))
    card = {
        "method": method,
        "env": config["env"],
        "env_options": config["env_options"],
        "context": config["context"],
        "agent": config["agent"],
        "steps": step,
        "seed": config["seed"],
        "return": dict(rows).get(step),
        "curve": [[s, round(r, 2)] for s, r in rows if s <= step],
        "revision": loaded.stamp["revision"],
        "packages": loaded.stamp["packages"],
        "note": note,
    }
    target = HERE / f"{name}.json"
    with aside(HERE / f"{name}.safetensors") as weights:
        shards.write_tensors(weights, state["agent"]["actor"])
    write_text(target, json.dumps(card, indent=1) + "\n")
    return target


def card(name: str) -> dict[str, Any]:
    """Return what is known of a policy of the zoo."""
    if name not in names():
        raise unknown("policy of the zoo", name, names())
    out: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text())
    return out


def policy_digest(name: str) -> str:
    """Return the sha256 of a policy's weights; of any other name the name itself."""
    if not name.startswith(PREFIX):
        return name
    card(name.removeprefix(PREFIX))  # the name is known
    return shards.file_digest(HERE / f"{name.removeprefix(PREFIX)}.safetensors")


def load(name: str, *, seed: int = 0) -> LoadedPolicy:
    """Return a policy of the zoo; `seed` is that of its exploration noise."""
    about = card(name)
    return LoadedPolicy(*gaussian_policy(load_file(HERE / f"{name}.safetensors"), seed=seed), about)
