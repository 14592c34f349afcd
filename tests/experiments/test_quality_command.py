"""`reverie quality`: whose rows are measured, beside which real ones, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny import DIFFUSION, config, run_options

from reverie.agents import TD3Config
from reverie.agents.synther.codec import rules_of
from reverie.agents.synther.diffusion import Diffusion
from reverie.buffers import Dataset, load_dataset
from reverie.envs import make
from reverie.experiments import cli, synther
from reverie.experiments.looking import generated, quality_figure
from reverie.experiments.loops.collecting import CollectOptions, collect_dataset
from reverie.experiments.loops.stored import generator, synthetic
from reverie.experiments.studies import quality as q

HELD = dataclasses.replace(DIFFUSION, held_out=0.2)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Data of Hopper: `hops`, of which runs know a half, and `more`; a run of each kind of rows."""
    home = tmp_path_factory.mktemp("quality")
    for name, n, seed in (("hops", 400, 0), ("more", 90, 1)):
        options = CollectOptions(env="reverie/Hopper-v5", transitions=n, seed=seed, num_envs=3)
        collect_dataset(options).save(home / name)
    for rows in ("diffusion", "noise", "matched"):
        c = synther.Config(
            data=(f"dataset:{home / 'hops'}",), env="reverie/Hopper-v5", learner="td3bc", steps=2,
            fraction=0.5, batch_size=8, synthetic=60, rows=rows, diffusion=HELD, seed=3,
            td3bc=TD3Config(hidden=(8, 8), bc_alpha=2.5), run=run_options(str(home), rows),
        )  # fmt: skip
        synther.main(c)
    return home


@pytest.fixture
def told(home, capsys, tmp_path, monkeypatch):
    """Run the command in the folder of the data; return its measures and what it printed."""
    monkeypatch.chdir(home)

    def run(*args):
        path = tmp_path / "out.json"
        assert cli.main(["quality", *args, "--threads", "1", "--json", str(path)]) == 0
        return json.loads(path.read_text()), capsys.readouterr().out

    return run


def own(home):
    """What the fit of both runs was given: a half of `hops`, and which of it is held out."""
    rows = load_dataset(home / "hops").share(0.5, seed=3).rows
    held = Diffusion(load_dataset(home / "hops").layout, HELD).held(rows)
    return rows[~held], rows[held]


def test_stored_rows_are_measured_by_what_the_fit_held_out(home, told):
    out, text = told("diffusion")
    train, held = own(home)
    data = synthetic(str(home / "diffusion"))
    env = make("reverie/Hopper-v5", 64, dtype=torch.float64)
    rows = generated.some(data.rows, 10_000, 0)
    fresh = generated.some(held, 10_000, 0)
    wanted = q.quality(
        rows, train, fresh, data.layout, env=env, rule=rules_of(env).terminated, seed=0
    )
    same = {k: v for k, v in wanted.items() if k != "notes" and v == v}
    assert {k: out[k] for k in same} == pytest.approx(same, nan_ok=True)
    assert (out["rows"], out["rows_seen"], out["rows_real"]) == (60, len(train), len(held))
    assert 20 < len(held) < 60 and out["unseen_but_seen"] == 0
    sides = (q.features(x, data.layout) for x in (fresh, rows))
    assert out["marginals"] == q.histograms(*sides, data.layout)
    losses = generator(str(home / "diffusion")).loss_by_level(fresh)
    assert list(out["loss_by_level"].values()) == pytest.approx(list(losses.values()))
    assert f"{len(train)} that the fit saw; {len(held)} that it did not, held out by the" in text
    assert f"{len(held)} of each, blind below 5,000" in text and "THE FIT SAW" not in text
    assert "note: Hopper-v5 does not show x, velocities beyond +-10" in text
    assert out["stamp"]["cpu"] and out["options"]["rows"] == 10_000 and out["what"] == "diffusion"


