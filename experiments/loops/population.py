"""The loop of a population: K off-policy learners act, store, learn and are judged as one run."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from ...agents import Evaluation, evaluate
from ...agents.acting import advance
from ...agents.playing import EVAL_SEED, SEED_STRIDE
from ...agents.seeding import stream_seed
from ...buffers.groups import Groups
from ...envs import make
from ...envs.contexts import parse_contexts
from ..runs.resources import check_device, use_threads
from ..runs.result import Result
from ..runs.run import Run
from ..runs.stopping import Interrupted
from .build import replay_for
from .crew import Crew
from .offpolicy import learn
from .session import Session


def run_population(
    method: str, agent_class: Any, configs: Sequence[Any], config: Any, resume: bool
) -> Result:
    """Train K members as one run and return its result; each has a directory of its own too.

    `configs`: of the members; `config`: of the run that counts, saves and goes on for all.
    """
    s = build(agent_class, configs)
    run = Run(
        "population",
        config,
        label=config.run.name,
        steps=config.steps,
        seed=config.seeds[0],
        resume=resume,
    )
    crew = Crew(method, configs, run.path, s.agent)
    s.more["crew"] = crew
    error: BaseException | None = None
    try:
        if not resume:
            crew.open()
        with run:
            judged = train(run, s, crew, configs[0])
    except BaseException as stopped:
        error = stopped
        raise
    finally:
        crew.close(error)
    return Result(run.path, run.step, judged)


def build(agent_class: Any, configs: Sequence[Any]) -> Session:
    """Return the worlds, buffer and agent of all members, K groups side by side.

    Member k starts the episodes, and draws the numbers, of a run of its seed alone.
    """
    c, k, seeds = configs[0], len(configs), tuple(x.seed for x in configs)
    check_device(c.run.device)
    contexts = parse_contexts(c.context)
    d = 1 if contexts is None else len(contexts)
    for name, worlds in (("num_envs", c.num_envs), ("eval_episodes", c.run.eval_episodes)):
        if worlds % d:
            raise ValueError(
                f"{name}={worlds} worlds for each member, and {d} contexts: a population takes a "
                f"multiple of {d}"
            )
    if tuple(c.data) != ("replay",):
        raise ValueError(f"data={list(c.data)}: a population learns from its own replay alone")
    more = {**c.env_options, "threads": use_threads(c.run.threads), "context": contexts}
    first = [s * SEED_STRIDE + i // d for s in seeds for i in range(c.num_envs)]
    env = make(c.env, k * c.num_envs, streams=first, **more)
    judged = [i // d for _ in seeds for i in range(c.run.eval_episodes)]
    judge = make(c.env, k * c.run.eval_episodes, streams=judged, **more)
    rows = c.buffer_size - c.buffer_size % c.num_envs
    buffer = replay_for(dataclasses.replace(c, buffer_size=k * rows), env)
    options = {"device": c.run.device, "compile": c.compile, "bfloat16": c.bfloat16}
    settings = [x.agent for x in configs]
    agent = agent_class(env.obs_dim, env.act_dim, settings, seed=seeds, **options)
    source = Groups(buffer, [stream_seed(s, "replay") for s in seeds])
    return Session(agent, env, judge, buffer, source, c.seed)


def steps(run: Run, s: Session, crew: Crew, config: Any) -> Iterator[None]:
    """Act, store and learn until `config.steps` transitions of each; yield after each step.

    Raises Diverged when no member is left whose values are finite.
    """
    obs = s.begin(run)
    crew.begin(run.step, s.env.notes)
    if run.owed:
        learn(run, s, config, crew.require_finite)
        yield
    while run.step < config.steps:
        warm = run.step < config.learning_starts
        action = crew.explore(obs) if warm else crew.act(obs, explore=True)[0]
        batch, valid, obs = advance(s.env, obs, action.to(s.env.device), s.columns)
        s.buffer.add(batch, valid)
        run.tick(config.num_envs)
        crew.step = run.step
        crew.count(s.returns.add(batch, valid), valid)
        if run.step > config.learning_starts:
            s.debt += config.utd * (run.step - max(run.previous, config.learning_starts))
            learn(run, s, config, crew.require_finite)
        yield


def train(run: Run, s: Session, crew: Crew, config: Any) -> Evaluation:
    """Train until `config.steps` transitions of each member; return the last evaluation."""

    def judge() -> Evaluation:
        return evaluate(crew, s.judge, seed=EVAL_SEED, stop=lambda: run.stopping)

    judged: Evaluation | None = None
    try:
        for _ in steps(run, s, crew, config):
            judged = None
            if run.due(run.options.eval_every):
                with run.interruptible(s.state_dict, s.stores):
                    judged = judge()
            if run.due(run.options.log_every):
                run.log(crew.write_rows(s.metrics))
            if judged is not None:
                run.log(crew.write_judged(judged), kind="eval")
            run.keep(s.state_dict, s.stores)
            crew.follow(run)
        return run.final(judged, judge)
    except Interrupted as stop:
        if stop.saved:
            crew.follow(run)
        raise
