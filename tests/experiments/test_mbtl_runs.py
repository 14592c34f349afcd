"""Runs of a selector: what they log, where they go on, what they refuse."""

import dataclasses
import json
import shutil
import typing
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made import same_end
from tiny import finished

from reverie.agents.mbtl import RULES, Matrix, MatrixCard, replay, scores, selector_of
from reverie.agents.mbtl.synthetic import hill, line_contexts
from reverie.agents.playing import EVAL_SEED, Stopped, evaluate
from reverie.envs import make
from reverie.envs.contexts import parse_contexts
from reverie.experiments import load_policy, load_run, mbtl
from reverie.experiments.loops.selecting import Selection
from reverie.experiments.runs import checkpoint
from reverie.experiments.runs.checkpoint import list_checkpoints
from reverie.experiments.runs.config import RunOptions
from reverie.experiments.runs.run import Run
from reverie.experiments.runs.stopping import Interrupted


def config(out, name, **changes):
    run = RunOptions(
        out=str(out), name=name, threads=1, log_every=1, eval_every=4, checkpoint_every=1,
        tensorboard=False, progress=False,
    )  # fmt: skip
    return mbtl.Config(**{"steps": 7, "seed": 2, "figures": False, "run": run, **changes})


NONE = torch.zeros(0, 100, dtype=torch.float64)  # no rows of short trainings


def stored(path, seeds=2):
    values = torch.stack([hill(s, 9) for s in range(seeds)], -1)
    card = MatrixCard("hill", ("place",), 100, tuple(range(seeds)), low=-1, high=1)
    Matrix(values, line_contexts(9), card).save(path)
    return values


def test_a_run_logs_what_each_pick_gave(tmp_path):
    u, x = hill(2), line_contexts()
    order = replay(selector_of("improved", x, k=7, seed=2), u, 7)
    result = mbtl.main(config(tmp_path, "a"))
    rows = load_run(result.path).frame("train")
    assert rows["context"].tolist() == order and list(rows["step"]) == list(range(1, 8))
    assert rows["performance"] == pytest.approx(scores.curve(u[order]).tolist())
    assert rows["own_return"] == pytest.approx([float(u[i, i]) for i in order])
    judged = load_run(result.path).frame()
    assert list(judged["step"]) == [4, 7]
    assert judged["return"] == pytest.approx([scores.performance(u[order[:k]]) for k in (4, 7)])
    assert judged["worst_decile"][-1] == pytest.approx(scores.worst_decile(u[order]))
    assert result.eval_return == judged["return"][-1]
    assert np.array_equal(result.evaluation.returns[:, 0], u[order].amax(0).numpy())


