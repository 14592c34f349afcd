"""Stops: heard wherever a run is, passed on by parents, and gone on from byte for byte."""

from contextlib import suppress

import pytest
from safetensors.torch import load_file
from tiny import config, module_of

from reverie.agents import candidates, playing
from reverie.agents.dynamics import DynamicsEnsemble
from reverie.agents.oer import keeping, selectors
from reverie.agents.oer.distilled import Distilled
from reverie.agents.sac import SAC
from reverie.envs.gym.sb3 import BatchVecEnv
from reverie.experiments import load_run
from reverie.experiments.loops import onpolicy
from reverie.experiments.runs import checkpoint, stopping


def contents(path):
    """Return all of a run that must not depend on when it was stopped."""
    newest = checkpoint.list_checkpoints(path / "checkpoints")[-1]
    tensors = load_file(newest / "tensors.safetensors")
    return (
        newest.name,
        (newest / "state.json").read_bytes(),
        {name: value.numpy().tobytes() for name, value in tensors.items()},
        (path / "metrics.jsonl").read_bytes(),
    )


@pytest.fixture(autouse=True)
def nobody_asks(monkeypatch):
    monkeypatch.setattr(stopping, "stop_asked", False)


PLACES = {
    "evaluation": (playing, "advance"),
    "update": (SAC, "update"),
    "fit": (DynamicsEnsemble, "fit_step"),
    "distillation": (Distilled, "clone_step"),
    "selection": (selectors.Pick, "go_on"),
    "rollout of mu": (keeping, "advance"),
    "generation": (candidates.Play, "step"),
    "rollout": (BatchVecEnv, "step_wait"),
    "learning": (onpolicy.Episodes, "go_on"),  # from a rollout
}


def ask_at(patch, place, n):
    """Let somebody ask to stop at the n-th call of a place's function; return the calls so far."""
    owner, name = PLACES[place]
    real, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == n:
            stopping.stop_asked = True
        return real(*args, **kwargs)

    patch.setattr(owner, name, call)
    return calls


def through(stops, method, out, **changes):
    """Run to the end through stops: each is heard in the very call in which it was asked."""
    module, options = module_of(method), config(method, out, "run", **changes)
    for i, (place, n) in enumerate(stops):
        stopping.stop_asked = False
        with pytest.MonkeyPatch.context() as patch:
            calls = ask_at(patch, place, n)
            with suppress(stopping.Interrupted):
                module.main(options, resume=i > 0)
        assert len(calls) == n, f"stop {i}, {place} {n}, was not heard in {len(calls)} calls"
        assert load_run(out / "run").stamp["status"] == "interrupted"
    stopping.stop_asked = False
    module.main(options, resume=True)
    return contents(out / "run")


SHORT = {"steps": 210}
ENDS = {"fidelity": ("random", "mbes", "online"), "task_steps": 105, "distilled_steps": 40, **SHORT}
EVAL = [("evaluation", 3), ("evaluation", 53), ("evaluation", 30)]  # the first, twice the last
CHAINS = [
    ("sac", [("update", 1), ("update", 5), *EVAL], {"utd": 2.0, **SHORT}),
    ("td3bc", EVAL, SHORT),
    (
        "oer",
        [("fit", 1), ("fit", 13), ("rollout of mu", 9), ("selection", 1), ("selection", 2),
         ("selection", 45), ("evaluation", 3), ("evaluation", 130), ("fit", 30),
         ("selection", 30), ("evaluation", 60)],
        ENDS,
    ),
    (
        "oer",
        [("distillation", 1), ("distillation", 13), ("fit", 4), ("selection", 40),
         ("distillation", 40), ("evaluation", 60)],
        {"memory": "distilled", **ENDS},
    ),
    ("ppo", [("rollout", 1), ("rollout", 27), ("learning", 1), ("learning", 7), *EVAL], SHORT),
    ("ncap", [("evaluation", 7), ("generation", 1), ("generation", 14), *EVAL], SHORT),
    ("ncap-es", [("generation", 1), ("generation", 14), *EVAL], SHORT),
    ("ncap-ars", [("generation", 1), ("generation", 14), *EVAL], SHORT),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "stops", "changes"), CHAINS, ids=lambda x: x if isinstance(x, str) else ""
)
def test_stops_in_every_place(method, stops, changes, tmp_path):
    """Stopped again and again, a run ends as one that nobody stopped, byte for byte."""
    module_of(method).main(config(method, tmp_path, "whole", **changes))
    assert through(stops, method, tmp_path, **changes) == contents(tmp_path / "whole")
