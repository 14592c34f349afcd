"""Train the C. elegans circuit, or a control of it, to swim: ES, CMA-ES, ARS, TD3 or PPO."""

import copy
import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from tyro.conf import OmitArgPrefixes

from ..agents import TD3, TD3Config
from ..agents.actors import ActorPolicy, deterministic_policy, go_on
from ..agents.api import within
from ..agents.controllers import Controller, ControllerPolicy
from ..agents.ncap import Circuit, CircuitConfig, Network, SineCPG, joint_limit
from ..agents.ncap.transfer import off_nominal
from ..agents.playing import EVAL_SEED, Evaluation, evaluate
from ..agents.sb3 import PPOConfig
from ..agents.search import SEARCHES, SearchConfig
from ..agents.seeding import generator, stream_seed
from ..envs import BatchEnv, make
from ..envs.contexts import parse_contexts
from .loops import offpolicy, onpolicy
from .loops.build import tell_if_endless
from .loops.searching import Searching, steps, streams_of
from .runs.config import RunOptions, check
from .runs.resources import use_threads
from .runs.result import Result
from .runs.run import Run

SWIM = "reverie/Swim-v0"
PREFIXED = True  # --es.lr, --agent.lr, --ppo.lr


@dataclass(frozen=True)
class Config:
    """A run on the N-link swimmer."""

    env: str = SWIM
    """the N-link swimmer"""
    links: int = 6
    """links of the body, one more than its joints"""
    controller: Literal["circuit", "cpg", "linear", "mlp", "mlp-clock"] = "circuit"
    """what is trained; TD3 and PPO take circuit and mlp"""
    search: Literal["es", "cma", "ars", "td3", "ppo"] = "es"
    """how"""
    steps: int = 160_000
    """environment transitions; an episode has 1,000"""
    seed: int = 0
    """seed of the start, the perturbations and the worlds"""
    episodes: int = 1
    """episodes of each candidate in a generation, the same starts for all"""
    episode_steps: int = 1000
    """environment steps of an episode of a search"""
    transfer: bool = False
    """at the end, score other bodies, fluids and gears too (searches only)"""
    circuit: CircuitConfig = field(default_factory=CircuitConfig)
    """the wiring"""
    es: SearchConfig = field(default_factory=SearchConfig)
    """settings of es, cma and ars"""
    hidden: tuple[int, ...] = (64, 64)
    """hidden layer widths of an mlp under a search"""
    num_envs: int = 1
    """worlds stepped together (TD3, PPO)"""
    utd: float = 1.0
    """updates per transition (TD3)"""
    batch_size: int = 256
    """transitions per update (TD3)"""
    buffer_size: int = 1_000_000
    """transitions kept (TD3)"""
    learning_starts: int = 2_000
    """transitions of random actions before the first update (TD3)"""
    compile: bool = False
    """torch.compile the losses (TD3)"""
    bfloat16: bool = False
    """matrix products in bfloat16 (TD3)"""
    agent: TD3Config = field(default_factory=TD3Config)
    """TD3"""
    ppo: PPOConfig = field(default_factory=lambda: PPOConfig(normalize=False))
    """PPO"""
    context: tuple[str, ...] = ()
    """contexts to train in, density=1000,3000: every combination, in turn by world"""
    env_options: Mapping[str, Any] = field(default_factory=dict)
    """options of the task, from Python or a config file"""
    run: OmitArgPrefixes[RunOptions] = field(
        default_factory=lambda: RunOptions(
            eval_every=16_000, eval_episodes=5, log_every=16_000, checkpoint_every=160_000
        )
    )
    """the run directory"""


_SMALL_STEPS = SearchConfig(sigma=0.05, lr=0.03)  # of three tried on a pilot seed
PRESETS = {
    "default": Config(),
    "quick": Config(steps=96_000),
    "script": Config(es=SearchConfig(sigma=0.02, lr=0.01, population=8), steps=16_000),
    "improved": Config(
        search="cma",
        steps=400_000,
        circuit=CircuitConfig(osc_start=0.5, learn_period=True),
    ),
    "cpg": Config(controller="cpg"),
    "linear": Config(controller="linear"),
    "mlp": Config(controller="mlp", es=_SMALL_STEPS),
    "mlp-clock": Config(controller="mlp-clock", es=_SMALL_STEPS),
    "td3": Config(
        search="td3",
        steps=100_000,
        run=RunOptions(eval_every=10_000, eval_episodes=5, log_every=5_000),
    ),
    "ppo": Config(
        search="ppo",
        steps=100_000,
        num_envs=8,
        run=RunOptions(eval_every=10_000, eval_episodes=5, log_every=5_000),
    ),
}
STEP = "environment steps"


def build_controller(c: Config, links: int | None = None) -> Controller:
    """Return the controller for a body of `links`, by default the one trained on."""
    links = links or c.links
    joints, limit = links - 1, joint_limit(links)
    if c.controller == "circuit":
        return Circuit(joints, limit, c.circuit)
    if c.controller == "cpg":
        return SineCPG(joints, c.circuit.period)
    hidden = () if c.controller == "linear" else c.hidden
    timed = c.controller == "mlp-clock"
    return Network(joints, limit, hidden, timed=timed, period=c.circuit.period)


