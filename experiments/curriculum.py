"""Train one SAC over all contexts of a task: uniformly (multi-task), by PLR, or by SFL."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, as_tensor
from tyro.conf import OmitArgPrefixes

from ..agents import SAC, Policy, SACConfig
from ..agents.actors import gaussian_policy, go_on
from ..agents.mbtl import load_matrix, scores
from ..agents.mbtl.curricula import Learnable, Replayed, Uniform, td_errors
from ..agents.mbtl.library import Row, play_row
from ..agents.playing import EVAL_SEED, SEED_STRIDE, Evaluation, cap_of
from ..agents.seeding import stream_seed
from ..buffers import Transitions
from ..envs import BatchEnv, Contexts, make
from ..envs.reality import require_real
from .loops import offpolicy
from .loops.chosen import Chosen
from .loops.contextual import shown, wide_starts
from .loops.grid import grid_of
from .loops.options import UpdateOptions
from .loops.session import build
from .runs.config import RunOptions, check
from .runs.resources import use_threads
from .runs.result import Result
from .runs.run import Run

LOOK_SEED = EVAL_SEED + 2_000_000  # start states of SFL's looks, each far from the others


@dataclass(frozen=True)
class Config(UpdateOptions):
    """One policy for all contexts."""

    env: str = "reverie/CartPoleSwingUp-v0"
    """task of ours"""
    context: tuple[str, ...] = ("length:pole=log:0.3:3:20",)
    """the contexts: length=log:0.3:3:20, gear=lin:0.5:2:10 or mass=0.5,1,2; every combination"""
    rule: Literal["multitask", "plr", "sfl"] = "multitask"
    """which context the next episode plays: any; by its last TD error; half by p (1 - p)"""
    context_in_obs: Literal["hidden", "raw", "normalised"] = "normalised"
    """whether observations tell the context: as it is, or from -1 to 1 over the grid"""
    wide: bool = True
    """train from wide random starts, where the task has that option"""
    steps: int = 50_000
    """environment transitions"""
    batch_size: int = 64
    """transitions per gradient update"""
    learning_starts: int = 500
    """transitions of random actions before the first update"""
    matrix: str | None = None
    """matrix of the same contexts, whose own-context returns SFL's successes are a share of"""
    success: float = 0.8
    """that share"""
    top: float = 0.2
    """share of the contexts that SFL chooses"""
    look_every: int = 5_000
    """transitions of training between SFL's looks: a tenth of the budget"""
    look_episodes: int = 5
    """episodes of each context in a look"""
    count_looks: bool = True
    """whether looks are among `steps`: then there is none that might go beyond them"""
    agent: SACConfig = field(default_factory=lambda: SACConfig(hidden=(32, 32), lr=1e-3))
    """the learner"""
    run: OmitArgPrefixes[RunOptions] = field(
        default_factory=lambda: RunOptions(log_every=5_000, eval_every=10_000)
    )
    """the run directory; eval_episodes are of each context"""


PRESETS = {
    "default": Config(),
    "quick": Config(context=("length:pole=log:0.3:3:10",), steps=24_000),  # as long as MBTL's
    "plr": Config(rule="plr"),
    "sfl": Config(rule="sfl"),
}
STEP = "environment steps"


