"""What a run of dream worlds is made of: reality, a world model, dreams, what learns in them."""

import copy
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...agents import SAC, TD3, Policy
from ...agents.dreams.featured import Featured
from ...agents.dreams.models import build as build_model
from ...agents.playing import SEED_STRIDE, evaluate
from ...agents.search import SEARCHES
from ...agents.seeding import generator, stream_seed
from ...buffers import ReplayBuffer, mix
from ...envs import BatchEnv, make
from ...envs.contexts import parse_contexts
from ..runs.resources import use_threads
from . import session
from .deploying import (
    SWIM,
    Chosen,
    Collector,
    Snapshot,
    build_controller,
    deployed,
    policy_of,
    real_worlds,
    store_for,
)
from .dreaming import Dream, World, rule_of
from .onpolicy import PPOSession
from .searching import Searching, streams_of
from .session import Session

SEARCHED = tuple(SEARCHES)  # learners that are searches
LEARNERS: Mapping[str, Any] = {"sac": SAC, "td3": TD3}


class Land(NamedTuple):
    """The parts of a run."""

    real: Collector
    judge: BatchEnv  # real worlds, the same number for each controller
    world: World
    dream: Dream
    session: Any  # Session, PPOSession or Searching, with all the others in its state
    chosen: Chosen


def build(c: Any) -> Land:
    """Return the parts of a run; ValueError for settings that do not go together."""
    refuse(c)
    options = {**c.env_options, "threads": use_threads(c.run.threads)}
    options |= {"context": parse_contexts(c.context)} if c.context else {}
    real = make(c.env, real_worlds(c), seed=c.seed * SEED_STRIDE, **options)
    if real.discrete:
        raise ValueError(f"{c.env} has discrete actions, which world models here do not take")
    if c.controllers > 1:
        options["streams"] = list(np.tile(np.arange(c.run.eval_episodes), c.controllers))
    judge = make(c.env, c.controllers * c.run.eval_episodes, **options)
    store = store_for(c, real)
    ends = rule_of(real, c.dream)
    world = World(real.obs_dim, real.act_dim, c.model, c.dream, ends=ends, seed=c.seed)
    n, streams = c.num_envs, None
    if c.learner in SEARCHED:
        streams = streams_of(c.controllers, c.es.population, c.episodes)
        n = len(streams)
    dream = Dream(world, n, c.seed * SEED_STRIDE, streams, real.notes)
    s = session_for(c, dream, judge, store)
    widths = {"obs_dim": real.obs_dim, "act_dim": real.act_dim}

    def facts() -> dict[str, Any]:
        return {**widths, "model": world.model.state_dict() if world.features else None}

    chosen = Chosen(lambda: taken(c, s), facts)
    collector = Collector(real, store, c.collect_noise, c.seed, c.collect_hold)
    s.more |= {"real": collector, "chosen": chosen}
    s.stores = {**s.stores, "real": store}
    return Land(collector, judge, world, dream, s, chosen)


def refuse(c: Any) -> None:
    """Raise ValueError for settings that do not go together."""
    if c.run.device != "cpu":
        raise ValueError(f"dreams run on the CPU, got device={c.run.device!r}")
    searched = c.learner in SEARCHED
    if c.controllers > 1 and (not searched or c.context):
        raise ValueError(
            f"controllers={c.controllers} are for a search ({', '.join(SEARCHED)}) in one context; "
            f"this is {c.learner}"
        )
    if c.real_share and (c.learner not in LEARNERS or c.dream.features):
        raise ValueError("real_share is for sac and td3, on observations without features")
    if c.controller == "circuit" and not searched:
        raise ValueError(f"the circuit is searched for here ({', '.join(SEARCHED)})")
    if c.controller == "circuit" and (c.env != SWIM or c.model.target != "delta"):
        raise ValueError(
            f"the circuit swims by a clock, which a dream keeps with model.target=delta: it needs "
            f"{SWIM} and that; got {c.env}, {c.model.target}"
        )
    if c.collect > c.real_size:
        raise ValueError(f"collect={c.collect} real steps do not fit real_size={c.real_size}")


def session_for(c: Any, dream: Dream, judge: BatchEnv, store: ReplayBuffer) -> Any:
    """Return what learns in the dreams."""
    if c.learner == "ppo":
        return PPOSession(dream, c.ppo, c.seed)
    if c.learner in LEARNERS:
        own = {"agent": getattr(c, c.learner), "compile": False, "bfloat16": False}
        settings = SimpleNamespace(**{**vars(c), **own})
        s: Session = session.build(LEARNERS[c.learner], settings, env=dream, judge=judge)
        if c.real_share:
            s.draw_from(mix([(s.buffer, 1 - c.real_share), (store, c.real_share)]), real=store)
        return s
    controller = build_controller(c, dream.obs_dim, dream.act_dim)
    searches = []
    for i in range(c.controllers):
        start = controller.initial(generator(c.seed, f"weights {i}"))
        searches.append(SEARCHES[c.learner](start, c.es, stream_seed(c.seed, f"search {i}")))
    return Searching(controller, searches, dream, c.seed)


def taken(c: Any, s: Any) -> list[Snapshot]:
    """Return a snapshot of each controller as it is: copies, which learning does not reach."""
    if c.learner in SEARCHED:
        return [{"parameters": p.clone()} for p in s.best]
    state = s.agent_state() if c.learner == "ppo" else s.agent.state_dict()
    names = ("policy", "statistics") if c.learner == "ppo" else ("actor",)
    return [{name: copy.deepcopy(state[name]) for name in names}]


def real_policy(c: Any, p: Land, rule: str) -> Policy:
    """Return the controllers that a rule deploys, as they act in reality."""
    policy = policy_of(c, p.chosen.by(rule), p.dream.obs_dim, p.dream.act_dim)
    return Featured(policy, p.world.model) if p.world.features else policy


def dreamt(c: Any, p: Land, rule: str, seed: int, stop: Callable[[], bool]) -> Tensor:
    """Return the mean return [K] of the controllers of a rule in other dreams than they learn in.

    Every controller plays the same ones. Raises Stopped where `stop` says so.
    """
    env = p.world.trial(c.select_episodes, c.controllers)
    policy = policy_of(c, p.chosen.by(rule), p.dream.obs_dim, p.dream.act_dim)
    returns = evaluate(policy, env, seed=seed, stop=stop).returns
    return torch.from_numpy(returns).view(c.controllers, -1).mean(1)


def load_land(c: Any, state: Mapping[str, Any]) -> tuple[Policy, int]:
    """Return the policy that a run deploys, and the width of its observations."""
    obs_dim, act_dim = int(state["obs_dim"]), int(state["act_dim"])
    found = deployed(state, c.select)
    if state["model"] is None:
        return policy_of(c, [found], obs_dim, act_dim), obs_dim
    model = build_model(obs_dim, act_dim, c.model)
    model.load_state_dict(state["model"])
    model.requires_grad_(False)  # it is played, no longer fit
    width = obs_dim + int(model.initial_state(1)[0].shape[1])
    return Featured(policy_of(c, [found], width, act_dim), model), obs_dim