@pytest.mark.parametrize("rule", ["improved", "gp", "random", "pairs"])
def test_a_run_goes_on_bit_for_bit(rule, tmp_path):
    """Cut in the middle of a batch and between two evaluations, as by a kill."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    mbtl.main(config(tmp_path, "whole", selector=rule, batch=3))
    mbtl.main(config(tmp_path, "cut", selector=rule, batch=3, steps=5))
    shutil.rmtree(list_checkpoints(cut / "checkpoints")[-1])  # it was judged there
    mbtl.main(config(tmp_path, "cut", selector=rule, batch=3), resume=True)
    assert same_end(whole, cut)


def test_a_source_that_was_stopped_in_its_training_is_trained_again(tmp_path):
    c = config(tmp_path, "a", batch=2, steps=5)
    u, x = hill(2), line_contexts()
    trained = []

    def once(context, seed):
        if len(trained) == 3:
            raise Stopped("in the middle of a training")
        trained.append((context, seed))
        return u[context]

    def opened(resume):
        return Run("mbtl", c, label="a", steps=5, seed=2, resume=resume)

    with opened(False) as run, pytest.raises(Interrupted):
        mbtl.train(run, c, selector_of("improved", x, k=5), once, NONE, 0.0)
    s = selector_of("improved", x, k=5)
    with opened(True) as run:
        trained.insert(0, None)  # so that none is stopped
        judged = mbtl.train(run, c, s, once, NONE, 0.0)
    order = replay(selector_of("improved", x, k=5), u, 5, batch=2)
    assert s.picks == order and trained[1:] == [(i, 2) for i in order]
    assert judged.mean == pytest.approx(scores.performance(u[order]))
    assert load_run(tmp_path / "a").frame("train")["step"].tolist() == [1, 2, 3, 4, 5]


def test_sources_are_chosen_by_first_guesses_which_serve_too(tmp_path):
    """Of 2, 0 and 3, tried for .4 of a training, 3 promises .16 and 0 adds most to it then.

    Whole, 3 earns 1 on the last and 0 nothing: the short rows serve .2, .2, .1 and .4.
    """
    short, values = torch.zeros(5, 5).double(), torch.zeros(5, 5).double()
    short[2], short[0, :2], short[3, 3:] = 0.1, 0.2, 0.4
    values[3, 4] = 1.0
    card = MatrixCard("T", ("place",), 100, (0,), short=40)
    m = Matrix(values[..., None], line_contexts(5), card, short=short[..., None])
    m.save(tmp_path / "m")
    given = {"matrix": str(tmp_path / "m"), "guesses": 3, "steps": 2, "seed": 0}
    result = mbtl.main(config(tmp_path, "a", **given))
    rows = load_run(result.path).frame("train")
    assert list(rows["context"]) == [3, 0] and list(rows["own_return"]) == [0, 0]
    assert rows["performance"].tolist() == [pytest.approx(0.38)] * 2
    assert rows["trainings"].tolist() == pytest.approx([0.6 + 1.2, 1.2 + 1.2])
    assert result.eval_return == pytest.approx(0.38)
    for wrong, told in (
        ({"matrix": "hill"}, "hill has no rows of short trainings"),
        ({"guesses": 1}, "guesses=1 are fewer than steps=2"),
        ({"env": "reverie/CartPoleSwingUp-v0"}, "of no --env"),
    ):
        with pytest.raises(ValueError, match=told):
            mbtl.main(config(tmp_path, "b", **{**given, **wrong}))
    assert not (tmp_path / "b").exists()


def test_a_stored_matrix_is_replayed_by_seed(tmp_path):
    values = stored(tmp_path / "m")
    path = str(tmp_path / "m.json")
    result = mbtl.main(config(tmp_path, "a", matrix=path, selector="random", steps=9, seed=1))
    unit = (values[..., 1] + 1) / 2
    assert result.eval_return == pytest.approx(scores.oracle(unit))
    with pytest.raises(ValueError, match="has seeds 0 to 1, not 2"):
        mbtl.main(config(tmp_path, "b", matrix=path, seed=2))
    with pytest.raises(ValueError, match="steps=10 sources of 9 contexts"):
        mbtl.main(config(tmp_path, "b", matrix=path, seed=0, steps=10))
    with pytest.raises(FileNotFoundError, match=r"hills\.safetensors is missing"):
        mbtl.main(config(tmp_path, "b", matrix="hills"))
    with pytest.raises(ValueError, match="leave out max_episode_steps"):
        mbtl.main(config(tmp_path, "b", env_options={"max_episode_steps": 9}))
    assert not (tmp_path / "b").exists()


def test_a_family_is_in_units_and_flat_is_flat(tmp_path):
    world = mbtl.world(config(tmp_path, "a", matrix="const,linear,L1", seed=3))
    assert float(world.values.min()) == 0 and float(world.values.max()) == 1
    assert world.contexts.shape == (512, 3)
    quiet = mbtl.world(config(tmp_path, "a", matrix="flat")).values
    assert quiet.diagonal().tolist() == pytest.approx([0.9] * 100)


def test_figures_are_drawn_of_a_replay(tmp_path):
    c = config(tmp_path, "a", figures=True, steps=5)
    folder = mbtl.main(c).path / "figures"
    names = ["matrix.png", "performance.png", "selection.json", "rounds.png"]
    assert {p.name for p in folder.iterdir()} == set(names)
    told, values = json.loads((folder / "selection.json").read_text()), mbtl.world(c).values
    assert len(set(told["picks"])) == 5 and told["values"] == values.tolist()
    rows = [r["context"] for r in load_run(folder.parent).rows if "context" in r]
    assert told["picks"] == rows
    c = config(tmp_path, "b", figures=True, steps=3, selector="spread")
    folder = mbtl.main(c).path / "figures"
    assert {p.name for p in folder.iterdir()} == set(names[:3])  # no process, nothing expected


def test_a_replay_has_no_policy_and_every_rule_has_its_option(tmp_path):
    path = mbtl.main(config(tmp_path, "a", selector="spread", steps=2)).path
    with pytest.raises(ValueError, match="trained no policy"):
        load_policy(path)
    field = typing.get_type_hints(mbtl.Config)["selector"]
    assert set(typing.get_args(field)) == set(RULES)
    assert json.loads((path / "config.json").read_text())
    assert dataclasses.replace(mbtl.Config(), selector="pairs").selector in RULES


def test_a_trained_selection_by_hand(tmp_path):
    """Two picks of 330 steps: rows are those of the library, in units for the selector alone."""
    options, result = finished("mbtl")
    rows = load_run(result.path).frame("train")
    policy = load_policy(result.path).policy
    c = dataclasses.replace(options, steps=330)
    first = selector_of("improved", torch.tensor([[1.0], [1.5]]).double(), k=2).ask()[0]
    assert rows["sources"].tolist() == [0] * 5 + [1] * 5 + [2]
    assert rows["context"][5] == first and rows["context"][-1] == 1 - first
    env = make(c.env, 4, context=parse_contexts(c.context))  # two episodes of two contexts
    each = [evaluate(p, env, seed=EVAL_SEED).returns.reshape(2, 2) for p in policy.policies]
    played = [episodes.mean(0) for episodes in each]
    assert rows["own_return"][[5, -1]].tolist() == [played[0][first], played[1][1 - first]]
    assert rows["performance"][-1] == pytest.approx(np.max(played, 0).mean())
    assert policy.serves == np.argmax(played, 0).tolist()
    each = np.array(each)  # [source, episode, context]: who is better in one earns it in the other
    earned = [[each[each[:, 1 - e, n].argmax(), e, n] for n in (0, 1)] for e in (0, 1)]
    assert result.evaluation.returns[:, 0].tolist() == pytest.approx(np.mean(earned, 0).tolist())
    assert result.evaluation.extra["worst_decile"] == result.evaluation.returns.min()
    state = checkpoint.read(list_checkpoints(result.path / "checkpoints")[-1])
    units = state["agent"]["selector"]["rows"].numpy()  # low 0, high 50: the time limit
    np.testing.assert_allclose(units, np.array(played) / 50)
    # Six looks of one episode each at 60, 120 ... 330 and a row of four, of 50 steps, for each.
    assert rows["evaluation_steps"][-1] == 2 * (6 + 4) * 50


def test_who_serves_is_not_chosen_by_the_episodes_that_score():
    """3 and 0 against 1 and 1: by the first the one serves and has 0, by the second 1: .5."""
    selector = SimpleNamespace(contexts=torch.zeros(1, 1))
    s = Selection(None, selector, SimpleNamespace(actors=lambda: []), (0.0, 1.0))
    s.rows = [torch.tensor([[3.0], [0.0]]), torch.tensor([[1.0], [1.0]])]
    judged = s.judge(lambda: False)
    assert judged.returns.tolist() == [[0.5]] and judged.extra == {"worst_decile": 0.5}


def test_what_a_trained_selection_refuses(tmp_path):
    train = {"env": "reverie/Reacher-v5", "context": ("gear=1,1.5",), "source_steps": 10}
    with pytest.raises(ValueError, match=r"steps=30 are 3 sources of 10 steps, 1 at once; there"):
        mbtl.main(config(tmp_path, "a", **train, **{"steps": 30}))
    with pytest.raises(ValueError, match="no contexts of reverie/Reacher-v5"):
        mbtl.main(config(tmp_path, "a", env="reverie/Reacher-v5"))
    with pytest.raises(ValueError, match="a replay has the contexts of its matrix"):
        mbtl.main(config(tmp_path, "a", context=("gear=1,2",)))
    with pytest.raises(ValueError, match=r"from low=0\.0 to high=-1"):
        mbtl.main(config(tmp_path, "a", **train, **{"steps": 10, "high": -1.0}))
    assert not list(tmp_path.iterdir())


def test_rows_that_are_as_good_and_few_contexts_leave_the_selector_a_process():
    """Two equal sources of ten contexts: the noise of a mean of ten returns is all there is."""
    x = torch.linspace(0, 1, 10, dtype=torch.float64)[:, None]
    rows = torch.rand(2, 10, generator=torch.Generator().manual_seed(0)).double()
    s = selector_of("improved", x, k=5)
    for i, row in zip((2, 7), rows - rows.mean(1, keepdim=True), strict=True):
        s.tell(i, row)
    look = s.rule.look(s.seen)
    assert bool(look.gain.isfinite().all()) and s.ask()[0] not in (2, 7)
