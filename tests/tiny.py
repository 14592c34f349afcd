"""A short run of every method script: a new script is covered by all suites by its entry here."""

import dataclasses
import functools
import tempfile
from pathlib import Path

import pytest
import torch

from reverie.agents import SACConfig, TD3Config
from reverie.agents.dreams.config import DreamConfig, ModelConfig
from reverie.agents.dynamics import DynamicsConfig
from reverie.agents.ncap import CircuitConfig
from reverie.agents.oer.learner import OERConfig
from reverie.agents.offline.iql import IQLConfig
from reverie.agents.sb3 import PPOConfig
from reverie.agents.search import SearchConfig
from reverie.agents.synther.config import DiffusionConfig
from reverie.envs import make
from reverie.envs.contexts import parse_contexts
from reverie.envs.families import members
from reverie.experiments import (
    bc,
    curriculum,
    dreamland,
    iql,
    mbtl,
    ncap,
    oer,
    ppo,
    rebrac,
    sac,
    synther,
    td3,
    td3bc,
)
from reverie.experiments.loops.collecting import CollectOptions, collect_dataset
from reverie.experiments.runs import checkpoint
from reverie.experiments.runs.config import RunOptions


def run_options(out, name):
    return RunOptions(
        out=str(out), name=name, threads=1, log_every=60, eval_every=150, eval_episodes=2,
        checkpoint_every=60, tensorboard=False, progress=False,
    )  # fmt: skip


def off_policy(module, out, name):
    """Warm-up, many saves, evaluations, three worlds and a ring that wraps twice."""
    agent = type(module.Config().agent)(hidden=(24, 24))
    return module.Config(
        env="reverie/Reacher-v5", steps=660, num_envs=3, learning_starts=90, batch_size=16,
        utd=0.25, buffer_size=240, agent=agent, run=run_options(out, name),
    )  # fmt: skip


DIFFUSION = DiffusionConfig(
    width=16, depth=1, noise_width=8, updates=70, batch_size=32, judge_every=20, levels=4
)


def synther_online(module, out, name, **changes):
    """Fits and fills between steps, saved inside both: every 60 of their steps too."""
    agent = SACConfig(hidden=(24, 24))
    return dataclasses.replace(
        off_policy(module, out, name), refit_every=300, synthetic=130, agent=agent,
        diffusion=DIFFUSION, **changes,
    )  # fmt: skip


def on_policy(module, out, name):
    """Rollouts of 30 transitions, so that saves come at the same steps."""
    agent = PPOConfig(n_steps=10, batch_size=15, n_epochs=2, hidden=(24, 24))
    return module.Config(
        env="reverie/Reacher-v5", steps=660, num_envs=3, agent=agent, run=run_options(out, name)
    )


SWIM = {"links": 6, "time_feature": True, "max_episode_steps": 50}


def ncap_search(module, out, name, search="cma", controller="circuit"):
    """Episodes of 5 steps, so that saves come at the same steps: a generation is 30 of them."""
    return module.Config(
        search=search, controller=controller, steps=660, es=SearchConfig(population=6),
        circuit=CircuitConfig(sharing="none", learn_period=True),
        env_options=SWIM, episode_steps=5,
        run=run_options(out, name),
    )  # fmt: skip


def ncap_td3(module, out, name):
    return dataclasses.replace(
        off_policy(module, out, name), env="reverie/Swim-v0", search="td3", links=6,
        env_options=SWIM,
    )  # fmt: skip


def ncap_ppo(module, out, name):
    agent = PPOConfig(n_steps=10, batch_size=15, n_epochs=2, hidden=(24, 24), normalize=False)
    return module.Config(
        search="ppo", steps=660, num_envs=3, ppo=agent, run=run_options(out, name),
        env_options=SWIM,
    )  # fmt: skip


@functools.cache
def offline_data():
    """A dataset of uniform actions in Reacher; made once for each process."""
    path = Path(tempfile.mkdtemp(prefix="reverie-tiny-")) / "random"
    options = CollectOptions(env="reverie/Reacher-v5", transitions=600, num_envs=3, out=path)
    collect_dataset(options).save(path)
    return path


def offline(module, out, name, preset="default"):
    default = module.PRESETS[preset]
    return dataclasses.replace(
        default, data=(f"dataset:{offline_data()}",), env="reverie/Reacher-v5", steps=660,
        batch_size=16, agent=dataclasses.replace(default.agent, hidden=(24, 24)),
        env_options={"max_episode_steps": 50}, run=run_options(out, name),
    )  # fmt: skip


def synther_offline(module, out, name):
    """A fit of 70 updates and a fill of 130 rows before the first step, to a half of the data."""
    return module.Config(
        data=(f"dataset:{offline_data()}",), env="reverie/Reacher-v5", learner="iql", fraction=0.5,
        steps=660, batch_size=16,
        synthetic=130, diffusion=DIFFUSION, iql=IQLConfig(hidden=(24, 24)),
        env_options={"max_episode_steps": 50}, run=run_options(out, name),
    )  # fmt: skip


def rlpd(module, out, name):
    data = ("replay:0.5", f"dataset:{offline_data()}:0.5")
    return dataclasses.replace(off_policy(module, out, name), data=data)


@functools.cache
def oer_data():
    return tempfile.mkdtemp(prefix="reverie-oer-")


def continual(module, out, name, **changes):
    """Two tasks of 330 steps, cloned, remembered by the model; saves in the middle of both."""
    agent = OERConfig(td3=TD3Config(hidden=(24, 24), bc_alpha=2.5), replay_batch=16)
    return module.Config(
        env="reverie/CheetahVel-v0", tasks=2, task_steps=330, steps=660, batch_size=16,
        policy=("random",), transitions=300, budget=40, fidelity=("random",),
        data_folder=oer_data(), agent=agent, run=run_options(out, name), **changes,
        dynamics=DynamicsConfig(members=2, hidden=(16,), steps=30, batch_size=32),
        env_options={"max_episode_steps": 50},
    )  # fmt: skip


