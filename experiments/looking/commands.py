"""eval, plot, watch and list."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...agents.playing import evaluate
from ...buffers.aside import write_text
from ...envs import known_ids, make
from ...envs.errors import nearest
from ..runs import stopping
from ..runs.config import parse
from ..runs.loading import load_policy
from ..runs.lock import LOCK, in_use
from ..runs.opening import is_aside
from ..runs.policy import LoadedPolicy, check_named, world
from ..runs.result import load_run
from ..runs.rows import last_step

LISTS = ("methods", "envs", "runs", "zoo")
PICTURES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class EvalOptions:
    """Score a run's policy on fresh episodes."""

    episodes: int = 20
    """episodes, one in each of as many worlds"""
    seed: int = 12345
    """seed of the start states"""
    env: str | None = None
    """another environment than the run's own"""
    explore: bool = False
    """act with exploration noise"""


def _positional(args: Sequence[str], command: str) -> tuple[list[str], list[str]]:
    n = next((i for i, a in enumerate(args) if a.startswith("-")), len(args))
    if n == 0 and not {"-h", "--help"} & set(args):
        raise ValueError(
            f"`reverie {command}` needs a run directory or an id first: `reverie {command} --help`"
        )
    return list(args[:n]), list(args[n:])


def _world(policy: LoadedPolicy, env: str | None, num_envs: int, seed: int = 0) -> Any:
    own = policy.config["env"]
    if env in (None, own):
        check_named(own, env)
        return world(policy.config, num_envs, seed)
    other = make(str(env), num_envs, seed=seed)
    policy.require(other, env)
    return other


def score(args: Sequence[str]) -> int:
    """Print the mean, spread and length of a run's episodes."""
    paths, rest = _positional(args, "eval")
    options = parse(EvalOptions, rest, "eval RUN...")
    with stopping.stop_on_signals():
        for path in paths:
            print(json.dumps(_score(path, options)), flush=True)
    return 0


def _score(path: str, options: EvalOptions) -> dict[str, Any]:
    policy = load_policy(path)
    env = _world(policy, options.env, options.episodes)
    explore, stop = options.explore, stopping.asked
    result = evaluate(policy, env, seed=options.seed, explore=explore, stop=stop)
    return {
        "run": path,
        "return": round(result.mean, 2),
        "std": round(float(result.returns.std()), 2),
        "min": round(float(result.returns.min()), 2),
        "max": round(float(result.returns.max()), 2),
        "length": float(result.lengths.mean()),
        "episodes": result.returns.size,
        **({"cut": result.cut} if result.cut else {}),
    }


@dataclass(frozen=True)
class PlotOptions:
    """Draw learning curves of runs, or of the results of `reverie compare`.

    Runs that differ in nothing but the seed are one line, named by what differs between lines.
    """

    out: Path = Path("curve.png")
    """picture to write: .png, .pdf or .svg"""
    kind: str = "eval"
    """eval or train returns"""
    against: str | None = None
    """instead, of results of `reverie compare`: the metric at the end against this one, by arm"""
    metric: str = "return"
    """what is drawn against it"""


def plot(args: Sequence[str]) -> int:
    """Write a PNG of learning curves, or of what one metric costs in another."""
    paths, rest = _positional(args, "plot")
    options = parse(PlotOptions, rest, "plot RUN...")
    if options.out.suffix not in PICTURES:
        raise ValueError(f"--out {options.out}: end it with one of {', '.join(PICTURES)}")
    from ..studies.plots import curves, panels, tradeoff
    from ..studies.results import read_results

    folders = [Path(p) for p in paths]
    if options.against is not None:
        print(tradeoff(folders, options.against, options.metric, options.out))
        return 0
    kept = [f for f in folders if not (f / "config.json").exists() and any(f.glob("*/*.csv"))]
    if not kept:
        print(curves([load_run(p) for p in folders], options.out, options.kind))
    elif len(folders) > 1:
        raise ValueError(f"{kept[0]} holds results of `reverie compare`: plot one such at a time")
    else:
        print(panels(read_results(kept[0]), options.out))
    return 0


