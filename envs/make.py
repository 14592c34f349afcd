"""From an environment's id to a `BatchEnv`."""

import functools
import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from .api import BatchEnv
from .contexts import Contexts
from .errors import missing, unknown
from .native.env import TaskEnv
from .shown import show_context
from .spaces import Actions, spaces_of
from .task import Task
from .tasks import TASKS
from .warp import WarpSettings, make_warp_env

log = logging.getLogger("reverie")
PREFIX = "reverie/"
OPENERS: dict[str, Callable[..., BatchEnv]] = {}  # what makes `kind:rest`, by kind: not a module
BACKENDS = ("auto", "native", "warp", "gymnasium")


def known_ids() -> list[str]:
    """Return the ids of Reverie's own tasks."""
    return [PREFIX + name for name in sorted(TASKS)]


def import_module_of(env_id: str) -> str:
    """Import the module of `module:id`, which registers its environments; return the id alone."""
    module, _, rest = env_id.rpartition(":")
    what = f"environment {env_id!r}"
    if rest.startswith("dm_control/"):
        import_named(f"{__package__}.gym.dm_control", what)
    elif module:
        import_named(module, what)
    return rest


def import_named(module: str, what: str) -> Any:
    """Import a module that somebody named; ValueError, for `what`, where it is not there."""
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{what}: {module!r} is no name of a module, my_package.my_module")
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(what, module, error) from error


def register_task(task: Task) -> None:
    """Make a task of your own available as `reverie/<task.id>`, here and in gymnasium."""
    if task.id in TASKS and TASKS[task.id] is not task:
        raise ValueError(f"the task id {task.id!r} is taken; choose another")
    TASKS[task.id] = task
    _register_with_gymnasium(task)


def _register_with_gymnasium(task: Task) -> None:
    import gymnasium

    gymnasium.register(
        PREFIX + task.id,
        entry_point="reverie.envs.gym.views:SingleEnv",
        vector_entry_point="reverie.envs.gym.views:VectorView",
        max_episode_steps=task.max_episode_steps,
        kwargs={"task": task.id},
    )


def register_all() -> None:
    """Register every task with gymnasium."""
    for task in TASKS.values():
        _register_with_gymnasium(task)


def make(
    env_id: str,
    num_envs: int = 1,
    *,
    device: str = "cpu",
    seed: int = 0,
    threads: int | None = None,
    backend: str = "auto",
    rng: str = "counter",
    dtype: torch.dtype = torch.float32,
    max_episode_steps: int | None = None,
    context: Contexts | Mapping[str, Any] | None = None,
    context_in_obs: str = "hidden",
    streams: Sequence[int] | None = None,
    warp: WarpSettings | None = None,
    **options: Any,
) -> BatchEnv:
    """Return `num_envs` worlds of an environment, stepped together.

    `notes["spaces"]` says what it gives and takes, for a run to keep (`Spaces.from_json`).

    `env_id`: `dream:RUN`, dreams of a run of `reverie dreamland`; `reverie/HalfCheetah-v5`;
    a bare `HalfCheetah-v5` takes the same native task unless
    `backend="gymnasium"`; `my_module:reverie/MyTask-v0` imports your module, which registers it;
    any other gymnasium id (`my_pkg:MyEnv-v0`) goes through an adapter.
    `threads`: of the native physics, None for every CPU it may use. `max_episode_steps`: None
    for the task's own limit, 0 for none. `context`: `{"gravity": [4.9, 9.8]}`, every combination,
    or `Contexts`; world i plays row i mod K. `context_in_obs`: hidden, or raw or normalised as
    further columns of the observation. `streams` [N]: which start states each world follows;
    by default the worlds of a group of K start alike. `device="cuda"`: MuJoCo Warp (extra
    `[gpu]`), whose tensors and actions live there; `backend="warp"` is Warp on the CPU, for tests;
    `warp`: its settings. `options`: the task's, e.g. `ctrl_cost_weight=0.05`.

    Raises ValueError for an unknown id, option or backend (the nearest known one is named), for a
    device that is not there and for a task that it cannot run; ModuleNotFoundError without the
    extra. Each says what to do.
    """
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r}: environments run on cpu or on cuda") from error
    on_warp = backend == "warp" or where.type != "cpu"
    kind, _, rest = env_id.partition(":")
    if kind in OPENERS:
        if on_warp or context is not None or options:
            raise ValueError(
                f"{env_id} is as its run was: leave out context, device, backend and options, got "
                f"{context}, {device}, {backend}, {options}"
            )
        limit = max_episode_steps
        return noted(
            OPENERS[kind](rest, num_envs, seed=seed, streams=streams, max_episode_steps=limit)
        )
    env_id = import_module_of(env_id)
    name = env_id.removeprefix(PREFIX)
    own = env_id.startswith(PREFIX) or (name in TASKS and backend != "gymnasium")
    if own or backend in ("native", "warp"):
        if name not in TASKS:
            raise unknown("environment", env_id, known_ids())
        if not env_id.startswith(PREFIX):
            log.info("%s runs on Reverie's native task; backend='gymnasium' opts out", env_id)
        task = TASKS[name]
        limit = task.max_episode_steps if max_episode_steps is None else max_episode_steps
        common: dict[str, Any] = {
            "seed": seed,
            "max_episode_steps": limit or None,
            "context": context,
            "streams": streams,
            "options": options,
        }
        if not on_warp:
            if warp is not None:
                raise ValueError("warp= is for device='cuda' or backend='warp', this is the CPU")
            env = TaskEnv(task, num_envs, threads=threads, dtype=dtype, rng=rng, **common)
            return noted(show_context(env, context_in_obs))
        if backend == "native" or rng != "counter" or dtype != torch.float32:
            raise ValueError(
                f"device={device!r} is MuJoCo Warp's: it takes neither backend='native' nor "
                f"another rng than 'counter' or dtype than float32 (got {rng!r}, {dtype})"
            )
        worlds = make_warp_env(task, num_envs, device=where, settings=warp, **common)
        return noted(show_context(worlds, context_in_obs))
    if on_warp:
        raise ValueError(
            f"{env_id} is another package's: it runs on the CPU, leave device={device!r} out; "
            "learners may still use a GPU of their own"
        )
    if context is not None or streams is not None or context_in_obs != "hidden":
        raise ValueError(f"{env_id} is another package's: contexts and streams need a task of ours")
    from gymnasium.error import DependencyNotInstalled

    try:
        return noted(_make_foreign(env_id, num_envs, seed, max_episode_steps, options))
    except ModuleNotFoundError as error:
        raise missing(f"environment {env_id!r}", env_id, error) from error
    except (DependencyNotInstalled, ImportError) as error:
        if getattr(error, "name", None) is not None:
            raise  # Python's own: a name that a module lacks
        raise ValueError(f"environment {env_id!r} needs what is not there: {error}") from error


