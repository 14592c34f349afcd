"""Learn a family's tasks one after the other from offline data: OER and its controls."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tyro.conf import OmitArgPrefixes

from ..agents import Policy
from ..agents.acting import EVAL_SEED, Evaluation, evaluate
from ..agents.dynamics import DynamicsConfig
from ..agents.oer.distilled import Actor, Distilled
from ..agents.oer.keeping import Keeping, close
from ..agents.oer.learner import OER, OERConfig
from ..agents.oer.metrics import normalise, summary
from ..agents.oer.policy import ContinualPolicy, TaskPolicy
from ..agents.oer.selectors import SELECTORS
from ..agents.seeding import stream_seed
from ..buffers import Card, Dataset, load_dataset
from ..envs import BatchEnv, Contexts, make
from ..envs.errors import unknown
from ..envs.families import members
from .loops.collecting import CollectOptions, collect_dataset
from .loops.offline import require_finite
from .loops.sources import require_same
from .runs import zoo
from .runs.config import RunOptions
from .runs.resources import check_device, use_threads
from .runs.result import Result
from .runs.run import Run
from .runs.stopping import Interrupted

PREFIXED = True  # --agent.lr, --dynamics.lr


@dataclass(frozen=True)
class Config:
    """A sequence of tasks."""

    env: str = "reverie/WalkerPar-v0"
    """the family: reverie/WalkerPar-v0, reverie/AntDir-v0, reverie/CheetahVel-v0"""
    members: str = "spread"
    """which of its members: spread or macaw0-4"""
    tasks: int = 5
    """tasks of the sequence, the first of the members"""
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
    memory: Literal["replay", "none", "distilled"] = "replay"
    """what is kept of a task: transitions, nothing, or a small frozen policy"""
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
    agent: OERConfig = field(default_factory=OERConfig)
    """the learner"""
    dynamics: DynamicsConfig = field(
        default_factory=lambda: DynamicsConfig(members=3, hidden=(128, 128), steps=2500)
    )
    """the dynamics models, fitted to each task's data"""
    env_options: Mapping[str, Any] = field(default_factory=dict)
    """options of the task, from Python or a config file"""
    run: OmitArgPrefixes[RunOptions] = field(
        default_factory=lambda: RunOptions(
            eval_every=0, log_every=500, checkpoint_every=2500, eval_episodes=20
        )
    )
    """the run directory"""


_PAPER = Config(
    steps=750_000,
    task_steps=150_000,
    batch_size=1024,
    agent=OERConfig(replay_batch=1000),
    dynamics=DynamicsConfig(steps=500_000, lr=1e-4, batch_size=1024),
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
    "paper": _PAPER,
    "fine-tuning": Config(memory="none", agent=OERConfig(dbc=False)),
    "distilled": Config(memory="distilled"),
}
STEP = "gradient steps"


def task_data(c: Config, task: int, threads: int) -> Dataset:
    """Return a task's data, made by `reverie collect`'s code once and kept in `data_folder`."""
    contexts = members(c.env, c.members)
    value = float(contexts.table[task, 0])
    name = c.env.removeprefix("reverie/").removesuffix("-v0").lower()
    kind = "+".join(p.replace("zoo:", "").replace("/", "_") for p in c.policy)
    # The zoo's policies and the task's options are part of the name: other data, another file.
    made_of = [dict(c.env_options), *(zoo.policy_digest(p) for p in c.policy)]
    mark = f"{zlib.crc32(json.dumps(made_of, sort_keys=True).encode()):08x}"
    path = Path(c.data_folder) / f"{name}-{kind}-{c.members}-{task}-{c.transitions}-{mark}"
    seed = stream_seed(c.seed, f"data {task}")
    if not path.with_name(path.name + ".json").exists():
        reference = next((p for p in c.policy if p != "random"), None)
        options = CollectOptions(
            out=path,
            env=c.env,
            policy=c.policy,
            transitions=c.transitions,
            num_envs=50,
            seed=task,
            env_options=c.env_options,
            context=(f"{contexts.names[0]}={value!r}",),
            reference=reference,
            threads=threads,
        )
        collect_dataset(options).save(path)
    return load_dataset(path, seed=seed)


def make_judge(card: Card, options: Mapping[str, Any], **kwargs: Any) -> BatchEnv:
    """Return worlds like those that a dataset was recorded in."""
    merged = {"max_episode_steps": card.max_episode_steps, **card.env_options, **options}
    return make(card.env, context=Contexts.grid(card.context), **merged, **kwargs)


