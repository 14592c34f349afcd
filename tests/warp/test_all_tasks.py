"""Every task and every context feature on both engines; distributions; a short training on each."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from on_warp import DEVICE, actions, faults, on_warp, settings, step
from scipy.stats import ks_2samp

from reverie.envs import Contexts, make
from reverie.envs.check import check_env
from reverie.envs.contexts import FEATURES, default
from reverie.envs.tasks import TASKS
from reverie.experiments import sac
from reverie.experiments.runs.result import load_run

pytest.importorskip("mujoco_warp", reason="needs the extra: pip install 'reverie[gpu]'")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("warp")]
# A capsule that stands on the ground has its friction pyramid turned in Warp (test_agreement.py).
STANDS = {"Ant-v5", "AntDir-v0"}


@pytest.mark.parametrize("task", TASKS)
def test_the_contract_suite_passes(task):
    rows = check_env(task, steps=40, backend="warp", device=DEVICE, warp=settings())
    assert not faults(rows), rows


@pytest.mark.parametrize("task", TASKS)
def test_both_engines_take_the_same_steps(task):
    """From a native run's states, one step each: observations, rewards, ends."""
    native, warp = make(task, 16, seed=1), on_warp(task, 16, seed=1)
    assert torch.allclose(warp.reset().cpu(), native.reset(), rtol=1e-5, atol=1e-5)
    far = []
    for a in actions(native, 40):
        warp.load_state_dict(native.state_dict())
        theirs, mine = native.step(a), step(warp, a)
        scale = 1 + theirs.final_obs.abs()
        error = ((mine.final_obs - theirs.final_obs).abs() / scale).amax(1)
        far.append(
            torch.maximum(error, (mine.reward - theirs.reward).abs() / (1 + theirs.reward.abs()))
        )
        agree = (mine.terminated == theirs.terminated) & (mine.truncated == theirs.truncated)
        assert bool((agree | (error > 1e-5)).all())
    far = torch.stack(far)
    assert far.median() < 1e-4
    assert (far > 1e-2).float().mean() < (0.5 if task in STANDS else 0.01), far.max()


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("task", TASKS)
def test_every_feature_acts_on_both_engines(task, feature):
    """The default leaves the trajectory bit for bit; another value moves it as natively."""
    model = make(task, 1).model
    usual = default(model, feature)
    context = Contexts((feature,), [[usual], [usual * 1.5 if usual else 0.01]])
    try:
        native = make(task, 2, seed=3, context=context)
    except ValueError as error:
        assert "would change nothing" in str(error)
        return
    warp, plain = on_warp(task, 2, seed=3, context=context), on_warp(task, 1, seed=3)
    moved, moved_natively, acts = False, False, actions(plain, 30)
    for t, a in enumerate(acts):
        both = a.expand(2, -1).contiguous()
        mine, theirs, alone = step(warp, both), native.step(both.cpu()), step(plain, a)
        # Fluid forces, once one world has them, are computed for all: equal to rounding then.
        same = {"rtol": 1e-3, "atol": 1e-3} if feature in ("density", "viscosity") else {}
        if t < 10:
            assert torch.allclose(
                mine.final_obs[:1], alone.final_obs, **(same or {"rtol": 0, "atol": 0})
            )
        moved |= not torch.allclose(mine.final_obs[0], mine.final_obs[1], rtol=1e-6, atol=1e-6)
        moved_natively |= not torch.allclose(
            theirs.final_obs[0], theirs.final_obs[1], rtol=1e-6, atol=1e-6
        )
        if t < 2 and task not in STANDS:
            assert torch.allclose(mine.final_obs, theirs.final_obs, rtol=1e-2, atol=1e-2), t
    assert moved == moved_natively


EPISODES, HORIZON, WORLDS = 1000, 100, 200


def returns_and_lengths(task, make=make, **kwargs):
    """Return what a fixed policy gets: a tanh of fixed random weights, in 1,000 episodes."""
    env = make(task, WORLDS, max_episode_steps=HORIZON, **kwargs)
    g = torch.Generator().manual_seed(5)
    weights = torch.randn(env.obs_dim, env.act_dim, generator=g) / env.obs_dim**0.5
    obs = env.reset().cpu()
    total, length = torch.zeros(WORLDS, dtype=torch.float64), torch.zeros(WORLDS)
    done = [[] for _ in range(WORLDS)]
    while min(map(len, done)) < EPISODES // WORLDS:  # the same number in every world
        r = step(env, torch.tanh(obs.clamp(-10, 10) @ weights))
        total, length = total + r.reward, length + 1
        for i in (r.terminated | r.truncated).nonzero().flatten().tolist():
            done[i].append((float(total[i]), float(length[i])))
            total[i] = length[i] = 0
        obs = r.obs
    out = np.array([d[: EPISODES // WORLDS] for d in done]).reshape(-1, 2)
    return out[:, 0], out[:, 1]


@pytest.mark.parametrize("task", TASKS)
def test_returns_and_lengths_come_from_one_distribution(task):
    """Agreement test 15, a Kolmogorov-Smirnov test each, at 0.05 over all twelve tasks."""
    native = returns_and_lengths(task, seed=0)
    warp = returns_and_lengths(task, on_warp, seed=100_000)
    level = 0.05 / (2 * len(TASKS))
    for what, a, b in zip(("returns", "lengths"), native, warp, strict=True):
        p = ks_2samp(a, b).pvalue
        assert p > level, f"{what}: p = {p:.1e}, means {a.mean():.4g} and {b.mean():.4g}"


def test_the_test_of_distributions_can_fail():
    """It tells gravity 10 % lower apart, on the same engine."""
    native = returns_and_lengths("Hopper-v5", seed=0)
    light = returns_and_lengths("Hopper-v5", seed=100_000, context={"gravity": 8.83})
    assert min(ks_2samp(a, b).pvalue for a, b in zip(native, light, strict=True)) < 1e-4


def test_sac_learns_alike_on_both_engines(tmp_path):
    """Three short runs on each, the balance of a double pendulum: overlapping ranges."""
    config = sac.PRESETS["quick"]
    last = {}
    for backend in ("native", "warp"):
        for seed in range(3):
            options = {} if backend == "native" else {"backend": "warp", "device": DEVICE}
            run = replace(
                config.run, out=str(tmp_path), name=f"{backend}-{seed}", tensorboard=False,
                threads=1, progress=False,
            )  # fmt: skip
            result = sac.main(replace(config, seed=seed, env_options=options, run=run))
            last.setdefault(backend, []).append(result.evaluation.mean)
    stamp = load_run(tmp_path / "warp-0").stamp
    assert "warp" in str(stamp)
    assert min(last["native"]) > 200 and min(last["warp"]) > 200, last
    assert max(map(min, last.values())) < min(map(max, last.values())), last
