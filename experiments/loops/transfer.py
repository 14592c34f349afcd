"""Sources of a transfer matrix: trained side by side, each on a context of its own, then scored."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ...agents import SAC, TD3, Metrics, RandomPolicy
from ...agents.acting import Returns, advance
from ...agents.actors import deterministic_policy, gaussian_policy
from ...agents.api import Policy
from ...agents.mbtl.library import Row, play_row
from ...agents.playing import EVAL_SEED, SEED_STRIDE, Evaluation, Stopped, evaluate
from ...agents.population import member
from ...agents.seeding import stream_seed
from ...buffers import Layout, ReplayBuffer
from ...buffers.groups import Groups
from ...envs import BatchEnv, Contexts, make
from ..runs.directory import Stores
from ..runs.run import Run
from .contextual import row_worlds, shown, wide_starts

# Start states on which snapshots are chosen. World i of seed s starts as world 0 of s + i: rows are
# of EVAL_SEED and their many worlds, from which these are far.
CHOOSE_SEED = EVAL_SEED + 1_000_000
LEARNERS: Mapping[str, Any] = {"sac": (SAC, gaussian_policy), "td3": (TD3, deterministic_policy)}


class Job(NamedTuple):
    """A source to train: the row of its context in the grid, and its seed."""

    context: int
    seed: int


class Trainer(Protocol):
    """Trains jobs, some at once, and gives their rows of returns."""

    jobs: list[Job]  # in training; none between two lists of them
    members: int  # how many at once
    each: int  # environment steps of one
    scored: BatchEnv  # the worlds of a row
    judged: int  # environment steps of all evaluations so far
    stores: Stores

    def begin(self, jobs: Sequence[Job]) -> None:
        """Begin to train these."""
        ...

    def advance(self, run: Run) -> int:
        """Act and store for a while; return the transitions of all jobs."""
        ...

    def settle(self, run: Run) -> None:
        """Learn, look and score, each when due; Stopped where the run is to stop: call it again."""
        ...

    def results(self) -> list[tuple[Row, Any]]:
        """Return what each job earned, and what acts, once it is over; [] before."""
        ...

    def row(self) -> dict[str, Any]:
        """Return what to log of the training."""
        ...

    def actors(self) -> list[Any]:
        """Return what acts in the jobs as they are now, of those that can say."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        ...


