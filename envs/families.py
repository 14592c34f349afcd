"""Members of the task families by name: the contexts that continual and transfer studies use."""

import math
from collections.abc import Sequence

from .contexts import Contexts
from .errors import unknown

# macaw: the goals of MACAW's tasks 0 to 4, rounded in the source that we read; Walker-Par's are in
# a file that we do not have, so both presets are our own first five draws.
_MEMBERS: dict[str, tuple[str, dict[str, list[float]]]] = {
    "reverie/CheetahVel-v0": (
        "velocity",  # m/s
        {
            "spread": [0.075, 0.825, 1.575, 2.325, 3.0],
            "macaw0-4": [0.075, 0.15, 0.225, 0.3, 0.375],
        },
    ),
    "reverie/AntDir-v0": (
        "direction",  # rad
        {
            "spread": [math.radians(x) for x in (0, 72, 144, 216, 288)],
            "macaw0-4": [1.2034, 0.4266, 4.9448, 4.1239, 4.0057],
        },
    ),
    "reverie/WalkerPar-v0": ("variant", {"spread": [1, 2, 3, 4, 5], "macaw0-4": [1, 2, 3, 4, 5]}),
}
FAMILIES = tuple(_MEMBERS)


def members(family: str, preset: str = "spread", goals: Sequence[float] = ()) -> Contexts:
    """Return a family's contexts in the order in which they are met: a preset's, or `goals`."""
    if family not in _MEMBERS:
        raise unknown("family", family, FAMILIES)
    name, presets = _MEMBERS[family]
    if preset not in presets:
        raise unknown(f"preset of {family}", preset, presets)
    return Contexts.grid({name: goals or presets[preset]})
