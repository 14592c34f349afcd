"""Learn a family's tasks one after the other from offline data: OER and its controls."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes

from ..agents.actors import deterministic_policy, mlp_sizes
from ..agents.dynamics import DynamicsConfig
from ..agents.oer.distilled import Distilled
from ..agents.oer.learner import OER, OERConfig
from ..agents.oer.memory import Kept
from ..agents.oer.policy import ContinualPolicy, TaskPolicy
from ..agents.offline.iql import IQLConfig
from ..agents.playing import Evaluation
from ..agents.synther.config import DiffusionConfig
from ..envs.families import members
from .loops.beginning import begin_task
from .loops.build import tell_if_endless
from .loops.continual import (
    Learning,
    judge_all,
    make_judge,
    options_of,
    report,
    returns_of,
    task_data,
)
from .loops.ending import end_task
from .loops.memories import MEMORIES, SMALL, go_on
from .loops.sequence import learns_of, refuse
from .loops.shared import tape_of
from .loops.sources import require_same
from .runs import stopping
from .runs.config import RunOptions, check
from .runs.resources import check_device, use_threads
from .runs.result import Result
from .runs.run import Run

PREFIXED = True  # --agent.lr, --dynamics.lr


@dataclass(frozen=True)
class Config:
    """A sequence of tasks."""

    env: str = "reverie/WalkerPar-v0"
    """the family: reverie/WalkerPar-v0, reverie/AntDir-v0, reverie/CheetahVel-v0"""
    members: str = "spread"
    """which of its members: spread or macaw0-4"""
    goals: tuple[float, ...] = ()
    """values of the family's context in their order, in place of the members"""
    tasks: int = 5
    """tasks of the sequence, the first of the members or goals"""
    policy: tuple[str, ...] = ("zoo:walker-par-medium", "random")
    """whose data the tasks have, in equal shares: medium-random here"""
    transitions: int = 100_000
    """transitions of each task's data"""
    data_folder: str = "data"
    """where the data is kept, made once"""
    steps: int = 12_500
    """gradient steps in all"""
    task_steps: int = 2_500
    """gradient steps of a task"""
    seed: int = 0
    """seed of weights, draws, noise and selection; a task's data is the same for all seeds"""
    batch_size: int = 256
    """transitions per gradient step"""
    memory: str = "replay"
    """what is kept of a task: transitions (replay), none, a small frozen policy (distilled), or a
    small diffusion model of its rows (synther); joint: all tasks are learned at once"""
    selector: str = "mbes"
    """which transitions are kept"""
    budget: int = 1000
    """transitions kept of each task"""
    gate: float | None = 2.0
    """MBES follows the data where models disagree by more than this times the usual; None never"""
    match: Literal["state", "model"] = "model"
    """MBES snaps to the data's states, or to what the models predict to follow them"""
    revisit: Literal["next", "stop"] = "next"
    """where the nearest row is taken, MBES takes the next free one, or ends the chain (authors)"""
    walk: int = 2000
    """rows that MBES visits, of which it keeps a uniform share; at least the budget"""
    distilled_hidden: tuple[int, ...] = (64, 64)
    """hidden layers of a distilled policy"""
    distilled_steps: int = 2000
    """gradient steps of a distillation"""
    fidelity: tuple[str, ...] = ()
    """selectors of which to log how far real rollouts of mu lie from what each picks"""
    learner: Literal["td3bc", "iql"] = "td3bc"
    """what mu learns a task by"""
    mu_folder: str = ""
    """where mu is kept for other runs with the same mu (dual cloning, mu-init previous or fresh):
    it is trained once, all else is as if each had trained it; empty keeps none"""
    clone_finish: int = 0
    """gradient steps at each task's end in which pi clones the mu that stands still"""
    conflict: bool = False
    """log cosines between the tasks' gradients of -Q at each task's mu: do the tasks conflict?"""
    agent: OERConfig = field(default_factory=OERConfig)
    """the continual learner, and mu's TD3+BC"""
    iql: IQLConfig = field(default_factory=IQLConfig)
    """mu's IQL"""
    dynamics: DynamicsConfig = field(
        default_factory=lambda: DynamicsConfig(members=3, hidden=(128, 128), steps=2500)
    )
    """the dynamics models, fitted to each task's data"""
    generator: DiffusionConfig = SMALL
    """the diffusion model of a task's rows (synther)"""
    env_options: Mapping[str, Any] = field(default_factory=dict)
    """options of the task, from Python or a config file"""
    run: OmitArgPrefixes[RunOptions] = field(
        default_factory=lambda: RunOptions(
            eval_every=0, log_every=500, checkpoint_every=2500, eval_episodes=20
        )
    )
    """the run directory"""


# The authors' numbers; docs/methods/oer.md lists what stays ours.
_PAPER_SIZES = Config(
    steps=750_000,
    task_steps=150_000,
    batch_size=1024,
    agent=OERConfig(replay_batch=1000),
    dynamics=DynamicsConfig(steps=500_000, lr=1e-4, batch_size=1024, spectral=True),
    run=RunOptions(eval_every=0, log_every=5000, checkpoint_every=50_000, eval_episodes=100),
)
PRESETS = {
    "default": Config(),
    "quick": Config(
        tasks=3,
        steps=3_000,
        task_steps=1_000,
        transitions=20_000,
        dynamics=DynamicsConfig(members=3, hidden=(128, 128), steps=1000),
    ),
    "paper-sizes": _PAPER_SIZES,
    "fine-tuning": Config(memory="none", agent=OERConfig(dbc=False)),
    "distilled": Config(memory="distilled"),
    "joint": Config(memory="joint", agent=OERConfig(dbc=False, heads="one")),
}
STEP = "gradient steps"


