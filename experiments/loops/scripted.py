"""Sources trained by their own scripts, one after the other, each a run in a folder."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...agents.api import Policy
from ...agents.mbtl.library import Row, play_row
from ...agents.playing import EVAL_SEED, Stopped, evaluate
from ...envs import BatchEnv, Contexts, make
from .. import methods
from ..runs import checkpoint
from ..runs.config import RunOptions
from ..runs.directory import Stores
from ..runs.opening import read_object
from ..runs.run import Run
from ..runs.stopping import Interrupted
from .contextual import row_worlds, shown, wide_starts
from .transfer import CHOOSE_SEED, Job

LINKS = 6  # of the swimmer whose circuit is trained
Made = tuple[str, Any, Path]  # a source's method, its configuration, its run directory
_together: Callable[[Sequence[Made]], None] | None = None  # what trains sources side by side


@contextmanager
def trained_by(together: Callable[[Sequence[Made]], None]) -> Iterator[None]:
    """Let sources that were asked for at once be trained by `together`, to their end."""
    global _together
    _together = together
    try:
        yield
    finally:
        _together = None


class Scripted:
    """Sources of PPO or of the circuit; a `Trainer`.

    Snapshots are the checkpoints of a source's run, one every `select_every` transitions.
    """

    def __init__(
        self,
        c: Any,
        grid: Contexts,
        members: int,
        steps: int,
        threads: int,
        folder: Path,
        short: int = 0,
    ) -> None:
        if c.context_in_obs != "hidden":
            raise ValueError(f"{c.learner} trains with hidden contexts, not {c.context_in_obs!r}")
        self.c, self.grid, self.members, self.steps = c, grid, members, steps
        self.each, self.threads, self.folder, self.jobs = steps, threads, folder, list[Job]()
        self.short = short
        self.scored = row_worlds(c, grid, threads)
        self.stores: Stores = {}
        self.judged = 0

    def begin(self, jobs: Sequence[Job]) -> None:
        """Begin these sources, the first first."""
        self.jobs, self.done = list(jobs), list[tuple[Row, Any]]()
        self.trained = 0  # of the jobs
        self.metrics: dict[str, float] = {}

    def advance(self, run: Run) -> int:
        """Train the next source from its beginning, or where it was stopped, to its end.

        Where all can be trained side by side they are, before the first: what is logged, row by
        row, is the same.
        """
        try:
            if _together is not None and (left := self._left()):
                _together(left)
            method, config, path = self._made(self.jobs[self.trained])
            result = methods.script(method).main(config, resume=path.exists())
        except Interrupted as stop:
            raise Stopped(str(stop)) from None
        self.metrics = {"source_return": result.eval_return}
        self.trained += 1
        return self.steps

    def _left(self) -> list[Made]:
        """Return the sources asked for that are not trained to their end."""
        made = [self._made(job) for job in self.jobs[self.trained :]]
        return [m for m in made if read_object(m[2] / "stamp.json").get("status") != "finished"]

    def _made(self, job: Job) -> Made:
        """Return a source's method, configuration and run directory."""
        method, config = script_of(self.c, self.grid, job, self.steps)
        options = RunOptions(
            out=str(self.folder),
            name="c{}-s{}".format(*job),
            threads=self.threads,
            log_every=0,
            eval_every=0,
            eval_episodes=1,
            checkpoint_every=self.c.select_every,
            keep=1_000_000,
            tensorboard=False,
            progress=False,
        )
        path = self.folder / str(options.name)
        return method, dataclasses.replace(config, run=options), path

    def settle(self, run: Run) -> None:
        """Choose a snapshot of the source that was trained last, and score it."""
        while self.jobs and len(self.done) < self.trained:
            job, stop = self.jobs[len(self.done)], (lambda: run.stopping)
            actors = snapshots(self.folder / "c{}-s{}".format(*job))
            judge = self._own_worlds(job)
            best, chosen, early, cost = -float("inf"), actors[-1][1], None, 0
            for step, actor in actors:
                judged = evaluate(policy_of(self.c, actor), judge, seed=CHOOSE_SEED, stop=stop)
                cost += int(judged.lengths.sum())
                if judged.mean > best:
                    best, chosen = judged.mean, actor
                if self.short and step >= self.short and early is None:
                    early = chosen
            row = self._score(chosen, stop)
            if early is not None:
                short = self._score(early, stop)
                row, cost = row._replace(short=short.each), cost + short.steps
            self.done.append((row, chosen))
            self.judged += cost + row.steps

    def _score(self, actor: Any, stop: Callable[[], bool]) -> Row:
        policy, n = policy_of(self.c, actor), len(self.grid)
        return play_row(policy, self.scored, n, seed=EVAL_SEED, stop=stop)

    def _own_worlds(self, job: Job) -> BatchEnv:
        c, n = self.c, self.c.choose_episodes
        own = Contexts(self.grid.names, self.grid.table[[job.context]])
        options = {**c.env_options, "threads": self.threads}
        return shown(c, self.grid, make(c.env, n, context=own, **options))

    def results(self) -> list[tuple[Row, Any]]:
        """Return rows and what acts, once all are scored."""
        return self.done if self.jobs and len(self.done) == len(self.jobs) else []

    def row(self) -> dict[str, Any]:
        """Return how the last source was judged by its own script."""
        return dict(self.metrics)

    def actors(self) -> list[Any]:
        """Return what acts in the sources that are scored already."""
        return [actor for _, actor in self.done] if self.jobs else []

    def state_dict(self) -> dict[str, Any]:
        """How far the list is; what is inside a source lies in its own run."""
        state: dict[str, Any] = {"jobs": [list(j) for j in self.jobs], "judged": self.judged}
        if self.jobs:
            done = [(*row, actor) for row, actor in self.done]
            state |= {"trained": self.trained, "done": done, "metrics": self.metrics}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.begin([Job(*map(int, j)) for j in state["jobs"]])
        self.judged = int(state["judged"])
        if self.jobs:
            self.trained, self.metrics = int(state["trained"]), dict(state["metrics"])
            done = state["done"]
            self.done = [(Row(each, int(n), short), actor) for each, n, short, actor in done]