class Curriculum:
    """A rule with what it is told: TD errors of episodes, success rates of looks."""

    def __init__(self, rule: Uniform, references: Tensor | None) -> None:
        self.rule, self.references = rule, references
        self.agent: SAC | None = None  # whose errors are told; there once the worlds are
        self.episodes, self.looked, self.look_steps = 0, 0, 0

    def next(self) -> int:
        """Return the context of the next episode."""
        return self.rule.next()

    def ended(self, context: int, episode: Transitions) -> None:
        """Tell the rule how much the learner errs on an episode that ended."""
        assert self.agent is not None
        self.rule.told(context, float(td_errors(self.agent, episode).mean()))
        self.episodes += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs."""
        counts = (self.episodes, self.looked, self.look_steps)
        return {"rule": self.rule.state_dict(), "counts": counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.rule.load_state_dict(state["rule"])
        self.episodes, self.looked, self.look_steps = map(int, state["counts"])


def curriculum_of(c: Config, grid: Contexts) -> Curriculum:
    """Return the rule as configured; ValueError where SFL lacks the matrix, or it does not fit."""
    n, seed = len(grid), stream_seed(c.seed, "curriculum")
    if c.rule != "sfl":
        return Curriculum((Uniform if c.rule == "multitask" else Replayed)(n, seed), None)
    if c.matrix is None:
        raise ValueError("sfl: give --matrix, whose own-context returns say what a success is")
    stored = load_matrix(c.matrix)
    if len(stored.contexts) != n or stored.card.task != c.env:
        raise ValueError(
            f"{c.matrix} is of {len(stored.contexts)} contexts of {stored.card.task}, not {n} of "
            f"{c.env}"
        )
    top = max(1, round(c.top * n))
    return Curriculum(Learnable(n, seed, top), stored.values.mean(2).diagonal().clone())


def main(config: Config | None = None, *, resume: bool = False) -> Result:
    """Train as configured; `resume` continues the run directory bit for bit."""
    c = check(config or Config())
    grid, threads = grid_of(c), use_threads(c.run.threads)
    require_real(c.env, grid, c.env_options)
    curriculum = curriculum_of(c, grid)

    def worlds(each: int, **more: Any) -> BatchEnv:
        options = {**c.env_options, **more, "threads": threads}
        return shown(c, grid, make(c.env, each * len(grid), context=grid, **options))

    env = Chosen(worlds(c.num_envs, seed=c.seed * SEED_STRIDE, **wide_starts(c)), curriculum)
    look = worlds(c.look_episodes)
    s = build(SAC, c, env=env, judge=worlds(c.run.eval_episodes))
    assert isinstance(s.agent, SAC)
    curriculum.agent, s.more["curriculum"] = s.agent, curriculum
    label = f"curriculum-{c.rule}-{c.env.split('/')[-1]}-s{c.seed}"
    with Run("curriculum", c, label=label, steps=c.steps, seed=c.seed, resume=resume) as run:
        judged = train(run, s, c, curriculum, look)
    return Result(run.path, run.step, judged)


def train(run: Run, s: Any, c: Config, curriculum: Curriculum, look: BatchEnv) -> Evaluation:
    """Train until `c.steps` transitions, looks that count included; return the last evaluation."""
    overall, learned = offpolicy.looks(run, s)

    def judge() -> Evaluation:
        judged = overall()
        each = judged.returns.reshape(c.run.eval_episodes, -1).mean(0)  # of each context
        return judged._replace(extra={"worst_decile": scores.worst_decile(as_tensor(each)[None])})

    def row() -> dict[str, Any]:
        told = {"episodes": curriculum.episodes, "look_steps": curriculum.look_steps}
        return {**learned(), **told}

    judged: Evaluation | None = None
    longest = look.num_envs * (look.max_episode_steps or cap_of(look))  # steps of a look at most
    for _ in offpolicy.steps(run, s, c):
        trained = run.step - (curriculum.look_steps if c.count_looks else 0)
        due = trained // c.look_every > curriculum.looked
        room = run.step + (longest if c.count_looks else 0) < c.steps
        if isinstance(curriculum.rule, Learnable) and due and room:
            with run.interruptible(s.state_dict, s.stores):
                seen = rates(s.agent, look, curriculum, c.success, run)
            curriculum.looked = trained // c.look_every
            curriculum.look_steps += seen.steps
            if c.count_looks:
                spend(run, seen.steps)
            curriculum.rule.look(seen.returns)
        judged = run.after_step(judge, row, s.state_dict, s.stores)
    return run.final(judged, judge)


def rates(agent: Policy, look: BatchEnv, curriculum: Curriculum, share: float, run: Run) -> Row:
    """Return the share of successes on each context [N], and the steps that they cost."""
    assert curriculum.references is not None, "only SFL looks"
    least, seed = share * curriculum.references, LOOK_SEED + 1000 * curriculum.looked

    def succeeds(returns: Tensor) -> Tensor:
        return (returns >= least).double()

    stop = lambda: run.stopping  # noqa: E731
    return play_row(agent, look, len(least), seed=seed, stop=stop, value=succeeds)


def spend(run: Run, steps: int) -> None:
    """Count a look's steps among the run's: what is due since the last row stays due."""
    previous = run.previous
    run.tick(steps)
    run.previous = previous


def load(config: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[Policy, int]:
    """Return the policy of a run's checkpoint, and the width of its observations."""
    policy, obs_dim = gaussian_policy(state["actor"])
    return go_on(policy, state.get("acting")), obs_dim