class Population:
    """K sources of SAC or TD3 as one learner, in worlds of their contexts; a `Trainer`.

    Member k learns as a run of its seed alone would. Of its snapshots, one every `select_every`
    transitions, the best on `choose_episodes` episodes of its own context stays. The one that
    stays after `short` transitions has a row too, unless that is 0.
    """

    def __init__(
        self, c: Any, grid: Contexts, members: int, steps: int, threads: int, short: int = 0
    ) -> None:
        self.c, self.grid, self.members, self.steps = c, grid, members, steps
        self.short = short
        self.each = -(-steps // c.num_envs) * c.num_envs
        self.threads, self.jobs = threads, list[Job]()
        self.scored = row_worlds(c, grid, threads)
        if self.scored.discrete:
            raise ValueError(f"{c.env} has discrete actions, which {c.learner} does not take")
        worlds = members * c.num_envs
        layout = Layout(self.scored.obs_dim, self.scored.act_dim)
        self.buffer = ReplayBuffer(layout, members * self.each, worlds)
        self.stores: Stores = {"replay": self.buffer}
        self.judged = 0

    def begin(self, jobs: Sequence[Job]) -> None:
        """Forget the sources before, and begin these."""
        self.buffer.clear()
        self._open(jobs)
        self.obs = self.env.reset()

    def _open(self, jobs: Sequence[Job]) -> None:
        if len(jobs) != self.members:
            raise ValueError(f"{len(jobs)} jobs for {self.members} members")
        c, e, seeds = self.c, self.c.num_envs, tuple(j.seed for j in jobs)
        self.jobs = list(jobs)
        streams = [s * SEED_STRIDE + i for s in seeds for i in range(e)]
        self.env = self._worlds(e, streams, wide_starts(c))
        self.judge = self._worlds(c.choose_episodes, [*range(c.choose_episodes)] * len(jobs), {})
        settings = [getattr(c, c.learner)] * len(jobs)
        self.agent = LEARNERS[c.learner][0](
            self.env.obs_dim, self.env.act_dim, settings, seed=seeds
        )
        self.source = Groups(self.buffer, [stream_seed(s, "replay") for s in seeds])
        draws = [stream_seed(s, "warmup") for s in seeds]
        self.warmups = [RandomPolicy(self.env.act_dim, seed=s) for s in draws]
        self.returns, self.recent = Returns(len(jobs) * e), list[float]()
        self.step, self.looked, self.debt = 0, 0, 0.0  # of each job
        self.metrics: Metrics = {}
        self.best = torch.full((len(jobs),), -torch.inf, dtype=torch.float64)
        self.kept = {k: w.clone() for k, w in self._actors().items()}
        self.rows: list[Row] = []
        self.shorts: list[Row] = []

    def _worlds(self, each: int, streams: list[int], more: Mapping[str, Any]) -> BatchEnv:
        """Return `each` worlds of the context of every job, job by job."""
        c, rows = self.c, [j.context for j in self.jobs for _ in range(each)]
        own = Contexts(self.grid.names, self.grid.table[rows])
        options = {**c.env_options, **more, "threads": self.threads}
        return shown(c, self.grid, make(c.env, len(rows), context=own, streams=streams, **options))

    def _actors(self) -> dict[str, Tensor]:
        actors: dict[str, Tensor] = self.agent.state_dict()["actor"]
        return actors

    def advance(self, run: Run) -> int:
        """Take one step in every world."""
        c, before = self.c, self.step
        if before < c.learning_starts:
            own = self.obs[: c.num_envs]
            action = torch.cat([p.act(own)[0] for p in self.warmups])
        else:
            action, _ = self.agent.act(self.obs, explore=True)
        batch, valid, self.obs = advance(self.env, self.obs, action)
        self.buffer.add(batch, valid)
        self.recent += [total for _, total, _ in self.returns.add(batch, valid)]
        self.step += c.num_envs
        if self.step > c.learning_starts:
            self.debt += c.utd * (self.step - max(before, c.learning_starts))
        return len(valid)

    def settle(self, run: Run) -> None:
        """Take the updates that are owed; look, and at the end score."""
        while self.jobs and self.debt >= 1:
            if run.stopping:
                raise Stopped("updates were told to stop")
            self.metrics = self.agent.update(self.source.sample(self.c.batch_size))
            self.debt -= 1
        if not self.jobs:
            return
        run.require_finite({k: v.sum() for k, v in self.metrics.items()}, self.state_dict)
        every = self.c.select_every
        due = self.step >= self.steps or self.step // every > self.looked // every
        if due and self.looked < self.step:
            self._look(run)
        while self.short and self.looked >= self.short and len(self.shorts) < len(self.jobs):
            self._score(self.shorts, run)
        while self.step >= self.steps and len(self.rows) < len(self.jobs):
            self._score(self.rows, run)

    def _score(self, rows: list[Row], run: Run) -> None:
        """Append the row of the next member's snapshot that stays so far."""
        policy = policy_of(self.c, member(self.kept, len(rows)))
        n, stop = len(self.grid), (lambda: run.stopping)
        row = play_row(policy, self.scored, n, seed=EVAL_SEED, stop=stop)
        rows.append(row)
        self.judged += row.steps

    def _look(self, run: Run) -> None:
        """Keep the actors of the members that are better on their own context than before."""
        stop = lambda: run.stopping  # noqa: E731
        judged = evaluate(self.agent, self.judge, seed=CHOOSE_SEED, stop=stop)
        own = torch.from_numpy(judged.returns).view(len(self.jobs), -1).mean(1)
        better = own > self.best
        for name, now in self._actors().items():
            self.kept[name][better] = now[better].clone()
        self.best = torch.where(better, own, self.best)
        self.judged += int(judged.lengths.sum())
        self.looked = self.step

    def results(self) -> list[tuple[Row, Any]]:
        """Return rows and actors, once all are scored."""
        if not self.jobs or len(self.rows) < len(self.jobs):
            return []
        rows = list(self.rows)
        for k, early in enumerate(self.shorts):
            rows[k] = rows[k]._replace(short=early.each)
        return [(row, member(self.kept, k)) for k, row in enumerate(rows)]

    def row(self) -> dict[str, Any]:
        """Return means over the members; the returns are of episodes since the last row."""
        if not self.jobs:
            return {}
        out = {name: float(value.mean()) for name, value in self.metrics.items()}
        if self.recent:
            out["return"] = sum(self.recent) / len(self.recent)
        self.recent = []
        return out

    def actors(self) -> list[Any]:
        """Return the members' actors as they are now."""
        return [member(self._actors(), k) for k in range(len(self.jobs))]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the buffer, whose rows lie in shards."""
        state: dict[str, Any] = {"jobs": [list(j) for j in self.jobs], "judged": self.judged}
        if not self.jobs:
            return state
        rows = [[(row.each, row.steps) for row in own] for own in (self.rows, self.shorts)]
        counts = (self.step, self.looked, self.debt, list(self.recent), self.metrics)
        return {
            **state,
            "agent": self.agent.state_dict(),
            "env": self.env.state_dict(),
            "source": self.source.state_dict(),
            "warmups": [p.generator.get_state() for p in self.warmups],
            "returns": self.returns.state_dict(),
            "counts": counts,
            "chosen": (self.best.clone(), {k: w.clone() for k, w in self.kept.items()}, rows),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; the buffer is refilled before."""
        self.judged = int(state["judged"])
        jobs = [Job(*map(int, j)) for j in state["jobs"]]
        if not jobs:
            self.jobs = []
            return
        self._open(jobs)
        self.agent.load_state_dict(state["agent"])
        self.env.load_state_dict(state["env"])
        self.source.load_state_dict(state["source"])
        for p, kept in zip(self.warmups, state["warmups"], strict=True):
            p.generator.set_state(kept)
        self.returns.load_state_dict(state["returns"])
        self.step, self.looked, self.debt, recent, self.metrics = state["counts"]
        best, kept, played = state["chosen"]
        self.recent, self.best, self.kept = list(recent), best.clone(), dict(kept)
        self.rows, self.shorts = [[Row(each, int(n)) for each, n in own] for own in played]
        self.obs = self.env.current_obs()


def policy_of(c: Any, actor: Mapping[str, Tensor]) -> Policy:
    """Return the policy of a source's actor alone."""
    policy: Policy = LEARNERS[c.learner][1](actor)[0]
    return policy


def train(
    run: Run,
    t: Trainer,
    more: Callable[[], Sequence[Job]],
    tell: Callable[[Job, Row, Any], None],
    judging: Callable[[], Evaluation],
    row: Callable[[], Mapping[str, Any]],
    saved: Callable[[], dict[str, Any]],
) -> Evaluation:
    """Train jobs until `run.steps` transitions of all; return the last evaluation.

    `more` gives the next jobs, `tell` takes what one earned. Goes on from what `saved` saved, which
    is loaded before. Raises Interrupted after saving, Diverged after a dump.
    """
    judged: Evaluation | None = None
    while run.owed or run.step < run.steps:
        if not run.owed:  # else only what follows the step is left of it
            if not t.jobs:
                t.begin(more())
            with run.interruptible(saved, t.stores, owed=False):
                transitions = t.advance(run)
            run.tick(transitions)
        with run.interruptible(saved, t.stores):
            t.settle(run)
        if done := t.results():
            for job, (earned, actor) in zip(t.jobs, done, strict=True):
                tell(job, earned, actor)
            t.jobs = []
        judged = run.after_step(judging, row, saved, t.stores)
    return run.final(judged, judging)