@dataclass(frozen=True)
class WatchOptions:
    """Film a run's policy without a screen."""

    out: Path | None = None
    """file to write: .mp4 (extra [video]), .gif or .png (a strip); None is RUN/watch.gif. A .json
    keeps the bodies of the median and the worst episode, for `reverie report`"""
    steps: int = 200
    """environment steps to film"""
    seed: int = 0
    """seed of the start state"""
    episodes: int = 20
    """of which a .json keeps two"""
    dump: bool = False
    """show the last states before a run met a value that was not finite"""
    world: int = 0
    """world to show of a dump"""
    env: str | None = None
    """another environment than the run's own"""
    waves: bool = False
    """draw the wave along a swimmer's joints instead of a film"""
    dream: bool = False
    """of a run of reverie dreamland: the imagined body as a ghost over the real one, and a figure
    of many dreams of the same actions (dream-fan.png)"""


def _panel(policy: LoadedPolicy) -> Any:
    """Return what to draw beside the film: the circuit where the policy is one, else nothing."""
    from .ncap_figures import Panel, circuit_of

    return None if circuit_of(policy) is None else Panel(policy, 240)


def watch(args: Sequence[str]) -> int:
    """Write a short video, or a strip of pictures, of a run's policy."""
    paths, rest = _positional(args, "watch")
    options = parse(WatchOptions, rest, "watch RUN")
    from .film import film, film_dump, to_film

    for path in paths:
        out = options.out or Path(path) / ("dump.gif" if options.dump else "watch.gif")
        if options.dump:
            what, states = film_dump(Path(path), out, options.world, options.env)
            print(f"{out}: the last {states} states before {what}")
            continue
        policy = load_policy(path)
        policy.config["env_options"] = to_film(policy.config.get("env_options", {}))
        if out.suffix == ".json":
            own = (options.episodes, options.steps, options.seed, options.env, options.dream)
            print(keep_episodes(Path(path), out, *own))
            continue
        env = _world(policy, options.env, 1, options.seed)
        if options.waves:
            from .ncap_figures import waves

            target = options.out or Path(path) / "waves.png"
            lags = ", ".join(f"{x:.1f}" for x in waves(policy, env, target))
            print(f"{target}: each joint lags the one in front by {lags} steps")
            continue
        if options.dream:
            target = options.out or Path(path) / "dream.gif"
            print(_dream(Path(path), policy, env, target, options))
            continue
        total, steps = film(policy, env, out, options.steps, _panel(policy))
        print(f"{out}: {steps} steps, return {total:.1f}")
    return 0


def keep_episodes(
    path: Path,
    out: Path,
    episodes: int,
    steps: int,
    seed: int = 0,
    env: str | None = None,
    dream: bool = False,
) -> str:
    """Write the median and the worst episode of a run's policy, `dream`: one's dreams too; say so.

    `env`: another environment than the run's own. Errors as `load_policy`.
    """
    from .episodes import fan, record
    from .film import to_film

    policy = load_policy(str(path))
    policy.config["env_options"] = to_film(policy.config.get("env_options", {}))
    told = record(policy, _world(policy, env, episodes, seed), steps, what=path.name)
    if dream:
        from ..loops.dreamt import reopen
        from .dream_figures import played

        dreams = reopen(path, env, rows=True)
        told["fan"] = fan(dreams, played(policy, _world(policy, env, 1, seed), steps))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, json.dumps(told, separators=(",", ":")) + "\n")
    returns = ", ".join(f"{e['label']} {e['return']:.1f}" for e in told["episodes"])
    return f"{out}: {returns} of {episodes} episodes"


