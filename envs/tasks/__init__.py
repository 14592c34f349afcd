"""The tasks that Reverie ships, by id."""

from ..task import Task
from . import (
    ant,
    arms,
    families,
    half_cheetah,
    humanoids,
    pendulums,
    swim,
    swimmer,
    swingup,
    walkers,
)

TASKS: dict[str, Task] = {
    task.id: task
    for task in (
        ant.ANT,
        swingup.CART_POLE_SWING_UP,
        swingup.PENDULUM_SWING_UP,
        humanoids.HUMANOID,
        humanoids.HUMANOID_STANDUP,
        half_cheetah.HALF_CHEETAH,
        walkers.HOPPER,
        swimmer.SWIMMER,
        walkers.WALKER2D,
        pendulums.INVERTED_DOUBLE_PENDULUM,
        pendulums.INVERTED_PENDULUM,
        arms.PUSHER,
        arms.REACHER,
        swim.SWIM,
        families.CHEETAH_VEL,
        families.ANT_DIR,
        families.WALKER_PAR,
    )
}