def main(config: Config | None = None, *, resume: bool = False) -> Result:
    """Learn the sequence as configured; `resume` continues the run directory bit for bit."""
    c = check(config or Config())
    check_device(c.run.device)
    refuse(c)
    threads = use_threads(c.run.threads)
    datasets = [task_data(c, t, threads, stopping.asked) for t in range(c.tasks)]
    judges = [
        make_judge(d.card, options_of(c), num_envs=c.run.eval_episodes, threads=threads)
        for d in datasets
    ]
    first = datasets[0].card
    tell_if_endless(c.env, judges[0], lambda: make_judge(first, options_of(c), num_envs=1))
    layout = datasets[0].layout
    memory = MEMORIES.get(c.memory)
    empty = Kept.empty if memory is None else lambda: memory.empty(c, layout)
    shape = layout.obs_dim, layout.act_dim, c.tasks
    learner = OER(*shape, c.agent, seed=c.seed, memory=empty, learns=learns_of(c, layout))
    layout.require(learner.columns, "OER")
    distilled = Distilled(layout.obs_dim, layout.act_dim, c.distilled_hidden, c.tasks)
    family = c.env.split("/")[-1]
    label = f"oer-{family}-{c.memory}-{c.selector}-s{c.seed}"
    with Run("oer", c, label=label, steps=c.steps, seed=c.seed, resume=resume) as run:
        run.home.note(**judges[0].notes)
        require_same(run.home, datasets)
        judged = train(run, c, Learning(learner, distilled, datasets, judges))
    return Result(run.path, run.step, judged)


def train(run: Run, c: Config, s: Learning) -> Evaluation:
    """Go through the tasks; return the last evaluation, of all of them one after the other.

    Raises Interrupted after saving, Diverged after a dump when a metric is not finite.
    """
    with run.restored() as state:
        if state is not None:
            s.load_state_dict(c, state)
            go_on(c, s, state)
            s.tape = tape_of(c, s, state["followed"])
    judged: Evaluation | None = None
    while run.owed or run.step < c.steps:
        if not run.owed:  # else only what follows the step is left of it
            task = run.step // c.task_steps
            if task != s.learner.task:
                begin_task(c, s, task)
            batch = s.source.sample(c.batch_size)
            s.metrics = (s.tape or s.learner).update(batch)
            run.tick(1)
            run.require_finite(s.metrics, s.state_dict, batch)
        if run.step % c.task_steps == 0:
            judged = end_task(run, c, s)
        judged = look(run, c, s, judged)
    return run.final(judged, lambda: judge_all(c, s, lambda: run.stopping)[0])


def look(run: Run, c: Config, s: Learning, judged: Evaluation | None) -> Evaluation | None:
    """Judge, write and save after a step; what a task's end judged is not judged again."""
    at_end = run.step % c.task_steps == 0

    def judging() -> Evaluation:
        if judged is not None and at_end:
            return judged._replace(extra=report(c, s))
        now, returns = judge_all(c, s, lambda: run.stopping)
        if c.run.eval_every and run.step % c.run.eval_every == 0:  # else it is the run's last one
            s.curve.append((s.learner.task, returns[s.learner.task]))
        return now._replace(extra=returns_of(returns, s.learner.task))

    def row() -> dict[str, Any]:
        return {**s.metrics, "task": s.learner.task}

    return run.after_step(judging, row, s.state_dict) or judged


def load(config: dict[str, Any], state: Mapping[str, Any]) -> tuple[Any, int]:
    """Return the policy of a run's checkpoint, on its last task, and its observations' width.

    The configuration is given that task's context, in which the policy is to be played.
    """
    from .runs.config import from_dict

    c = from_dict(Config, config)
    contexts, at = members(c.env, c.members, c.goals), int(state["learner"]["task"])
    config["context"] = [f"{contexts.names[0]}={float(contexts.table[at, 0])!r}"]
    weights = state["learner"]["policy"]
    if c.memory == "distilled" and int(state["frozen"]["done"]) > at:
        frozen = state["frozen"]
        moments = {"mean": frozen["mean"][at], "std": frozen["std"][at]}
        return deterministic_policy(frozen["nets"][at], **moments)
    heads, act_dim, last = weights["head_weight"].shape
    obs_dim, *hidden = mlp_sizes(weights, "trunk.")
    one, tasks = "own" in weights, len(weights["mean"])
    if (hidden[-1], heads) != (last, 1 if one else tasks) or weights["mean"].shape[1] != obs_dim:
        raise ValueError(f"{heads} heads of {last} inputs do not fit a trunk of {hidden}")
    policy = ContinualPolicy(obs_dim, act_dim, hidden, tasks, one_head=one, kind=c.agent.penalty)
    policy.load_state_dict(weights)
    config["env_options"] = options_of(c)
    return TaskPolicy(policy.requires_grad_(False), at), obs_dim
