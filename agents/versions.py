"""What older versions saved, read as what it meant then, or refused by name."""

from collections.abc import Mapping
from typing import Any

import torch


def _sac_rules(subset: int, critics: int) -> dict[str, Any]:
    # The actor moved at every update, and climbed the mean where the target took fewer critics.
    return {"policy_delay": 1, "actor_value": "mean" if subset < critics else "min"}


def sac_state(state: Mapping[str, Any], config: Any) -> Mapping[str, Any]:
    """Return a state of SAC with what one from before `policy_delay` lacks.

    Raises ValueError where the settings are not those by which such a state came about.
    """
    if "updates" in state:
        return state
    for name, then in _sac_rules(config.subset, config.critics).items():
        if (given := getattr(config, name)) != then:
            option = f"--{name.replace('_', '-')} {then}"
            raise ValueError(
                f"this state of SAC was saved before {name} was a setting, by a learner that is "
                f"now called {name}={then!r}: continue it with that ({option}), not with {given!r}"
            )
    zero = torch.zeros(())
    return {**state, "updates": 0, "actor_loss": zero, "entropy": zero}