def test_the_table_has_each_number_in_its_place(told):
    out, text = told("diffusion")
    lines = {line[:34].strip(): line[34:].split() for line in text.splitlines()}
    assert lines["marginal score (1: equal)"][:2] == [
        f"{out['marginal']:.4g}",
        f"{out['marginal_real']:.4g}",
    ]
    found = lines["dynamics error"]
    names = ("dynamics", "dynamics_real", "dynamics_noise")
    assert found[:3] == [f"{out[name]:.4g}" for name in names]
    assert found[3:6] == [str(out["dynamics_rows"]), "/", f"{out['dynamics_rows_real']};"]
    assert found[-1] == f"{out['noise_sd']:.3g}"
    assert lines["distance to the nearest seen row"][0] == f"{out['nearest']:.4g}"
    assert lines["terminal rate"][1] == f"{out['terminal_rate_real']:.4g}"
    assert [float(x) for x in text.split("noise level (1: nothing learned)\n")[1].split()[:7]] == [
        float(k) for k in out["loss_by_level"]
    ]


def test_rows_made_anew_are_the_generators_by_the_sampler_that_is_named(home, monkeypatch):
    monkeypatch.chdir(home)
    sampler = {"sampler": "heun", "levels": 3, "sigma_max": 5.0}
    made = generated.made_by("diffusion", 9, anew=True, sampler=sampler, seed=4)
    one = generator("diffusion", sampler=sampler)
    one.generator.manual_seed(4)
    assert torch.equal(made.rows, one.generate(9)) and one.config.levels == 3
    plain = generated.made_by("diffusion", 9, anew=True, seed=4)
    assert len(plain.rows) == 9 and not torch.equal(plain.rows, made.rows)
    assert plain.model.config == HELD
    few = generated.made_by("diffusion", 9)
    assert generated.common(few.rows, synthetic("diffusion").rows) == 9


def test_rows_of_the_control_saw_every_real_row(home, told):
    """Noise is put on all rows, those too that a fit would have held out."""
    out, text = told("matched", "--fresh", "dataset:more")
    assert (out["rows_seen"], out["rows_real"], out["unseen_but_seen"]) == (200, 90, 0)
    assert out["unseen"] == "of dataset:more" and "loss_by_level" not in out
    assert "loss of unseen" not in text


def test_real_rows_that_the_fit_saw_after_all_are_told(home, told):
    """The last half of the data, as --held-out says, and the fit knew a half of all of it."""
    out, text = told("diffusion", "--data", "dataset:hops", "--held-out", "0.5")
    train, _ = own(home)
    known = {tuple(r) for r in train[:, :-2].tolist()}
    last = load_dataset(home / "hops").rows[200:, :-2].tolist()
    seen = sum(tuple(r) in known for r in last)
    assert 40 < seen < 120 and out["unseen_but_seen"] == seen
    assert (out["rows_seen"], out["rows_real"]) == (200, 200)
    assert f"note: THE FIT SAW {seen} of the real rows that it is measured by" in text
    assert "the last 0.5 of dataset:hops, as --held-out says" in text


def test_data_are_measured_beside_other_data(home, told):
    out, _ = told("dataset:more", "--data", "dataset:hops", "--held-out", "0.25", "--rows", "70")
    rows = load_dataset(home / "hops").rows
    assert (out["rows"], out["rows_seen"], out["rows_real"]) == (70, 300, 70)
    more = generated.some(load_dataset(home / "more").rows, 70, 0)
    seen = q.features(rows[:300], load_dataset(home / "hops").layout)
    apart = q.nearest(q.features(more, load_dataset(home / "hops").layout), seen, seen.std(0))
    assert out["nearest"] == pytest.approx(float(np.median(apart)))
    assert out["dynamics"] < 1e-3 < out["dynamics_noise"]


def test_rows_of_an_online_run_are_measured_by_its_replay(tmp_path, monkeypatch):
    """A ring of 240 that wrapped twice; what is held out of it no fit learned from."""
    c = config("synther", tmp_path, "online")
    synther.main(dataclasses.replace(c, diffusion=HELD))
    made = generated.made_by(str(tmp_path / "online"), 1000)
    real = generated.beside(made, (), (), 0.0)
    assert len(made.rows) == 130 and made.model.fits == 2
    assert len(real.train) + len(real.fresh) == 240 and real.seen == 0
    assert bool(made.model.held(real.fresh).all()) and 25 < len(real.fresh) < 75


