"""dm_control's suite, `dm_control/cheetah-run-v0`, through shimmy (extra [suites])."""

import mujoco
import shimmy  # noqa: F401  registers dm_control/... with gymnasium
from dm_control.mujoco.wrapper.mjbindings import sizes


def forget_missing_arrays() -> list[str]:
    """Take out of dm_control's table the arrays that the installed MuJoCo no longer has.

    dm_control 1.0.50 indexes every array that it knows by name when a model loads; MuJoCo 4
    dropped some (`flex_vertedge`), so that no task of the suite could be made.
    """
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    gone = []
    for kind, struct in (("mjmodel", model), ("mjdata", mujoco.MjData(model))):
        known = sizes.array_sizes[kind]
        missing = [name for name in known if not hasattr(struct, name)]
        for name in missing:
            del known[name]
        gone += missing
    return gone


forget_missing_arrays()