def build_td3(c: Config, obs_dim: int, act_dim: int, **kwargs: Any) -> TD3:
    """Return TD3 with the circuit as its actor, or with its own network."""
    if c.controller != "circuit":
        return TD3(obs_dim, act_dim, c.agent, **kwargs)
    from ..agents.ncap.actors import CircuitActor

    circuit = Circuit(c.links - 1, joint_limit(c.links), c.circuit)
    actor = CircuitActor(circuit, generator(c.seed, "weights"))
    return TD3(obs_dim, act_dim, c.agent, actor=actor, **kwargs)


def ppo_policy(c: Config) -> tuple[Any, dict[str, Any]]:
    """Return the policy that SB3's PPO is built with, and its arguments."""
    if c.controller != "circuit":
        return "MlpPolicy", {}
    from ..agents.ncap.actors import CircuitPolicy

    circuit = Circuit(c.links - 1, joint_limit(c.links), c.circuit)
    return CircuitPolicy, {"circuit": circuit, "hidden": c.ppo.hidden}


def main(config: Config | None = None, *, resume: bool = False) -> Result:
    """Train as configured; `resume` continues the run directory bit for bit."""
    c = check(config or Config())
    own = {"links": c.links, "time_feature": True}
    c = dataclasses.replace(c, env_options={**c.env_options, **own})
    if c.search in ("td3", "ppo") and c.controller not in ("circuit", "mlp"):
        raise ValueError(f"{c.search} trains circuit and mlp, not {c.controller!r}")
    if c.search == "td3":

        def td3(obs_dim: int, act_dim: int, _: Any, **kwargs: Any) -> TD3:
            return build_td3(c, obs_dim, act_dim, **kwargs)

        return offpolicy.run_agent("ncap", td3, c, resume)
    if c.search == "ppo":
        policy, kwargs = ppo_policy(c)
        return onpolicy.run_ppo("ncap", c, c.ppo, resume, policy, **kwargs)
    if c.run.device != "cpu":
        raise ValueError(f"searches run on the CPU, got device={c.run.device!r}")
    contexts = parse_contexts(c.context)
    if contexts is not None and len(contexts) > 1:
        raise ValueError("a search trains in one context; TD3 and PPO take several")
    worlds = {**c.env_options, "threads": use_threads(c.run.threads), "context": contexts}
    judge = make(c.env, c.run.eval_episodes, **worlds)
    tell_if_endless(c.env, judge, lambda: make(c.env, 1, **c.env_options))
    worlds["max_episode_steps"] = c.episode_steps
    streams = streams_of(1, c.es.population, c.episodes)
    env = make(c.env, len(streams), streams=streams, **worlds)
    label = f"ncap-{c.controller}-{c.search}-s{c.seed}"
    controller = build_controller(c)
    start = controller.initial(generator(c.seed, "weights"))
    search = SEARCHES[c.search](start, c.es, stream_seed(c.seed, "search"))
    s = Searching(controller, [search], env, c.seed)
    with Run("ncap", c, label=label, steps=c.steps, seed=c.seed, resume=resume) as run:
        judged = train(run, c, s, judge)
    return Result(run.path, run.step, judged)


def train(run: Run, c: Config, s: Searching, judge: BatchEnv) -> Evaluation:
    """Search until `c.steps` transitions; return the last evaluation of the search's best.

    Raises as `searching.steps`.
    """

    def stop() -> bool:
        return run.stopping

    def played() -> Evaluation:
        policy = ControllerPolicy(s.controller, s.best[0])
        return evaluate(policy, judge, seed=EVAL_SEED, stop=stop)

    def judging() -> Evaluation:
        judged = played()
        if not (c.transfer and run.step >= c.steps):
            return judged
        swim = functools.partial(make, SWIM, time_feature=True, threads=c.run.threads)
        scores = off_nominal(lambda n: build_controller(c, n), s.best[0], c.links, swim, stop)
        return judged._replace(extra=scores)

    def untrained() -> None:
        """Log what the prior knows before any search."""
        if run.home.found is None and run.options.eval_every:
            with run.interruptible():
                start = played()
            run.log(start.row(), kind="eval")

    judged: Evaluation | None = None
    for _ in steps(run, s, c, untrained):
        judged = run.after_step(judging, s.row, s.state_dict)
    return run.final(judged, judging)


def load(config: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[Any, int]:
    """Return the policy of a run's checkpoint, and the width of its observations."""
    from .runs.config import from_dict

    c = from_dict(Config, config)
    within(c, links=(2, 1000))
    obs_dim = 4 * (c.links - 1) + 4
    if c.search == "td3" and c.controller != "circuit":
        policy, obs_dim = deterministic_policy(state["actor"], c.agent.explore_noise)
        return go_on(policy, state.get("acting")), obs_dim
    if c.search == "td3":
        actor = build_td3(c, obs_dim, c.links - 1).actor
        actor.load_state_dict(state["actor"])
        policy = ActorPolicy(copy.deepcopy(actor), c.agent.explore_noise)
        return go_on(policy, state.get("acting")), obs_dim
    if c.search == "ppo":
        from ..agents.sb3 import load_mlp_ppo, load_ppo

        if c.controller != "circuit":
            return load_mlp_ppo(state)
        return load_ppo(state, obs_dim, c.links - 1, *ppo_policy(c), c.ppo.hidden), obs_dim
    best = torch.as_tensor(state["best"]).reshape(-1).clone()
    return ControllerPolicy(build_controller(c), best), obs_dim