def _dream(path: Path, policy: LoadedPolicy, env: Any, out: Path, options: WatchOptions) -> str:
    """Film a run's dream of one episode over that episode, draw its fan, and say so."""
    from ..loops.dreamt import reopen
    from .dream_figures import dream_fan, dream_film, imagined, played
    from .film import require_film

    require_film(env, out)
    dreams = reopen(path, options.env, rows=True)
    real = played(policy, env, options.steps)
    frames = dream_film(env, real, imagined(dreams, real, 1)[0], out)
    figure = out.with_name(f"{out.stem}-fan.png")
    wrong = dream_fan(dreams, real, figure)
    told = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in wrong.items())
    return f"{out}: {frames} frames, return {real.total:.1f}\n{figure}: {told}"


def show(args: Sequence[str]) -> int:
    """Print methods, environments or the runs of a folder."""
    from ..methods import COMMANDS, METHODS

    what, *more = args or ["all"]
    if what in ("-h", "--help"):
        print("usage: reverie list [methods | envs | zoo | runs [FOLDER]]")
        return 0
    if what not in ("all", *LISTS):
        near = nearest(what, LISTS)
        raise ValueError(f"list what? {what!r} is none of {', '.join(LISTS)}{near}")
    if len(more) > (what == "runs"):
        raise ValueError(f"`reverie list {what}` takes nothing more, got {' '.join(more)!r}")
    if what in ("all", "methods"):
        for name, method in METHODS.items():
            print(f"{name:8s} {method.about}")
        if what == "all":
            print(f"commands {', '.join(COMMANDS)}\n")
    if what in ("all", "envs"):
        print("\n".join(known_ids()))
        print("and any gymnasium id (my_pkg:MyEnv-v0)")
    if what == "zoo":
        from ..runs import zoo

        for name in zoo.names():
            card = zoo.card(name)
            print(f"zoo:{name:22s} {card['env']}, return {card['return']:.1f}, {card['note']}")
    if what == "runs":
        _list_runs(Path(more[0] if more else "runs"))
    return 0


def _list_runs(folder: Path) -> None:
    """Print a line for each run; one that cannot be read is named, and hides no other."""
    found = {p.parent for name in ("stamp.json", LOCK) for p in folder.glob(f"**/{name}")}
    runs = sorted(p for p in found if not any(map(is_aside, [p, *p.relative_to(folder).parents])))
    if not runs:
        print(f"no runs in {folder}/", file=sys.stderr)
    for path in runs:
        try:
            run = load_run(path)
            score = list(run.frame().get("return", []))
            last = f"{score[-1]:10.1f}" if score else f"{'-':>10s}"
            status, step = run.stamp["status"], run.stamp["step"]
            if status == "running":  # what it has done since it last said so
                step = max(step, last_step(path))
                status = status if in_use(path) else "cut"
            print(f"{status:11s} {step:>10,} steps {last}  {path}")
        except Exception as error:
            print(f"{'unreadable':11s} {'-':>10s}       {'-':>10s}  {path}: {error}")


@dataclass(frozen=True)
class CheckOptions:
    """Check an environment for what spoils learning from it."""

    steps: int = 1000
    """length of the long checks"""


def check(args: Sequence[str]) -> int:
    """Print a table of findings; the exit status is 1 if one is a fault."""
    ids, rest = _positional(args, "check-env")
    options = parse(CheckOptions, rest, "check-env ID")
    from rich.console import Console
    from rich.table import Table

    from ...envs.check import FAULT, check_env

    faults = 0
    for env_id in ids:
        table = Table("check", "verdict", "finding", title=env_id, title_justify="left")
        for row in check_env(env_id, steps=options.steps):
            colour = {"FAULT": "bold red", "lost": "yellow"}.get(row.verdict, "green")
            table.add_row(row.name, f"[{colour}]{row.verdict}[/]", row.detail)
            faults += row.verdict == FAULT
        Console(width=110).print(table)
    return 1 if faults else 0
