"""A policy on film."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...agents import Holds, Policy, bare
from ...buffers.aside import aside
from ...envs import make
from ...envs.contexts import parse_contexts
from ...envs.native.env import TaskEnv
from ...envs.native.render import WorldRenderer
from ..runs import checkpoint
from ..runs.config import read_config
from ..runs.policy import check_named


def film(
    policy: Policy | Holds,
    env: Any,
    out: Path,
    steps: int = 200,
    panel: Callable[[Tensor], Any] | None = None,
) -> tuple[float, int]:
    """Play one episode of at most `steps` and write it to `out`; return its return and length.

    `panel(obs [O])` gives a picture of the same height to put beside each frame. `.gif` plays
    anywhere, `.mp4` needs the extra [video], `.png` is a strip of eight pictures.
    Raises ValueError for another suffix or environment, RuntimeError without headless OpenGL.
    """
    require_film(env, out)
    policy, renderer = bare(policy), WorldRenderer(env)
    frames: list[Any] = []
    obs, state, total = env.reset(), policy.initial_state(1), 0.0
    while len(frames) < steps:
        frame = renderer.frame(0)
        frames.append(frame if panel is None else np.concatenate([frame, panel(obs[0])], axis=1))
        action, state = policy.act(obs, state, explore=False)
        result = env.step(action.to(env.device))
        obs, total = result.obs, total + float(result.reward[0])
        if bool(result.terminated[0] | result.truncated[0]):
            break
    renderer.close()
    write(frames, out, env.fps)
    return total, len(frames)


def require_film(env: Any, out: Path) -> None:
    """Raise ValueError for another suffix, and for worlds that are not filmed."""
    if out.suffix not in (".gif", ".mp4", ".png"):
        raise ValueError(f"{out}: write a .gif, .mp4 or .png")
    if not isinstance(env, TaskEnv):
        raise ValueError(
            "watch films Reverie's own tasks; film others with gymnasium's RecordVideo"
        )


def to_film(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's options for worlds on the native engine, which alone is filmed."""
    return {k: v for k, v in options.items() if k not in ("backend", "device")}


def film_dump(run: Path, out: Path, world: int = 0, named: str | None = None) -> tuple[str, int]:
    """Write the states in a run's dump to `out`; return what was not finite and their number.

    `named`: the run's environment, where the user names it, as a module of it must be.
    """
    found = checkpoint.load(run / "dump", run / "buffer")
    if found is None:
        raise FileNotFoundError(f"{run} has no dump: it did not meet a value that is not finite")
    last = found.state.get("env", {}).get(
        "physics"
    )  # PPO and the searches keep the last state only
    trail = found.state.get("trail") or ([] if last is None else [last])
    if not trail:
        raise ValueError(f"the dump of {run} has no physics states: it had no worlds of ours")
    config = read_config(run)[1]
    check_named(config["env"], named)
    contexts = parse_contexts(config.get("context", ()))
    n = len(trail[0])
    env = make(config["env"], n, context=contexts, **to_film(config.get("env_options", {})))
    if not isinstance(env, TaskEnv):
        raise ValueError(f"{config['env']} is not a task of ours")
    renderer = WorldRenderer(env)
    frames = []
    for rows in trail:
        env.physics.set_state(rows)
        frames.append(renderer.frame(world))
    renderer.close()
    write(frames, out, env.fps)
    return str(found.state["what"]), len(frames)


def write(frames: list[Any], out: Path, fps: float) -> None:
    """Write pictures as a film of this many a second, or as a strip of eight (.png)."""
    import imageio.v3 as iio

    kind = out.suffix
    with aside(out) as partial:
        if kind == ".png":
            picks = np.linspace(0, len(frames) - 1, min(8, len(frames))).astype(int)
            strip = np.concatenate([frames[i] for i in picks], axis=1)
            iio.imwrite(partial, strip, extension=kind)
        elif kind == ".gif":
            stride = max(1, round(fps / 25))
            shown, pause = np.stack(frames[::stride]), 1000 * stride / fps
            iio.imwrite(partial, shown, extension=kind, duration=pause, loop=0)
        else:
            own: dict[str, Any] = {"plugin": "pyav", "codec": "libx264", "extension": kind}
            try:
                iio.imwrite(partial, np.stack(frames), fps=round(fps), **own)
            except ImportError as error:
                raise RuntimeError(f"{out}: .mp4 needs `pip install reverie[video]`") from error
