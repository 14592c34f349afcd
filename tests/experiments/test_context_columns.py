"""Rows that tell their context, from the worlds through replay, resume, datasets and mixtures."""

import dataclasses
import shutil

import pytest
import torch
from known import Counter, Known, a_run, options
from made import same_end
from tiny import config

from reverie.agents import RandomPolicy
from reverie.buffers import Card, Dataset, Layout, ReplayBuffer, Transitions, load_dataset, mix
from reverie.envs import make
from reverie.experiments import bc, cli, sac, td3
from reverie.experiments.loops import offpolicy
from reverie.experiments.loops.build import context_values, layout_of
from reverie.experiments.loops.collecting import CollectOptions, collect_dataset, play
from reverie.experiments.loops.offline_session import judged_as
from reverie.experiments.loops.sources import compose, parse_data
from reverie.experiments.runs import checkpoint

GRAVITY = ("gravity=4.5,9.5",)


def of_contexts(table):
    """Worlds of 2, 3 and 4 steps; world i plays row i mod K."""
    env = Known([[2], [3], [4]])
    env.context_id = torch.arange(3) % len(table)
    env.context = torch.tensor(table)[env.context_id]
    return env


def trained(env, out, context=True):
    buffer = ReplayBuffer(layout_of(env, context), 300, env.num_envs)
    s = offpolicy.Session(Counter(), env, Known([[2]]), buffer, buffer, 0)
    with a_run(options(out, steps=12)) as run:
        offpolicy.train(run, s, options(out, steps=12))
    return buffer.layout.unpack(buffer.export_rows(0, 4)["rows"])  # [4 steps, 3 worlds]


def test_world_i_stores_row_i_mod_k_at_every_step(tmp_path):
    """Also where an episode ended: world 0's second one begins at step 2."""
    stored = trained(of_contexts([[5.0, 0.25], [7.0, 0.5]]), tmp_path / "two")
    assert stored.extra["context_id"].tolist() == [[0, 1, 0]] * 4
    assert stored.extra["context"].tolist() == [[[5, 0.25], [7, 0.5], [5, 0.25]]] * 4
    assert stored.obs[..., 0].tolist() == [[0, 1, 2]] * 4  # each in its own world's column
    one = trained(of_contexts([[5.0], [7.0]]), tmp_path / "one")
    assert one.extra["context"].tolist() == [[5, 7, 5]] * 4
    without = trained(of_contexts([[5.0], [7.0]]), tmp_path / "without", context=False)
    assert without.extra == {}
    single = Known([[2]])
    single.context_id, single.context = torch.tensor([0]), torch.tensor([[3.0]])
    assert context_values(single, layout_of(single, True)) == {"context_id": 0, "context": 3}


@pytest.mark.parametrize("module", [sac, pytest.param(td3, marks=pytest.mark.slow)])
def test_a_run_stores_its_contexts_resumes_with_them_and_learns_the_same(module, tmp_path):
    """Dataset rows of the run: gravity 4.5 is row 0, 9.5 row 1, worlds 0 and 2 play the first."""
    name = module.__name__.rpartition(".")[2]
    c = config(
        name, tmp_path, "whole", env="reverie/Hopper-v5", context=GRAVITY, context_columns=True,
        buffer_size=660, steps=240,
    )  # fmt: skip
    whole = module.main(c).path
    parts = dataclasses.replace(c, run=dataclasses.replace(c.run, name="parts"))
    cut = module.main(dataclasses.replace(parts, steps=150)).path
    shutil.rmtree(checkpoint.list_checkpoints(cut / "checkpoints")[-1])  # judged at its end
    module.main(parts, resume=True)
    assert same_end(whole, cut)

    argv = ["collect", "--replay", str(cut), "--out", str(tmp_path / "data")]
    assert cli.main(argv) == 0
    data = load_dataset(tmp_path / "data")
    assert data.layout == Layout(11, 3, {"context_id": 1, "context": 1})
    assert data.card.context == {"gravity": [4.5, 9.5]}
    extra = data.all.extra
    assert extra["context_id"].tolist() == [0] * 80 + [1] * 80 + [0] * 80  # world after world
    assert torch.equal(extra["context"], torch.tensor([4.5, 9.5])[extra["context_id"].long()])

    run = dataclasses.replace(c.run, name="bare")
    bare = dataclasses.replace(c, context_columns=False, run=run)
    plain = module.main(bare).path
    assert (whole / "metrics.jsonl").read_bytes() == (plain / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match="context_columns"):
        module.main(dataclasses.replace(bare, steps=300, context_columns=True), resume=True)