def dreaming(module, out, name, **changes):
    """Two rounds of 130 real steps and a fit of 70 updates; generations of 30 dream steps."""
    model = ModelConfig(
        kind=changes.pop("kind", "mlp"), hidden=(16,), updates=70, batch_size=16, window=6,
        burn_in=2, judge_every=20, members=2,
    )  # fmt: skip
    dream = DreamConfig(horizon=5, features=model.recurrent)
    return dataclasses.replace(
        module.Config(), env="reverie/Reacher-v5", steps=660, collect=130, round_every=390,
        real_size=300, select_every=90, select_episodes=2, episodes=1, hidden=(4,), num_envs=3,
        es=SearchConfig(population=6), learning_starts=90, batch_size=16, buffer_size=240,
        model=model, dream=dream, sac=SACConfig(hidden=(24, 24)),
        ppo=PPOConfig(n_steps=10, batch_size=15, n_epochs=2, hidden=(24, 24)),
        run=run_options(out, name), **changes,
    )  # fmt: skip


def selecting(module, out, name):
    """Two sources of 330 steps, looked at six times each; saves in the middle of both."""
    return module.Config(
        env="reverie/Reacher-v5", context=("gear=1,1.5",), steps=660, source_steps=330,
        num_envs=3, utd=0.25, learning_starts=90, batch_size=16, select_every=60,
        choose_episodes=1, score_episodes=2, sac=SACConfig(hidden=(24, 24)), figures=False,
        run=run_options(out, name),
    )  # fmt: skip


def over_contexts(module, out, name):
    """PLR over two contexts; three worlds, an episode of each every 150 steps."""
    options = dataclasses.replace(run_options(out, name), eval_episodes=1)
    return dataclasses.replace(
        off_policy(module, out, name), context=("gear=1,1.5",), rule="plr", run=options
    )


GENERATOR = dataclasses.replace(DIFFUSION, terminal="none")
METHODS = {
    "sac": (sac, off_policy),
    "td3": (td3, off_policy),
    "sac-rlpd": (sac, rlpd),
    "synther": (synther, synther_online),
    "synther-matched": (synther, functools.partial(synther_online, rows="matched")),
    "synther-iql": (synther, synther_offline),
    "bc": (bc, offline),
    "td3bc": (td3bc, offline),
    "iql": (iql, offline),
    "rebrac": (rebrac, offline),
    "oer": (oer, continual),
    "oer-synther": (oer, functools.partial(continual, memory="synther", generator=GENERATOR)),
    "ppo": (ppo, on_policy),
    "ncap": (ncap, ncap_search),
    "ncap-es": (ncap, functools.partial(ncap_search, search="es", controller="mlp-clock")),
    "ncap-ars": (ncap, functools.partial(ncap_search, search="ars", controller="linear")),
    "ncap-td3": (ncap, ncap_td3),
    "ncap-ppo": (ncap, ncap_ppo),
    "dreamland": (dreamland, dreaming),
    "dreamland-gru": (dreamland, functools.partial(dreaming, kind="gru", learner="es")),
    "dreamland-sac": (dreamland, functools.partial(dreaming, learner="sac", real_share=0.25)),
    "mbtl": (mbtl, selecting),
    "curriculum": (curriculum, over_contexts),
    "dreamland-ppo": (dreamland, functools.partial(dreaming, learner="ppo")),
}


LOOPS = (
    "sac",
    "td3bc",
    "oer",
    "ppo",
    "ncap",
    "dreamland",
)  # one method for each loop that saves and resumes; that of sources has tests in test_matrix.py
# Where a test is about the loop, the other methods of a loop are left to `make test-all`.
BY_LOOP = [pytest.param(m, marks=[] if m in LOOPS else [pytest.mark.slow]) for m in METHODS]


# Tests that look at a finished run of each method: one worker makes a run for all of them.
EACH = [pytest.param(m, marks=pytest.mark.xdist_group(m)) for m in METHODS]


def module_of(method):
    return METHODS[method][0]


def config(method, out, name, **changes):
    module, build = METHODS[method]
    return dataclasses.replace(build(module, out, name), **changes)


@functools.cache
def finished(method):
    """Return the configuration of a run to its end, and its result: to look at, not to change."""
    options = config(method, tempfile.mkdtemp(prefix="reverie-finished-"), "whole")
    options = dataclasses.replace(options, run=dataclasses.replace(options.run, tensorboard=True))
    return options, module_of(method).main(options)


def judging_worlds(options, result):
    """Return worlds as a run was last judged in, and the returns of those."""
    more, last = {}, result.evaluation.returns[-2:]
    if isinstance(options, oer.Config):  # the last of its tasks
        more["context"] = {"velocity": members(options.env).table[options.tasks - 1, 0]}
    if isinstance(options, mbtl.Config):  # of each context the first episode, by who serves it
        more["context"] = parse_contexts(options.context)
        point = checkpoint.list_checkpoints(result.path / "checkpoints")[-1]
        rows = torch.stack(list(checkpoint.read(point)["agent"]["rows"]))  # [K, E, N]
        serves = rows.mean(1).argmax(0)
        last = rows[serves, 0, torch.arange(len(serves))][:, None].numpy()
    if isinstance(options, curriculum.Config):
        more["context"] = parse_contexts(options.context)
        more["context_in_obs"] = options.context_in_obs
    return make(options.env, 2, **options.env_options, **more), last
