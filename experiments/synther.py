"""Learn from the rows of a diffusion model of transitions: SynthER, online and offline.

Online SAC learns from the replay and rows of a model of it, refitted as it grows. Offline
(`--data dataset:PATH --learner td3bc | iql`) a learner has the model's rows in place of the data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from tyro.conf import OmitArgPrefixes

from ..agents import SAC, TD3, Policy, SACConfig, TD3Config
from ..agents.offline.iql import IQL, IQLConfig
from ..agents.playing import Evaluation
from ..agents.seeding import stream_seed
from ..agents.synther.codec import rules_of
from ..agents.synther.config import FAITHFUL, DiffusionConfig
from ..agents.synther.diffusion import Diffusion
from ..agents.synther.noise import SAMPLE, Noise
from ..agents.synther.source import Rehearsed
from ..buffers import Layout, ReplayBuffer, Transitions
from ..envs import BatchEnv
from . import sac
from .loops import offline, offline_session, offpolicy
from .loops.offline_session import session
from .loops.options import UpdateOptions
from .loops.session import Session, build
from .runs.config import RunOptions, check, from_dict
from .runs.directory import Stores
from .runs.resources import require_memory
from .runs.result import Result
from .runs.run import Run

State = Callable[[], dict[str, Any]]  # what returns all that a checkpoint holds
CHUNK = 10_000  # rows generated between two looks at whether the run is to stop


@dataclass(frozen=True)
class Config(UpdateOptions):
    """A run of SynthER."""

    utd: float = 20.0
    """gradient updates per environment transition, whatever num_envs is"""
    refit_every: int = 10_000
    """transitions between two fits of the generator"""
    synthetic: int = 200_000
    """synthetic rows made after each fit, in place of those before"""
    share: float = 0.5
    """share of synthetic rows in a batch, once there are any"""
    rows: Literal["diffusion", "noise", "matched", "none"] = "diffusion"
    """what they are: the diffusion model's; controls: real rows with noise of `noise` standard
    deviations (0: repeated), or with as much as lies as far from real ones as the model's; none"""
    noise: float = 0.1
    """noise of the control, in standard deviations of each column"""
    learner: Literal["sac", "td3bc", "iql"] = "sac"
    """sac learns online; td3bc and iql from `data`, judged in its environment if none is named"""
    fraction: float = 1.0
    """share of the data's rows, drawn at random, that is known at all (offline)"""
    standardise: bool = True
    """observations as z-scores of the data (offline)"""
    agent: SACConfig = field(default_factory=lambda: SACConfig(policy_delay=20, actor_value="mean"))
    """SAC"""
    td3bc: TD3Config = field(default_factory=lambda: TD3Config(bc_alpha=2.5))
    """TD3+BC"""
    iql: IQLConfig = field(default_factory=IQLConfig)
    """IQL"""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    """the generator"""
    run: OmitArgPrefixes[RunOptions] = field(default_factory=RunOptions)
    """the run directory"""


PREFIXED = True  # --agent.lr, --diffusion.lr
_SMALL = SACConfig(
    policy_delay=20, actor_value="mean", critic_norm="layer", hidden=(128, 128), alpha=0.1
)
PRESETS = {
    "default": Config(),
    "faithful": Config(synthetic=1_000_000, diffusion=FAITHFUL),
    "fast": Config(diffusion=DiffusionConfig(updates=20_000)),
    "cpu": Config(
        steps=10_000,
        batch_size=128,
        learning_starts=1_000,
        refit_every=1_000,
        synthetic=50_000,
        compile=True,  # 180,000 updates of layer-normalised critics pay for it
        agent=_SMALL,
        diffusion=DiffusionConfig(width=128, updates=2_000),
        run=RunOptions(eval_every=1_000, checkpoint_every=5_000),
    ),
    "quick": Config(
        env="reverie/InvertedDoublePendulum-v5",
        steps=3_000,
        utd=4,
        batch_size=128,
        learning_starts=500,
        refit_every=1_000,
        synthetic=10_000,
        agent=replace(_SMALL, policy_delay=4),
        diffusion=DiffusionConfig(width=128, updates=1_000),
        run=RunOptions(eval_every=1_000, log_every=500),
    ),
}
STEP = "steps (of the environment; offline: gradient steps)"


def main(config: Config | None = None, *, resume: bool = False) -> Result:
    """Train SynthER as configured; `resume` continues the run directory bit for bit."""
    c = check(config or Config())
    if c.learner != "sac":
        return learn_offline(c, resume)
    if c.rows in ("diffusion", "matched") and c.refit_every < c.diffusion.batch_size:
        raise ValueError(
            f"refit_every={c.refit_every} is less than a batch of the fit, diffusion.batch_size="
            f"{c.diffusion.batch_size}: the first fit would have too few rows"
        )
    s, g = learning(c)
    label = f"synther-{c.env.split('/')[-1]}-s{c.seed}"
    with Run("synther", c, label=label, steps=c.steps, seed=c.seed, resume=resume) as run:
        judged = train(run, c, s, g)
    return Result(run.path, run.step, judged)