def test_policies_collect_in_several_contexts_if_rows_tell_them(tmp_path):
    options = CollectOptions(
        env="reverie/Hopper-v5", context=("gravity=4.5,9.5", "mass=1,2"), context_columns=True,
        transitions=40, num_envs=4, out=tmp_path / "d",
    )  # fmt: skip
    collect_dataset(options).save(tmp_path / "d")
    data = load_dataset(tmp_path / "d")
    assert data.card.context == {"gravity": [4.5, 9.5], "mass": [1, 2]}
    assert data.all.extra["context_id"].tolist() == [0] * 10 + [1] * 10 + [2] * 10 + [3] * 10
    rows = [[4.5, 1], [4.5, 2], [9.5, 1], [9.5, 2]]
    assert data.all.extra["context"].tolist() == [row for row in rows for _ in range(10)]
    worlds = judged_as(bc.Config(), data.card).context
    assert worlds == ("gravity=4.5,9.5", "mass=1.0,2.0")  # judged in all four
    one = dataclasses.replace(options, context=("gravity=4.5",), num_envs=2)
    assert collect_dataset(one).card.context == {"gravity": 4.5}


def some(n, extra=None, obs=2):
    x = torch.zeros(n, obs)
    ends = torch.ones(n)
    batch = Transitions(x, x[:, :1], torch.arange(float(n)), x, ends, ends * 0, extra or {})
    return Dataset.of(batch, Card(env="e"))


def test_a_mixture_keeps_the_columns_that_all_parts_have():
    """An id goes with its row: both are the row's number."""
    ids = torch.arange(8.0)
    told = some(8, {"context_id": ids, "context": torch.stack([ids, -ids], 1)})
    other = some(8, {"context": torch.stack([ids, -ids], 1)})
    batch = mix([(told, 0.5), (told, 0.5)]).sample(6)
    assert torch.equal(batch.extra["context_id"], batch.reward)
    assert torch.equal(batch.extra["context"][:, 1], -batch.reward)
    assert mix([(told, 0.5), (other, 0.5)]).sample(6).extra.keys() == {"context"}
    assert mix([(told, 0.5), (some(8), 0.5)]).sample(6).extra == {}
    one = some(8, {"context": ids})
    parts = parse_data(["dataset:a:0.5", "dataset:b:0.5"])
    with pytest.raises(ValueError, match=r"column 'context' has widths \[1, 2\]"):
        compose(parts, [told, one], None)
    assert compose(parts, [told, some(8)], None).sample(4).extra == {}


def test_what_cannot_tell_its_context_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="no context to tell"):
        sac.main(config("sac", tmp_path, "a", context_columns=True))
    with pytest.raises(ValueError, match="no context to tell"):
        play(make("Reacher-v5", 2), RandomPolicy(2), 10, Card(env="e"), context=True)
    assert not (tmp_path / "a").exists()
    c = config("sac", tmp_path, "run", env="reverie/Hopper-v5", context=GRAVITY, steps=60)
    run = str(sac.main(c).path)
    for argv, text in (
        (["--replay", run], "of one context"),
        (["--replay", run, "--context-columns"], "if the run was given --context-columns"),
        (["--replay", run, "--context", "gravity=4.5"], "of its own contexts"),
    ):
        assert cli.main(["collect", *argv, "--out", str(tmp_path / "d")]) == 2
        assert text in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "d.safetensors").exists()


@pytest.mark.parametrize("bad", [{"gravity": []}, {"gravity": [1.0, float("nan")]}, {"g": ["1"]}])
def test_a_card_of_several_contexts_has_finite_numbers(bad):
    with pytest.raises(ValueError, match="context must be finite numbers by name"):
        Card(env="e", context=bad)


def test_a_learner_that_reads_a_column_asks_for_it_in_all_its_data(tmp_path, monkeypatch):
    monkeypatch.setattr(sac.SAC, "columns", ("context",))
    collect_dataset(o := CollectOptions(
        env="reverie/Hopper-v5", transitions=60, num_envs=2, out=tmp_path / "d"
    )).save(o.out)  # fmt: skip
    c = config(
        "sac", tmp_path, "a", env="reverie/Hopper-v5", context=GRAVITY, steps=120,
        data=("replay:0.5", f"dataset:{o.out}:0.5"), context_columns=True,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"SAC needs .*'context'"):
        sac.main(c)
    assert sac.main(dataclasses.replace(c, data=("replay",))).steps == 120