def test_rows_whose_successor_is_not_known_are_left_out(home):
    data = load_dataset(home / "more")
    known = (torch.arange(90) % 3 > 0).float()
    told = Dataset.of(data.all._replace(extra={"next_known": known, "x": known}), data.card)
    layout, rows = generated.plain(told)
    assert layout == data.layout and torch.equal(rows, data.rows[known > 0])


def test_the_picture_draws_what_was_measured(home, told, tmp_path, monkeypatch):
    figures, keep = [], quality_figure.save_figure
    monkeypatch.setattr(
        quality_figure, "save_figure", lambda f, *a: figures.append(f) or keep(f, *a)
    )
    path = tmp_path / "a.png"
    out, text = told("diffusion", "--png", str(path))
    assert path.stat().st_size > 10_000 and str(path) in text
    marginals, correlations, distances, losses, _ = figures[0].axes
    heights = [bar.get_height() for bar in marginals.patches]
    assert len(heights) == 11 + 3 + 1 + 11 and np.mean(heights) == pytest.approx(out["marginal"])
    gap = correlations.images[0].get_array()
    pairs = np.triu_indices(26, 1)
    assert 1 - gap[pairs].mean() / 2 == pytest.approx(out["correlation"])
    assert [t.get_text() for t in distances.get_legend().get_texts()] == [
        "generated",
        "unseen real",
    ]
    line = losses.lines[0]
    assert list(line.get_ydata()) == pytest.approx(list(out["loss_by_level"].values()))
    assert list(line.get_xdata()) == [0.01, 0.03, 0.1, 0.3, 1, 3, 10]
    told("dataset:more", "--data", "dataset:hops", "--held-out", "0.5", "--png", str(path))
    assert "no generator" in figures[1].axes[3].texts[0].get_text()


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "measures one run or dataset:PATH, named first; got 0"),
        (["a", "b"], "named first; got 2"),
        (["nowhere"], "nowhere: no such file; give a run directory"),
        (["nowhere", "--sample"], "nowhere: no such file; give a run"),
        (["dataset:nowhere", "--data", "dataset:hops"], "nowhere"),
        (["dataset:more"], "dataset:more does not say what it was made from: give --data"),
        (["dataset:more", "--data", "dataset:hops"], "nothing says which real rows the fit of"),
        (["dataset:more", "--sample"], "is data and has no generator: leave --sample out"),
        (["matched"], "nothing says which real rows the fit of matched did not see: give others"),
        (["noise"], "nothing says which real rows the fit of noise did not see: give others"),
        (["noise", "--sample"], "the generator of noise was never fit: leave --sample out"),
        (["diffusion", "--data", "dataset:hops"], "nothing says which real rows the fit of"),
        (["diffusion", "--levels", "9"], "--levels goes with --sample"),
        (["diffusion", "--sigma-max", "9"], "--sigma-max goes with --sample"),
        (["diffusion", "--sample", "--levels", "1"], "levels must be"),
        (["diffusion", "--fresh", "dataset:more", "--held-out", "0.1"], "give one of them"),
        (["diffusion", "--fresh", "dataset:turns"], "rows of obs 11 and action 2, diffusion of 11"),
        (["diffusion", "--rows", "9"], "9 generated rows are too few: give 20 at least"),
        (["diffusion", "--held-out", "0.02"], "4 real and unseen rows are too few"),
        (["diffusion", "--png", "a.gif"], "end it with one of .png, .pdf, .svg"),
        (["dataset:more", "--data", "sac"], "sac has no checkpoint"),
        (["sac", "--sample"], "sac is a run of 'sac', which has no generator of rows"),
        (["sac"], "sac has no checkpoint"),
    ],
)
def test_what_cannot_be_measured_is_told(home, argv, text, monkeypatch, capsys):
    monkeypatch.chdir(home)
    if not (home / "sac").exists():
        turns = CollectOptions(env="reverie/Reacher-v5", transitions=40)
        data = collect_dataset(turns)
        obs = data.all.obs[:, :1].expand(-1, 11)
        Dataset.of(data.all._replace(obs=obs, next_obs=obs), data.card).save(home / "turns")
        (home / "sac").mkdir()
        (home / "sac" / "config.json").write_text('{"method": "sac", "config": {}}')
    assert cli.main(["quality", *argv]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("reverie: ") and text in error
