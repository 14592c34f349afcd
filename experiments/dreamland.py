"""Train controllers in dreams of a world model, and play them in reality: Dropout's Dream Land.

Collect real steps, fit a model to them, train in dreams under its dropout masks, deploy; again
after `round_every` dream steps. Which controller is deployed is chosen in held-out dreams.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes

from ..agents import Policy, SACConfig, TD3Config
from ..agents.dreams.config import DreamConfig, ModelConfig
from ..agents.dreams.fan import errors
from ..agents.ncap import CircuitConfig
from ..agents.playing import EVAL_SEED, Evaluation, evaluate
from ..agents.sb3 import PPOConfig
from ..agents.search import SearchConfig
from .loops import offpolicy, onpolicy, searching
from .loops.deploying import RULES, SWIM
from .loops.dreaming import judged_store
from .loops.land import Land, build, dreamt, load_land, real_policy
from .loops.options import WorldOptions
from .runs.config import RunOptions, check, from_dict
from .runs.result import Result
from .runs.run import Run

HELD, FRESH = 555_666_777, 777_666_555  # seeds of the dreams that choose, and of those that judge
PREFIXED = True  # --model.hidden, --dream.p, --es.population


@dataclass(frozen=True)
class Config(WorldOptions):
    """A run of dream worlds."""

    env: str = "reverie/CartPoleSwingUp-v0"
    """the real environment: a task of ours, or any gymnasium id"""
    steps: int = 2_880_000
    """dream steps, of each controller"""
    num_envs: int = 64
    """dreams stepped together (sac, td3, ppo)"""
    learner: Literal["cma", "es", "ars", "sac", "td3", "ppo"] = "cma"
    """what trains in the dream"""
    controller: Literal["mlp", "linear", "circuit"] = "mlp"
    """what the searches train: tanh networks, or NCAP's circuit for the N-link swimmer, whose
    observations get a clock then"""
    hidden: tuple[int, ...] = (12,)
    """hidden layer widths of an mlp under a search"""
    controllers: int = 1
    """controllers trained in the same model (searches); rows hold means over them"""
    select: Literal["dream", "last"] = "dream"
    """which is deployed: the one that did best in held-out dreams, or the last; both are judged"""
    select_every: int = 180_000
    """dream steps between two looks at held-out dreams"""
    select_episodes: int = 100
    """held-out dreams of a look, the same each time"""
    collect: int = 6_000
    """real steps before a fit: of uniform actions, then of the controllers"""
    collect_hold: int = 10
    """a uniform action is held for 1 to so many steps (10 in the authors' Doom data)"""
    collect_noise: float = 0.1
    """standard deviation of the noise on their actions"""
    round_every: int = 0
    """dream steps between two rounds of collecting and fitting; 0: the first is the only one"""
    real_size: int = 200_000
    """real transitions kept"""
    starts: Literal["initial", "anywhere"] = "initial"
    """where dreams begin: at the starts of real episodes, or at any real step"""
    episodes: int = 10
    """dreams of each candidate in a generation, the same for all (searches)"""
    model: ModelConfig = field(default_factory=ModelConfig)
    """the world model and its fit"""
    dream: DreamConfig = field(default_factory=DreamConfig)
    """the dreams in it"""
    es: SearchConfig = field(default_factory=lambda: SearchConfig(population=24, sigma=0.5))
    """settings of the searches"""
    circuit: CircuitConfig = field(default_factory=CircuitConfig)
    """the circuit's wiring"""
    utd: float = 0.25
    """gradient updates per dream step (sac, td3)"""
    batch_size: int = 256
    """transitions per update (sac, td3)"""
    buffer_size: int = 1_000_000
    """dreamt transitions kept (sac, td3)"""
    learning_starts: int = 5_000
    """dream steps of random actions before the first update (sac, td3)"""
    real_share: float = 0.0
    """share of real transitions in a batch (sac, td3; MBPO: 0.05)"""
    sac: SACConfig = field(default_factory=SACConfig)
    """SAC"""
    td3: TD3Config = field(default_factory=TD3Config)
    """TD3"""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """PPO"""
    run: OmitArgPrefixes[RunOptions] = field(
        default_factory=lambda: RunOptions(
            eval_every=0, eval_episodes=20, log_every=180_000, checkpoint_every=720_000
        )
    )
    """the run directory"""


_DDL = Config(env_options={"max_episode_steps": 150})
_PLAIN = replace(_DDL, model=ModelConfig(p_train=0.0), dream=DreamConfig(scope="none"))


def _dreams(scope: Any, **more: Any) -> Config:
    return replace(_DDL, dream=DreamConfig(scope=scope, **more))


PRESETS = {
    "default": Config(),
    "ddl": _DDL,  # masks held for an episode, .05 in the fit and .1 in the dream
    "step": _dreams("step"),
    "none": _PLAIN,
    "inference-only": replace(_PLAIN, dream=DreamConfig(scope="step")),
    "train-only": _dreams("none"),
    "gstep": _dreams("gstep"),
    "gep": _dreams("gep"),
    "mc-mean": _dreams("mc-mean"),
    "masksembles": replace(
        _DDL, model=ModelConfig(fixed=16), dream=DreamConfig(scope="fixed-n")
    ),
    "ensemble": replace(_DDL, model=ModelConfig(kind="ensemble")),
    "layer-norm": replace(_DDL, model=ModelConfig(layer_norm=True)),
    "faithful": replace(  # World Models' controller on [s ; h] of a masked LSTM
        _DDL,
        controller="linear",
        steps=24_000_000,
        select_every=1_200_000,
        episodes=16,
        es=SearchConfig(population=64, sigma=0.1),
        model=ModelConfig(kind="lstm", hidden=(256,), batch_size=64),
        dream=DreamConfig(features=True),
    ),
    "mbpo": replace(
        _DDL, learner="sac", starts="anywhere", real_share=0.05, steps=200_000, utd=0.25,
        select_every=20_000, round_every=50_000, collect=2_000,
        model=ModelConfig(kind="ensemble"), dream=DreamConfig(scope="step", horizon=5),
        run=RunOptions(eval_every=50_000, log_every=10_000, checkpoint_every=50_000),
    ),
    "circuit": replace(  # the swimmer's own prior, in dreams of it
        _DDL,
        env=SWIM,
        env_options={"max_episode_steps": 100},
        controller="circuit",
        steps=1_200_000,
        select_every=120_000,
        collect=15_000,
        es=SearchConfig(population=24, sigma=0.2),
    ),
    "quick": replace(
        _DDL, steps=1_440_000, select_every=144_000, dream=DreamConfig(scope="step"),
        model=ModelConfig(updates=4_000),
    ),
}  # fmt: skip
STEP = "dream steps (of each controller)"


def main(config: Config | None = None, *, resume: bool = False) -> Result:
    """Train as configured; `resume` continues the run directory bit for bit."""
    c = check(config or Config())
    if c.controller == "circuit" and c.env == SWIM:
        c = replace(c, env_options={**c.env_options, "time_feature": True})
    p = build(c)
    label = f"dreamland-{c.env.split('/')[-1]}-s{c.seed}"
    with Run("dreamland", c, label=label, steps=c.steps, seed=c.seed, resume=resume) as run:
        judged = train(run, c, p)
    return Result(run.path, run.step, judged)


def train(run: Run, c: Config, p: Land) -> Evaluation:
    """Collect, fit and dream until `c.steps`; return the last real evaluation.

    Raises Interrupted after saving, Diverged after a dump for what is not finite.
    """
    s: Any = p.session
    loop: Any = {"ppo": onpolicy, "sac": offpolicy, "td3": offpolicy}.get(c.learner, searching)

    def judging() -> Evaluation:
        return judge(run, c, p)

    def row() -> dict[str, Any]:
        return {**(offpolicy.row_of(s) if loop is offpolicy else s.row()), **p.real.counted}

    judged: Evaluation | None = None
    for _ in loop.steps(run, s, c, lambda: renew(run, c, p)):
        renew(run, c, p)
        if run.crossed(c.select_every):
            look(run, c, p)
        judged = run.after_step(judging, row, s.state_dict, s.stores)
    return run.final(judged, judging)


def renew(run: Run, c: Config, p: Land) -> None:
    """Collect, fit the model and begin dreams in it, if a round is due: at first, and in the step
    after the one that completes `round_every`.
    """
    if p.world.rounds > (run.previous // c.round_every if c.round_every else 0):
        return
    s, store, fitted = p.session, p.real.store, p.world.fit
    with run.phase("collect", c.collect) as fill:
        policy = real_policy(c, p, c.select) if p.world.rounds else None
        if fill.step == 0:
            p.real.begin(policy)
        while fill.step < fill.steps:
            fill.tick(p.real.step(policy))
            if fill.step >= fill.steps:
                fill.log(p.real.row())
            run.keep(s.state_dict, s.stores)
    with run.phase("world model fit", c.model.updates) as fit:
        if fit.step == 0:
            fitted.begin(store)
        while fit.step < fit.steps and not fitted.done:
            metrics = fitted.fit_step(store)
            fit.advance(metrics, s.state_dict, s.stores, write="held_out_loss" in metrics)
    p.world.open(store, c.starts, c.model.burn_in)
    p.dream.reopen()
    p.chosen.clear()
    s.restart()
    scales = p.world.model.scales
    run.log(errors(p.world.model, judged_store(store, c.model.held_out), scales.obs_std, c.dream.p),
            kind="world model")  # fmt: skip


def look(run: Run, c: Config, p: Land) -> None:
    """See how the controllers of now do in held-out dreams, and keep each that did better."""
    s = p.session
    with run.phase("held-out dreams", 1) as phase:
        if phase.step:  # before the run was stopped
            return
        with run.interruptible(s.state_dict, s.stores):
            scores = dreamt(c, p, "last", HELD, lambda: run.stopping)
        p.chosen.look(scores.tolist())
        best = sum(p.chosen.scores) / len(p.chosen.scores)
        phase.tick(1)
        phase.log({"return": scores.mean(), "best_return": best})


def judge(run: Run, c: Config, p: Land) -> Evaluation:
    """Play the controllers of both rules in reality, and those deployed in fresh dreams too."""

    def stop() -> bool:
        return run.stopping

    both = {}
    for rule in RULES:
        both[rule] = evaluate(real_policy(c, p, rule), p.judge, seed=EVAL_SEED, stop=stop)
    dream = float(dreamt(c, p, c.select, FRESH, stop).mean())
    p.real.steps += sum(int(judged.lengths.sum()) for judged in both.values())
    mine = both[c.select]
    apart = mine.returns.reshape(c.controllers, -1).mean(1)
    extra = {
        "selected_return": both["dream"].mean,
        "last_return": both["last"].mean,
        "dream_return": dream,
        "gap": dream - mine.mean,
        "controller_std": float(apart.std()),
        **p.real.counted,
    }
    return mine._replace(extra=extra)


def load(config: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[Policy, int]:
    """Return the policy of a run's checkpoint, and the width of its observations."""
    return load_land(from_dict(Config, config), state)
