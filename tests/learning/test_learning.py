"""Agents learn: seeds are 0..n-1, settings are those of the presets."""

import dataclasses
import math

import pytest
from scipy import stats

from reverie.agents import SACConfig
from reverie.experiments import dreamland, load_run, population, sac
from reverie.experiments.runs.config import RunOptions


def train(config, out, seed, script=sac):
    run = dataclasses.replace(
        config.run, out=str(out), threads=1, progress=False, tensorboard=False
    )
    return script.main(dataclasses.replace(config, seed=seed, run=run))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_sac_learns_the_double_pendulum_in_5000_steps(seed, tmp_path):
    result = train(sac.PRESETS["quick"], tmp_path, seed)
    start = load_run(result.path).frame()["return"][0]
    assert start < 150
    assert result.eval_return >= 300


@pytest.mark.slow
def test_sac_runs_the_half_cheetah_in_50000_steps(tmp_path):
    config = sac.PRESETS["halfcheetah-50k"]
    returns = [train(config, tmp_path, seed).eval_return for seed in range(5)]
    assert sum(r > 2000 for r in returns) >= 3, returns


# Steps and bar of each.
SWING_UP = {"PendulumSwingUp-v0": (10_000, 120), "CartPoleSwingUp-v0": (20_000, 170)}


@pytest.mark.slow
@pytest.mark.parametrize("task", SWING_UP)
@pytest.mark.parametrize("seed", range(3))
def test_sac_learns_both_swing_ups(task, seed, tmp_path):
    """Measured with seeds 0, 1, 2, networks 64 wide, batch 128: the last evaluation, ten episodes.

    Pendulum, 10,000 steps: 143, 139, 144 of 200, up since 7,000 or 8,000; the bar: 120. Cart-pole,
    20,000 steps: 203, 213, 210 of 250, up since 11,000, 17,000 and 10,000; the bar: 170. Before
    learning they return at most 8; a cart-pole that only swings through returns about 60.
    """
    steps, bar = SWING_UP[task]
    config = sac.Config(
        env=f"reverie/{task}", steps=steps, learning_starts=1_000, batch_size=128,
        agent=SACConfig(hidden=(64, 64), lr=1e-3), run=RunOptions(eval_every=1_000),
    )  # fmt: skip
    result = train(config, tmp_path, seed)
    assert load_run(result.path).frame()["return"][0] < 20
    assert result.eval_return >= bar


@pytest.mark.slow
def test_a_populations_returns_are_not_told_from_those_of_runs_alone(tmp_path):
    """20 seeds each way, others each: two-sample tests of the last evaluation do not reject."""
    single = sac.Config(
        env="reverie/InvertedDoublePendulum-v5",
        steps=3_000,
        learning_starts=500,
        batch_size=64,
        buffer_size=3_000,
        agent=SACConfig(hidden=(64, 64), lr=1e-3),
        run=RunOptions(
            out=str(tmp_path), name="x", eval_every=0, tensorboard=False, progress=False, threads=1
        ),
    )
    judged = population.main(population.of_seeds("sac", single, range(20))).evaluation
    together = judged.returns.reshape(20, -1).mean(1)
    alone = []
    for seed in range(20, 40):
        run = dataclasses.replace(single.run, name=f"alone-{seed}")
        alone.append(sac.main(dataclasses.replace(single, seed=seed, run=run)).eval_return)
    assert max(together) > 200 and max(alone) > 200  # random: about 60
    assert stats.ks_2samp(together, alone).pvalue > 0.01, (together, alone)
    assert stats.mannwhitneyu(together, alone).pvalue > 0.01, (together, alone)


@pytest.mark.slow
def test_a_controller_trained_in_dreams_beats_the_actions_that_they_are_made_of(tmp_path):
    """A pilot, seed 100: held uniform actions return 16.2 of 150, the deployed controller 50.7.

    The bar: three standard errors of the difference.
    """
    result = train(dreamland.PRESETS["quick"], tmp_path, 0, dreamland)
    run = load_run(result.path)
    random, real = run.frame("collect"), run.frame("eval")
    error = math.hypot(random["std"][0] / random["episodes"][0] ** 0.5, real["std"][0] / 20**0.5)
    assert real["return"][0] > random["return"][0] + 3 * error
    assert math.isfinite(real["gap"][0])