def worlds_as(c: Any) -> Any:
    """Return the options with those that the circuit's worlds need."""
    if c.learner != "circuit":
        return c
    own = {"links": LINKS, "time_feature": True}
    return dataclasses.replace(c, env_options={**c.env_options, **own})


def script_of(c: Any, grid: Contexts, job: Job, steps: int) -> tuple[str, Any]:
    """Return the method of a source and its configuration there."""
    values = zip(grid.names, grid.table[job.context].tolist(), strict=True)
    common = {
        "env": c.env,
        "steps": steps,
        "seed": job.seed,
        "context": tuple(f"{name}={value!r}" for name, value in values),
        "env_options": {**c.env_options, **wide_starts(c)},
    }
    if c.learner == "ppo":
        return "ppo", methods.script("ppo").Config(**common, num_envs=c.num_envs, agent=c.ppo)
    own = {"links": LINKS, "search": c.search, "es": c.es}
    return "ncap", methods.script("ncap").Config(**common, **own)


def snapshots(path: Path) -> list[tuple[int, Any]]:
    """Return the step of each checkpoint of a run and what acts in it, oldest first."""
    states = []
    for point in checkpoint.list_checkpoints(path / "checkpoints"):
        states.append((checkpoint.step_of(point), _acting(checkpoint.read(point)["agent"])))
    if not states:
        raise FileNotFoundError(f"{path} has no checkpoints: what was trained there is gone")
    return states


def _acting(agent: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a learner's state what its policy is made of."""
    return {k: agent[k] for k in ("best", "policy", "statistics") if k in agent}


def policy_of(c: Any, actor: Mapping[str, Any]) -> Policy:
    """Return the policy of what a snapshot holds."""
    module = methods.script("ppo" if c.learner == "ppo" else "ncap")
    config = module.Config(**({"agent": c.ppo} if c.learner == "ppo" else {"links": LINKS}))
    values = dataclasses.asdict(config)
    state = {k: v if k != "best" else torch.as_tensor(v) for k, v in actor.items()}
    policy: Policy = module.load(values, state)[0]
    return policy