def noted(env: BatchEnv) -> BatchEnv:
    """Return the environment with its spaces among the notes, which a run keeps in its stamp."""
    env.notes = {**env.notes, "spaces": spaces_of(env).to_json()}
    return env


@functools.cache
def _tell_statistics(env_id: str, names: str) -> None:
    """Say it once: every run and check makes an environment several times."""
    log.warning(
        "%s: %s carries running statistics. They are not saved with a run, and those of the worlds "
        "to learn in are not those of the worlds to be judged in. Leave it out, or normalise by "
        "fixed numbers: gymnasium.wrappers.TransformObservation(env, lambda obs: (obs - mean) / "
        "std, env.observation_space), TransformReward(env, lambda reward: reward / scale)",
        env_id,
        names,
    )


def actions_of(env_id: str, **options: Any) -> Actions:
    """Return the action space of an environment id: what maps its own units to [-1, 1] and back."""
    env = make(env_id, 1, **options)
    try:
        return spaces_of(env).action
    finally:
        env.close()


def gymnasium_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return our options as `gymnasium.make` takes them: no limit is -1 there."""
    limit = options.get("max_episode_steps")
    own = {k: v for k, v in options.items() if k != "max_episode_steps"}
    return own if limit is None else {**own, "max_episode_steps": limit or -1}


def _make_foreign(
    env_id: str, num_envs: int, seed: int, max_episode_steps: int | None, options: dict[str, Any]
) -> BatchEnv:
    import gymnasium
    from gymnasium.vector import AutoresetMode

    from .gym.foreign import ForeignEnv

    if env_id not in gymnasium.registry:
        raise unknown("environment", env_id, [*known_ids(), *gymnasium.registry])
    spec = gymnasium.spec(env_id)
    if max_episode_steps is not None:
        options = gymnasium_options({**options, "max_episode_steps": max_episode_steps})
    how: dict[str, Any] = {"vectorization_mode": "vector_entry_point"}
    if spec.vector_entry_point is None:  # ours to choose: DISABLED shows the true successor
        how = {"vectorization_mode": "sync"}
        how["vector_kwargs"] = {"autoreset_mode": AutoresetMode.DISABLED}
    try:
        env = gymnasium.make_vec(env_id, num_envs, **how, **options)
    except TypeError as error:
        if options and "unexpected keyword argument" in str(error):
            raise ValueError(f"{env_id} does not take its options {options}: {error}") from error
        raise
    made = ForeignEnv(env, seed)
    if max_episode_steps is not None:  # gymnasium's own spec still says the old one
        made.max_episode_steps = max_episode_steps or None
    if "statistics" in made.notes:
        _tell_statistics(env_id, made.notes["statistics"])
    return made