def main(config: Config | None = None, *, resume: bool = False) -> Result:
    """Learn the sequence as configured; `resume` continues the run directory bit for bit."""
    c = config or Config()
    check_device(c.run.device)
    if c.run.device != "cpu":
        raise ValueError(f"OER learns on the CPU in this version, got device={c.run.device!r}")
    for selector in (c.selector, *c.fidelity):
        if selector not in SELECTORS:
            raise unknown("selector", selector, SELECTORS)
    n = len(members(c.env, c.members))
    if not 1 <= c.tasks <= n or not c.task_steps >= 1:
        raise ValueError(f"tasks={c.tasks} of the {n} members, task_steps={c.task_steps}")
    if c.agent.penalty == "agem" and c.memory != "replay":
        raise ValueError("penalty='agem' projects on a memory's gradient: it needs memory='replay'")
    if c.steps > c.tasks * c.task_steps:
        raise ValueError(
            f"steps={c.steps} is more than {c.tasks} tasks of {c.task_steps} gradient steps"
        )
    threads = use_threads(c.run.threads)
    datasets = [task_data(c, t, threads) for t in range(c.tasks)]
    judges = [
        make_judge(d.card, c.env_options, num_envs=c.run.eval_episodes, threads=threads)
        for d in datasets
    ]
    layout = datasets[0].layout
    learner = OER(layout.obs_dim, layout.act_dim, c.tasks, c.agent, seed=c.seed)
    distilled = Distilled(layout.obs_dim, layout.act_dim, c.distilled_hidden, c.tasks)
    family = c.env.split("/")[-1]
    label = f"oer-{family}-{c.memory}-{c.selector}-s{c.seed}"
    with Run("oer", c, label=label, steps=c.steps, seed=c.seed, resume=resume) as run:
        run.note(**judges[0].notes)
        require_same(run, datasets)
        judged = train(run, c, learner, distilled, datasets, judges)
    return Result(run.path, run.step, judged)


def train(
    run: Run,
    c: Config,
    learner: OER,
    distilled: Distilled,
    datasets: list[Dataset],
    judges: list[BatchEnv],
) -> Evaluation:
    """Go through the tasks; return the last evaluation, of all of them one after the other.

    Raises Interrupted after saving, Diverged after a dump when a metric is not finite.
    """
    matrix: list[list[float]] = []
    distances: list[dict[str, float]] = []
    judged: Evaluation | None = None
    state = run.restore()
    if state is not None:
        kept = state["agent"]
        learner.load_state_dict(kept["learner"])
        distilled.load_state_dict(kept["frozen"])
        datasets[learner.task].load_state_dict(kept["data"])
        matrix = [list(row) for row in kept["matrix"]]
        distances = [dict(row) for row in kept["distances"]]
    while run.step < c.steps:
        task = run.step // c.task_steps
        if task != learner.task:
            learner.begin(task, *datasets[task].moments())
        batch = datasets[task].sample(c.batch_size)
        metrics = learner.update(batch)
        run.tick(1)
        require_finite(run, metrics, learner, batch)
        if run.due(run.options.log_every):
            run.log({**metrics, "task": task})
            run.log_time()
        if run.step % c.task_steps == 0:
            kept = Keeping(**{f.name: getattr(c, f.name) for f in fields(Keeping)})
            ends = close(kept, learner, distilled, datasets[task], judges[task], c.seed)
            distances.append(ends[0])
            if ends[1]:
                run.log(ends[1], kind="selection")
            judged, now = judge_all(c, learner, distilled, datasets, judges)
            matrix.append(now)
            run.log(report(c, matrix, distances, datasets, learner, distilled), kind="task")
        if run.due(run.options.eval_every):
            if run.step % c.task_steps:
                judged, now = judge_all(c, learner, distilled, datasets, judges)
                run.log(returns_of(now, task), kind="eval")
            else:
                run.log(report(c, matrix, distances, datasets, learner, distilled), kind="eval")
        if run.due(run.options.checkpoint_every) or run.stopping:
            saved = {
                "learner": learner.state_dict(),
                "frozen": distilled.state_dict(),
                "data": datasets[learner.task].state_dict(),
                "matrix": matrix,
                "distances": distances,
            }
            run.save({"agent": saved})
            if run.stopping and run.step < c.steps:
                raise Interrupted(run.path)
    if judged is None:  # resumed at the end
        judged, _ = judge_all(c, learner, distilled, datasets, judges)
    return judged


