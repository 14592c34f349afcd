"""HalfCheetah, equal bit for bit to gymnasium's v5 task."""

from typing import Any

from ..api import Array
from ..task import Fields, Params, Task
from .v5 import control_cost, gymnasium_model, noise_normal, positions, without_x, x_before


def cheetah_observe(xp: Any, f: Fields, p: Params) -> Array:
    """Return positions (less x) and velocities."""
    return xp.concat([positions(xp, f, p, 1), f.qvel], axis=1)


def cheetah_reward(
    xp: Any, before: Array, f: Fields, action: Array, p: Params
) -> tuple[Array, dict[str, Array]]:
    """Forward velocity less control cost."""
    velocity = (f.qpos[:, 0] - before) / p.dt
    forward = p.forward_reward_weight * velocity
    cost = control_cost(xp, action, p.ctrl_cost_weight)
    terms = {"x_velocity": velocity, "reward_forward": forward, "reward_ctrl": -cost}
    return forward - cost, terms


def cheetah_info(xp: Any, f: Fields, p: Params) -> dict[str, Array]:
    """Return where the cheetah is."""
    return {"x_position": f.qpos[:, 0] + 0.0}


HALF_CHEETAH = Task(
    id="HalfCheetah-v5",
    model=gymnasium_model,
    fields=(),
    frame_skip=5,
    max_episode_steps=1000,
    params={
        "xml_file": "half_cheetah.xml",
        "forward_reward_weight": 1.0,
        "ctrl_cost_weight": 0.1,
        "reset_noise_scale": 0.1,
        "exclude_current_positions_from_observation": True,
    },
    before=x_before,
    observe=cheetah_observe,
    reward=cheetah_reward,
    reset=noise_normal,
    info=cheetah_info,
    state_from_obs=without_x,
    hides=("x",),
    camera={"distance": 4.0, "trackbody": 1},
)
