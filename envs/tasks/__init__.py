"""The tasks that Reverie ships, by id."""

from ..task import Task
from . import bodies, families, half_cheetah, small, swim, swimmer, walkers

TASKS: dict[str, Task] = {
    task.id: task
    for task in (
        bodies.ANT,
        bodies.HUMANOID,
        bodies.HUMANOID_STANDUP,
        half_cheetah.HALF_CHEETAH,
        walkers.HOPPER,
        swimmer.SWIMMER,
        walkers.WALKER2D,
        small.INVERTED_DOUBLE_PENDULUM,
        small.INVERTED_PENDULUM,
        small.PUSHER,
        small.REACHER,
        swim.SWIM,
        families.CHEETAH_VEL,
        families.ANT_DIR,
        families.WALKER_PAR,
    )
}