def policy_of(c: Config, learner: OER, distilled: Distilled, task: int) -> Policy:
    """Return what plays a task now: its distilled policy, or the continual one."""
    if c.memory == "distilled" and task < distilled.done:
        return Actor(distilled.nets[task], distilled.mean[task], distilled.std[task])
    return TaskPolicy(learner.policy, task)


def judge_all(
    c: Config, learner: OER, distilled: Distilled, datasets: list[Dataset], judges: list[BatchEnv]
) -> tuple[Evaluation, list[float]]:
    """Return the evaluations on all tasks, joined, and their mean returns."""
    parts = []
    learner.settle()
    for task, judge in enumerate(judges):
        if task > learner.task:  # its head and its moments are not there yet
            mean, std = datasets[learner.task].moments()
            learner.policy.scale(task, mean, std)
        parts.append(evaluate(policy_of(c, learner, distilled, task), judge, seed=EVAL_SEED))
    returns = np.concatenate([p.returns for p in parts])
    lengths = np.concatenate([p.lengths for p in parts])
    return Evaluation(returns, lengths), [p.mean for p in parts]


def returns_of(returns: list[float], task: int) -> dict[str, float]:
    """Return what to log of returns on all tasks: each, and the mean of those met so far."""
    row = {f"task{j}": value for j, value in enumerate(returns)}
    return {**row, "return": float(np.mean(returns[: task + 1])), "tasks_met": task + 1}


def report(
    c: Config,
    matrix: list[list[float]],
    distances: list[dict[str, float]],
    datasets: list[Dataset],
    learner: OER,
    distilled: Distilled,
) -> dict[str, float]:
    """Return what to log after a task: the matrix's row, and the metrics of the tasks so far."""
    n = len(matrix)
    row = returns_of(matrix[-1], n - 1)
    row["bytes"] = distilled.bytes if c.memory == "distilled" else learner.bytes
    far = {name: float(np.mean([d[name] for d in distances])) for name in c.fidelity}
    row |= {f"distance_{name}": value for name, value in far.items()}
    if {"random", "online"} <= far.keys():  # 0 is as random transitions, 1 as the oracle
        gap = far["random"] - far["online"]
        if gap:
            row |= {f"fidelity_{n}": (far["random"] - value) / gap for n, value in far.items()}
    cards = [d.card for d in datasets[:n]]
    if all(card.has_references for card in cards):
        low = np.array([card.random_return for card in cards], float)
        high = np.array([card.reference_return for card in cards], float)
        scores = normalise(np.array(matrix)[:, :n], low, high)
        row |= summary(scores)
    return row


def matrix_of(run: Path) -> Any:
    """Return the matrix of returns [N, N] of a run, row by row after each task."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [line for line in lines if line["kind"] == "task"]
    n = sum(key.removeprefix("task").isdigit() for key in rows[0])
    return np.array([[row[f"task{j}"] for j in range(n)] for row in rows])


def load(config: dict[str, Any], state: Mapping[str, Any]) -> tuple[Any, int]:
    """Return the policy of a run's checkpoint, on its last task, and its observations' width.

    The configuration is given that task's context, in which the policy is to be played.
    """
    from .runs.config import from_dict

    c = from_dict(Config, config)
    contexts, at = members(c.env, c.members), int(state["learner"]["task"])
    config["context"] = [f"{contexts.names[0]}={float(contexts.table[at, 0])!r}"]
    weights = state["learner"]["policy"]
    _, act_dim, _ = weights["head_weight"].shape
    obs_dim = weights["mean"].shape[1]
    task = int(state["learner"]["task"])
    if c.memory == "distilled":
        distilled = Distilled(obs_dim, act_dim, c.distilled_hidden, c.tasks)
        distilled.load_state_dict(state["frozen"])
        if distilled.done > task:
            return Actor(distilled.nets[task], distilled.mean[task], distilled.std[task]), obs_dim
    policy = ContinualPolicy(obs_dim, act_dim, c.agent.td3.hidden, c.tasks)
    policy.load_state_dict(weights)
    return TaskPolicy(policy, task), obs_dim