class Generators(NamedTuple):
    """What makes synthetic rows, and where they lie."""

    diffusion: Diffusion
    noise: Noise
    store: ReplayBuffer

    @property
    def parts(self) -> dict[str, Any]:
        """Those with a state beside the rows."""
        return {"diffusion": self.diffusion, "noise": self.noise}


def generators(c: Config, layout: Layout, env: BatchEnv | None) -> Generators:
    """Return the generators of rows like those of `layout`, and their store.

    `env`: worlds whose rules the rows are of; None where there are none.
    """
    device, seed = c.run.device, stream_seed(c.seed, "synthetic")
    diffusion = Diffusion(layout, c.diffusion, rules=rules_of(env), device=device, seed=seed)
    rows = diffusion.codec.out  # without the extra columns of real ones
    require_memory(c.synthetic, ReplayBuffer.row_bytes(rows), "synthetic", device)
    store = ReplayBuffer(rows, c.synthetic, device=device, seed=seed)
    return Generators(diffusion, Noise(layout, c.noise, seed=seed), store)


def learning(c: Config) -> tuple[Session, Generators]:
    """Return what a run of SAC changes, with synthetic rows beside the real ones."""
    s = build(SAC, c)
    g = generators(c, s.buffer.layout, s.env)
    s.draw_from(Rehearsed(s.source, g.store, c.share), synthetic=g.store)
    s.more |= g.parts
    return s, g


def train(run: Run, c: Config, s: Session, g: Generators) -> Evaluation:
    """Train until `steps` transitions; return the last evaluation. Errors as `offpolicy.steps`."""
    judge, row = offpolicy.looks(run, s)
    judged: Evaluation | None = None
    for _ in offpolicy.steps(run, s, c):
        if c.rows != "none" and run.crossed(c.refit_every):  # also at the end: it can go on
            refit(run, c, g, s.buffer.rows(), s.state_dict, s.stores)
        judged = run.after_step(judge, row, s.state_dict, s.stores)
    return run.final(judged, judge)


def learn_offline(c: Config, resume: bool) -> Result:
    """Fit the generator to data, and let an offline learner have its rows in their place."""
    if c.rows == "none":
        raise ValueError(f"rows='none' leaves {c.learner} nothing: that is reverie {c.learner}")
    build, settings = {"td3bc": (TD3, c.td3bc), "iql": (IQL, c.iql)}[c.learner]
    named: Any = None if c.env == Config.env else c.env  # a card must not name a module for it
    s = session("synther", build, replace(c, env=named), settings)
    real = torch.cat([d.rows for d in s.datasets])
    own = None if s.card is None else s.judge  # worlds of other settings have other rules
    g = generators(c, s.datasets[0].layout, own)
    g.store.layout.require(s.learner.columns, f"{c.learner}, from generated rows,")
    stores = {"synthetic": g.store}
    with offline.opened("synther", s, resume) as run:

        def first(state: State) -> None:
            refit(run, c, g, real, state, stores)

        judged = offline.train(run, s, g.store, stores=stores, more=g.parts, first=first)
    return Result(run.path, run.step, judged)


def refit(run: Run, c: Config, g: Generators, real: Tensor, state: State, stores: Stores) -> None:
    """Fit the generator to real rows, and fill the store with its rows in place of the old."""
    model = g.diffusion
    if c.rows in ("diffusion", "matched"):
        with run.phase("diffusion fit", c.diffusion.updates) as fit:
            if fit.step == 0:
                model.begin(real)
            while fit.step < fit.steps and not model.done:
                metrics = model.fit_step(real)
                fit.advance(metrics, state, stores, write="held_out_loss" in metrics)
    with run.phase("synthetic rows", c.synthetic) as fill:  # as many as the store holds
        while fill.step < fill.steps:
            before = state()
            try:
                with run.interruptible(before.copy, stores):
                    rows = generated(c, g, real, fill.step, lambda: run.stopping)
            except FloatingPointError as error:
                run.dump(before, str(error))
            g.store.add(rows)
            fill.tick(len(rows.reward))
            run.keep(state, stores)


def generated(
    c: Config, g: Generators, real: Tensor, at: int, stop: Callable[[], bool]
) -> Transitions:
    """Return the next synthetic transitions after `at`, of the model or of the control."""
    n = min(CHUNK, c.synthetic - at)
    if c.rows == "diffusion":
        return g.store.layout.unpack(g.diffusion.generate(n, stop=stop))
    if c.rows == "matched" and at == 0:
        g.noise.match(real, g.diffusion.generate(SAMPLE, stop=stop))
    return g.noise.layout.unpack(g.noise.generate(real, n))


def load(config: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[Policy, int]:
    """Return the policy of a run's checkpoint, and the width of its observations."""
    if config["learner"] != "sac":
        kind = {"td3bc": TD3Config, "iql": IQLConfig}[config["learner"]]
        return offline_session.load(from_dict(kind, config[config["learner"]]), state)
    return sac.load(config, state)
