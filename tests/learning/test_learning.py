"""Agents learn: seeds are 0..n-1, settings are those of the presets."""

import dataclasses

import pytest

from reverie.experiments import load_run, sac


def train(config, out, seed):
    run = dataclasses.replace(
        config.run, out=str(out), threads=1, progress=False, tensorboard=False
    )
    return sac.main(dataclasses.replace(config, seed=seed, run=run))


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
