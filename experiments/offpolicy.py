"""The loop of every off-policy agent: act, store, learn, and now and then look."""

from dataclasses import dataclass
from typing import Any

import torch

from ..agents import Agent, RandomPolicy, reset_where
from ..agents.seeding import stream_seed
from ..buffers import Layout, ReplayBuffer
from ..envs import BatchEnv, make
from .evaluation import Evaluation, evaluate
from .process import Interrupted
from .rollout import Returns, advance, over
from .run import Run

# Environment seeds of runs s and s + 1 are far apart: world i of seed s is world 0 of s + i.
SEED_STRIDE = 1_000_003
EVAL_SEED = 987_654_321


@dataclass(frozen=True)
class Schedule:
    """How much to act and how much to learn."""

    steps: int  # environment transitions
    learning_starts: int  # transitions of random actions before the first update
    utd: float  # gradient updates per transition, whatever num_envs is
    batch_size: int


def make_worlds(config: Any, threads: int) -> tuple[BatchEnv, BatchEnv, ReplayBuffer]:
    """Return the worlds to learn in, those to be judged in, and the buffer between."""
    kwargs = dict(config.env_options)
    seed = config.seed * SEED_STRIDE
    env = make(config.env, config.num_envs, seed=seed, threads=threads, **kwargs)
    if env.discrete:
        raise ValueError(
            f"{config.env} has discrete actions, which SAC and TD3 do not take; use a continuous "
            "environment (`reverie list envs`)"
        )
    judge = make(config.env, config.run.eval_episodes, threads=threads, **kwargs)
    capacity = config.buffer_size - config.buffer_size % config.num_envs
    layout = Layout(env.obs_dim, env.act_dim)
    replay = stream_seed(config.seed, "replay")
    buffer = ReplayBuffer(
        layout,
        capacity,
        config.num_envs,
        device=config.run.device,
        seed=replay,
    )
    return env, judge, buffer


def train(
    run: Run,
    agent: Agent,
    env: BatchEnv,
    judge: BatchEnv,
    buffer: ReplayBuffer,
    schedule: Schedule,
    seed: int,
) -> Evaluation:
    """Train `agent` until `schedule.steps` transitions; return its last evaluation.

    Raises Interrupted after saving when the run was told to stop.
    """
    warmup = RandomPolicy(env.act_dim, seed=stream_seed(seed, "warmup"))
    returns = Returns(env.num_envs)
    recent: list[tuple[float, int]] = []
    debt = 0.0  # updates owed
    metrics: dict[str, torch.Tensor] = {}
    memory = initial = agent.initial_state(env.num_envs)

    run.note(**env.notes)
    state = run.restore(buffer)
    if state is None:
        obs = env.reset()
    else:
        agent.load_state_dict(state["agent"])
        env.load_state_dict(state["env"])
        returns.load_state_dict(state["returns"])
        warmup.generator.set_state(state["warmup"])
        recent, debt, metrics, memory = (state[k] for k in ("recent", "debt", "metrics", "memory"))
        if env.restores:
            obs = env.current_obs()
        else:
            obs = env.reset(seed * SEED_STRIDE + run.step)
            buffer.break_episodes()
            returns, memory = Returns(env.num_envs), initial
            run.note(resume="the environment has no saved state: restarted at a reset")

    def snapshot() -> dict[str, Any]:
        return {
            "agent": agent.state_dict(),
            "env": env.state_dict(),
            "returns": returns.state_dict(),
            "warmup": warmup.generator.get_state(),
            "recent": recent,
            "debt": debt,
            "metrics": metrics,
            "memory": memory,
        }

    judged: Evaluation | None = None
    while run.step < schedule.steps:
        policy = agent if run.step >= schedule.learning_starts else warmup
        action, memory = policy.act(obs, memory, explore=True)
        batch, valid, obs = advance(env, obs, action.cpu())
        buffer.add(batch, valid)
        recent += [(total, length) for _, total, length in returns.add(batch, valid)]
        if memory:
            memory = reset_where(over(batch, valid), memory, initial)
        run.tick(int(valid.sum()))

        if run.step > schedule.learning_starts:
            debt += schedule.utd * (run.step - max(run.previous, schedule.learning_starts))
            while debt >= 1:
                metrics = agent.update(buffer.sample(schedule.batch_size))
                debt -= 1

        if run.due(run.options.log_every):
            row: dict[str, Any] = dict(metrics)
            if recent:
                row["return"] = sum(r for r, _ in recent) / len(recent)
                row["length"] = sum(n for _, n in recent) / len(recent)
                recent = []
            run.log({**row, "bad_worlds": env.bad_worlds})
            run.log_time()
        if run.due(run.options.eval_every):
            judged = evaluate(agent, judge, seed=EVAL_SEED)
            values = {
                "return": judged.mean,
                "std": judged.returns.std(),
                "length": judged.lengths.mean(),
            }
            run.log(values, kind="eval")
        if run.due(run.options.checkpoint_every) or run.stopping:
            run.save(snapshot(), buffer)
            if run.stopping and run.step < schedule.steps:
                raise Interrupted(run.path)
    if judged is None:  # resumed at the end
        judged = evaluate(agent, judge, seed=EVAL_SEED)
    return judged
