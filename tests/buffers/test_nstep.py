"""Returns over n steps, written out."""

from dataclasses import replace

import pytest
import torch

from reverie.agents import SAC
from reverie.agents.losses import td_target
from reverie.buffers import Card, Dataset, Layout, ReplayBuffer, Source
from reverie.buffers.nstep import NStep
from reverie.experiments import sac, td3
from reverie.experiments.loops import population, session
from reverie.experiments.runs.config import RunOptions, check

GAMMA = 0.5
ONE = RunOptions(threads=1)


def filled(ends, on_host=True):
    """One world's rows 0, 1, ...: o = k, r = k + 1, tag 10 + k; `ends`: terminated, truncated."""
    buffer = ReplayBuffer(Layout(1, 1, {"tag": 1}), 8)
    buffer._on_host = on_host
    for k, (terminated, truncated) in enumerate(ends):
        row = torch.tensor([[k, 0, k + 1, k + 1, terminated, truncated, 10 + k]]).float()
        buffer.add(buffer.layout.unpack(row))
    return buffer


@pytest.mark.parametrize("on_host", [True, False])
def test_three_steps_by_hand(on_host):
    """Rows 0 to 3 end terminated, 4 and 5 are cut, 6 goes on: nothing crosses an end.

    Target with V' = 16 behind every row: r + gamma r' + gamma^2 r'' + gamma^3 V'.
    """
    ends = [(0, 0), (0, 0), (0, 0), (1, 0), (0, 0), (0, 1), (0, 0)]
    source = NStep(filled(ends, on_host), 3, GAMMA)
    batch = source.sample(300)
    assert isinstance(source, Source)
    target = td_target(batch.reward, torch.tensor(16.0), batch.terminated, GAMMA)
    rows = zip(batch.obs[:, 0], batch.reward, batch.next_obs[:, 0], target, batch.truncated,
               batch.extra["tag"], strict=True)  # fmt: skip
    assert {tuple(float(x) for x in row) for row in rows} == {
        (0, 1 + 1 + 0.75, 3, 2.75 + 2, 0, 10),
        (1, 2 + 1.5 + 1, 4, 4.5, 0, 11),
        (2, 3 + 2, 4, 5, 0, 12),
        (3, 4, 4, 4, 0, 13),
        (4, 5 + 3, 6, 8 + 4, 1, 14),
        (5, 6, 6, 6 + 8, 1, 15),
        (6, 7, 7, 7 + 8, 0, 16),
    }


def test_one_step_is_the_buffers_own_row():
    a, b = filled([(0, 0), (1, 0), (0, 1)]), filled([(0, 0), (1, 0), (0, 1)])
    for x, y in zip(NStep(a, 1, GAMMA).sample(20)[:6], b.sample(20)[:6], strict=True):
        assert torch.equal(x, y)
    with pytest.raises(ValueError, match="n_step must be at least 1, got 0"):
        NStep(a, 0, GAMMA)


def test_where_a_device_has_no_valid_row_the_reward_is_nan():
    buffer = filled([], on_host=False)
    row = buffer.layout.unpack(torch.zeros(1, 7))
    buffer.add(row, torch.tensor([False]))
    assert NStep(buffer, 3, GAMMA).sample(4).reward.isnan().all()


def test_a_run_learns_from_n_steps_where_it_is_told_to(tmp_path):
    env = "reverie/InvertedPendulum-v5"
    config = replace(sac.PRESETS["default"], env=env, n_step=3, buffer_size=100, run=ONE)
    s = session.build(SAC, config)
    assert isinstance(s.source, NStep) and (s.source.n, s.source.gamma) == (3, 0.99)
    assert s.source.buffer is s.buffer and s.stores == {"replay": s.buffer}
    assert session.build(SAC, replace(config, n_step=1)).source is not s.source


def test_n_steps_of_anything_but_the_replay_are_refused(tmp_path):
    data = filled([(0, 0), (0, 1)])
    rows = data.layout.unpack(data.rows())
    env = "reverie/InvertedPendulum-v5"
    c = replace(sac.PRESETS["default"], env=env, n_step=3, buffer_size=100, run=ONE)
    wide = rows._replace(obs=torch.zeros(2, 4), next_obs=torch.zeros(2, 4))
    Dataset.of(wide, Card(env=env)).save(tmp_path / "d")
    mixed = replace(c, data=("replay:0.5", f"dataset:{tmp_path / 'd'}:0.5"))
    with pytest.raises(ValueError, match="n_step=3: only --data replay"):
        session.build(SAC, mixed)
    with pytest.raises(ValueError, match="n_step=3: members of a population"):
        population.build(SAC, [c, replace(c, seed=1)])


@pytest.mark.parametrize("script", [sac, td3])
def test_the_preset_of_many_worlds(script):
    c = check(script.PRESETS["many-worlds"])
    assert c.utd * c.num_envs == 2 and c.num_envs == 1024 and c.batch_size == 2048
    assert c.buffer_size % c.num_envs == 0 and c.n_step == 3 and c.compile == "graphs"
    assert c.run.device == c.env_options["device"] == "cuda"
