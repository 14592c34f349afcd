"""The tasks that Reverie ships, by id."""

from ..task import Task
from . import bodies, planar, small

TASKS: dict[str, Task] = {
    task.id: task
    for task in (
        bodies.ANT,
        bodies.HUMANOID,
        bodies.HUMANOID_STANDUP,
        planar.HALF_CHEETAH,
        planar.HOPPER,
        planar.SWIMMER,
        planar.WALKER2D,
        small.INVERTED_DOUBLE_PENDULUM,
        small.INVERTED_PENDULUM,
        small.PUSHER,
        small.REACHER,
    )
}
