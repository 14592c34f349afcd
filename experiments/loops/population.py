"""The loops of a population: K learners learn and are judged as one run, off-policy or on data."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...agents import Agent, Evaluation, RandomPolicy, evaluate
from ...agents.acting import advance
from ...agents.graphs import most
from ...agents.playing import EVAL_SEED, SEED_STRIDE
from ...agents.seeding import stream_seed
from ...agents.unread import UnreadReturns
from ...buffers.groups import Groups, Members
from ...envs import make
from ...envs.contexts import parse_contexts
from ..runs.resources import check_device, use_threads
from ..runs.result import Result
from ..runs.run import Run
from . import offline, offline_session
from .build import replay_for, streams_of
from .crew import Crew
from .offpolicy import learn
from .session import Session
from .sources import compose


def run_online(
    method: str, s: Session, configs: Sequence[Any], config: Any, resume: bool
) -> Result:
    """Train K members in worlds and a replay of their own each; `s` is what `build` gave."""

    def together(run: Run, crew: Crew) -> Evaluation:
        s.more["crew"] = crew
        return train(run, s, crew, configs[0])

    return _run(method, s.agent, configs, config, resume, together)


def run_offline(
    method: str, s: offline_session.Session, configs: Sequence[Any], config: Any, resume: bool
) -> Result:
    """Train K members on one set of data; `s` is what `build_offline` gave."""
    source = Members([compose(s.parts, own, None) for own in s.members])

    def together(run: Run, crew: Crew) -> Evaluation:
        crew.card = s.card
        return offline.train(run, s, source, more={"crew": crew}, crew=crew)

    return _run(method, s.learner, configs, config, resume, together)


def _run(
    method: str,
    agent: Agent,
    configs: Sequence[Any],
    config: Any,
    resume: bool,
    together: Callable[[Run, Crew], Evaluation],
) -> Result:
    """Train K members as one run and return its result; each has a directory of its own too.

    `configs`: of the members; `config`: of the run that counts, saves and goes on for all.
    """
    run = Run(
        "population",
        config,
        label=config.run.name,
        steps=config.steps,
        seed=config.seeds[0],
        resume=resume,
    )
    crew = Crew(method, configs, run.path, agent)
    error: BaseException | None = None
    try:
        if not resume:
            crew.open()
        with run:
            judged = together(run, crew)
    except BaseException as stopped:
        error = stopped
        raise
    finally:
        crew.close(error)
    return Result(run.path, run.step, judged)


class Warmup:
    """Uniform actions before the members learn, each member's from its own generator."""

    def __init__(self, act_dim: int, seeds: Sequence[int], device: torch.device) -> None:
        draws = [stream_seed(s, "warmup") for s in seeds]
        self.policies = [RandomPolicy(act_dim, seed=s, device=device) for s in draws]

    def act(self, obs: Tensor) -> Tensor:
        """Return the actions of the members' worlds, member by member."""
        n = len(obs) // len(self.policies)
        return torch.cat([p.act(obs[:n])[0] for p in self.policies])

    def state_dict(self) -> dict[str, Any]:
        """Return the generators."""
        return {"generators": [p.generator.get_state() for p in self.policies]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        for p, kept in zip(self.policies, state["generators"], strict=True):
            p.generator.set_state(kept)


def build_offline(method: str, agent_class: Any, configs: Sequence[Any]) -> offline_session.Session:
    """Return the data, judge and agent of all members."""
    settings, seeds = [c.agent for c in configs], [c.seed for c in configs]
    return offline_session.session(method, agent_class, configs[0], settings, seeds)


def build(agent_class: Any, configs: Sequence[Any]) -> Session:
    """Return the worlds, buffer and agent of all members, K groups side by side.

    Member k starts the episodes, and draws the numbers, of a run of its seed alone.
    """
    c, k, seeds = configs[0], len(configs), tuple(x.seed for x in configs)
    check_device(c.run.device)
    contexts = parse_contexts(c.context)
    own = streams_of("num_envs", c.num_envs, contexts)
    judged = k * streams_of("eval_episodes", c.run.eval_episodes, contexts)
    if tuple(c.data) != ("replay",):
        raise ValueError(f"data={list(c.data)}: a population learns from its own replay alone")
    if getattr(c, "n_step", 1) > 1:
        raise ValueError(f"n_step={c.n_step}: members of a population draw single steps; give 1")
    more = {**c.env_options, "threads": use_threads(c.run.threads), "context": contexts}
    first = [s * SEED_STRIDE + i for s in seeds for i in own]
    env = make(c.env, k * c.num_envs, streams=first, **more)
    judge = make(c.env, k * c.run.eval_episodes, streams=judged, **more)
    rows = c.buffer_size - c.buffer_size % c.num_envs
    buffer = replay_for(dataclasses.replace(c, buffer_size=k * rows), env)
    options = {"device": c.run.device, "compile": c.compile, "bfloat16": c.bfloat16}
    settings = [x.agent for x in configs]
    agent = agent_class(env.obs_dim, env.act_dim, settings, seed=seeds, **options)
    source = Groups(buffer, [stream_seed(s, "replay") for s in seeds])
    session = Session(agent, env, judge, buffer, source, c.seed)
    session.at_once = most(c.compile)
    session.more["warmup"] = Warmup(env.act_dim, seeds, env.device)
    return session


def steps(run: Run, s: Session, crew: Crew, config: Any) -> Iterator[None]:
    """Act, store and learn until `config.steps` transitions of each; yield after each step.

    Raises Diverged when no member is left whose values are finite.
    """
    obs, crew.on_host = s.begin(run), s.on_host
    crew.begin(run)
    if run.owed:
        learn(run, s, config, crew.require_finite)
        yield
    while run.step < config.steps:
        warm = run.step < config.learning_starts
        action = s.more["warmup"].act(obs) if warm else crew.act(obs, explore=True)[0]
        batch, valid, obs = advance(s.env, obs, action.to(s.env.device), s.columns)
        s.buffer.add(batch, valid)
        run.tick(config.num_envs)
        crew.count(s.returns.add(batch, valid), valid)
        if run.step > config.learning_starts:
            s.debt += config.utd * (run.step - max(run.previous, config.learning_starts))
            learn(run, s, config, crew.require_finite)
        yield


def train(run: Run, s: Session, crew: Crew, config: Any) -> Evaluation:
    """Train until `config.steps` transitions of each member; return the last evaluation."""

    def judge() -> Evaluation:
        return evaluate(crew, s.judge, seed=EVAL_SEED, stop=lambda: run.stopping)

    def row() -> dict[str, float]:
        unread = s.returns.read() if isinstance(s.returns, UnreadReturns) else None
        return crew.write_rows(s.metrics, crew.played(unread))

    judged: Evaluation | None = None
    for _ in steps(run, s, crew, config):
        judged = run.after_step(judge, row, s.state_dict, s.stores, crew.write_judged)
    return run.final(judged, judge)
