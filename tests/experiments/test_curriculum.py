"""One learner over all contexts: which it plays next, and what looking at them costs."""

import dataclasses

import numpy as np
import pytest
import torch

from reverie.agents import SACConfig
from reverie.agents.mbtl import Matrix, MatrixCard
from reverie.agents.mbtl.curricula import Learnable
from reverie.agents.mbtl.library import Row
from reverie.agents.playing import Evaluation
from reverie.experiments import curriculum, load_run
from reverie.experiments.loops import offpolicy
from reverie.experiments.runs.config import RunOptions

CART = "reverie/CartPoleSwingUp-v0"
GEARS = ("gear=log:0.5:2:3",)


def run_options(out, name):
    return RunOptions(
        out=str(out), name=name, threads=1, log_every=60, eval_every=0, checkpoint_every=120,
        eval_episodes=2, tensorboard=False, progress=False,
    )  # fmt: skip


@pytest.mark.parametrize(("counted", "steps", "rows"), [
    (True, 900, [60, 250, 300, 500, 540, 600, 660, 720, 780, 840, 900]),
    (False, 240, [60, 120, 180, 240]),
])  # fmt: skip
def test_sfl_looks_where_half_succeeds_and_its_steps_count(
    counted, steps, rows, tmp_path, monkeypatch
):
    """Own returns are 10, 10 and 50; a look has five episodes of 20 steps of each: 300 at most.

    It takes 150 here. After 100 steps of training, and after 200, which with the first look are
    350. After 300, 600 in all, 900 might not hold a third.
    """
    returns = torch.tensor([[0.0, 8, 9], [9, 8, 9], [9, 9, 9], [9, 9, 9], [0, 8, 9]]).double()
    card = MatrixCard(CART, ("log gear",), 60, (0,), 0.0, 20.0)
    at = torch.log(torch.tensor([[0.5], [1.0], [2.0]])).double()
    Matrix(torch.diag(torch.tensor([10.0, 10.0, 50.0])).double()[..., None], at, card).save(
        tmp_path / "own"
    )
    looked, choose = [], Learnable.look

    def played(policy, env, n, *, seed, stop, value):
        looked.append(seed)
        return Row(value(returns), 150)

    def look(self, rates):
        assert rates.tolist() == pytest.approx([0.6, 1.0, 0.0])  # at least 8, 8 and 40
        choose(self, rates)
        assert self.chosen.tolist() == [0]

    def six(*_, **__):  # two episodes of three contexts, side by side
        return Evaluation(np.arange(1.0, 7.0)[:, None], np.full((6, 1), 20))

    monkeypatch.setattr(curriculum, "play_row", played)
    monkeypatch.setattr(Learnable, "look", look)
    monkeypatch.setattr(offpolicy, "evaluate", six)
    c = curriculum.Config(
        env=CART, context=GEARS, rule="sfl", matrix=str(tmp_path / "own"), num_envs=2, steps=steps,
        count_looks=counted, look_every=100, learning_starts=30, batch_size=8, utd=0.1,
        agent=SACConfig(hidden=(8,)), env_options={"max_episode_steps": 20},
        run=run_options(tmp_path, "sfl"),
    )  # fmt: skip
    result = curriculum.main(c)
    assert looked == [curriculum.LOOK_SEED + 1000 * k for k in (0, 1)]
    assert result.steps == steps
    assert result.evaluation.extra == {"worst_decile": 2.5}  # (1 + 4) / 2, of 2.5, 3.5 and 4.5
    told = load_run(result.path).frame("train")
    assert told["look_steps"].tolist()[-1] == 300 and list(told["step"]) == rows
    trained = steps - 300 if counted else steps
    assert told["episodes"][-1] == trained // 40 * 2
    with pytest.raises(ValueError, match="sfl: give --matrix"):
        curriculum.main(dataclasses.replace(c, matrix=None))
    with pytest.raises(ValueError, match=r"is of 3 contexts of .* not 2 of"):
        curriculum.main(dataclasses.replace(c, context=("gear=1,2",)))
