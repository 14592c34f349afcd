"""`reverie synther`: what is fit, what is stored, what is drawn, against numbers by hand."""

import dataclasses
import json

import pytest
import torch
from tiny import config

from reverie.agents import SAC, TD3Config
from reverie.agents.offline.iql import IQL
from reverie.agents.synther import noise
from reverie.agents.synther.diffusion import Diffusion
from reverie.agents.synther.noise import Noise
from reverie.agents.synther.source import Rehearsed
from reverie.buffers import Dataset, Layout, ReplayBuffer, Transitions, load_dataset
from reverie.experiments import iql, oer, rebrac, sac, synther
from reverie.experiments.loops.stored import synthetic
from reverie.experiments.runs.stopping import Diverged

MARK = 1000.0  # observations of the k-th fit's rows are 1000 + k


class Marked:
    """A generator in Diffusion's place, whose fit is over after `last` updates."""

    last = 99

    def __init__(self, layout, settings, *, rules, device, seed):
        self.layout, self.rules = layout, rules
        self.fits, self.steps, self.begun = 0, 0, []
        self.codec = type("Codec", (), {"out": Layout(layout.obs_dim, layout.act_dim)})

    def begin(self, rows):
        self.begun.append(rows.clone())
        self.fits, self.steps = self.fits + 1, 0

    @property
    def done(self):
        return self.steps >= self.last

    def fit_step(self, rows):
        assert torch.equal(rows, self.begun[-1])
        self.steps += 1
        return {"loss": torch.tensor(float(self.steps))}

    def generate(self, n, stop=None):
        return torch.full((n, self.codec.out.width), MARK + self.fits)

    def state_dict(self):
        return {"fits": self.fits}


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """Run with a marked generator; give its parts, every batch that was learned from, the rows."""
    batches, parts = [], []
    update, learning = SAC.update, synther.learning

    def learned(self, batch, **more):
        batches.append(batch.obs[:, 0].clone())
        return update(self, batch, **more)

    def made(c):
        parts[:] = learning(c)
        return parts

    monkeypatch.setattr(synther, "CHUNK", 10)  # rows of a fill: 10, 10 and 5
    monkeypatch.setattr(synther, "Diffusion", Marked)
    monkeypatch.setattr(synther, "learning", made)
    monkeypatch.setattr(SAC, "update", learned)

    def go(**changes):
        settings = dict(
            steps=201, learning_starts=30, refit_every=60, synthetic=25, buffer_size=300, utd=1 / 3
        )
        result = synther.main(config("synther", tmp_path, "run", **{**settings, **changes}))
        rows = [json.loads(x) for x in (result.path / "metrics.jsonl").read_text().splitlines()]
        return *parts, batches, rows

    return go


def test_half_of_a_batch_is_synthetic_after_the_first_fit_and_none_before(seen):
    """Three worlds, an update a vector step from transition 33 on: 10 up to the fit at 60."""
    s, g, batches, _ = seen()
    made = [(obs >= MARK).sum().item() for obs in batches]
    assert made == [0] * 10 + [8] * 47  # up to 201
    kinds = [sorted(set(obs[obs >= MARK].tolist())) for obs in batches]
    # after a fit nothing of the one before: at 60, 120 and 180 transitions
    assert kinds == [[]] * 10 + [[1001.0]] * 20 + [[1002.0]] * 20 + [[1003.0]] * 7
    assert (
        len(g.store) == 25
        and g.store.total == 75
        and set(g.store.rows()[:, 0].tolist()) == {1003.0}
    )
    assert [len(rows) for rows in g.diffusion.begun] == [60, 120, 180]
    assert torch.equal(g.diffusion.begun[2], s.buffer.rows()[:180])
    assert g.diffusion.rules.terminated is not None  # Reacher's: it never ends


def test_a_fit_leaves_the_worlds_as_they_are(seen):
    """What conglu1997/SynthER's pull request 10 repaired: the next step began at a made row."""
    s, _, _, _ = seen()
    kept = s.buffer.layout.unpack(s.buffer.export_rows(0, 67)["rows"])
    ended = kept.ended[:-1]
    assert float(kept.obs.abs().max()) < MARK and not ended.all()
    assert torch.equal(kept.obs[1:][~ended], kept.next_obs[:-1][~ended])


@pytest.mark.parametrize(("last", "logged"), [(50, []), (65, [60]), (99, [60, 70])])
def test_rows_of_a_fit_have_their_kind_and_its_steps(seen, monkeypatch, last, logged):
    """70 updates are planned, a row is due at every 60 and at the end, and a fit may end early."""
    monkeypatch.setattr(Marked, "last", last)
    _, g, _, rows = seen()
    found = [(r["run_step"], r["step"], r["loss"]) for r in rows if r["kind"] == "diffusion fit"]
    assert found == [(at, n, float(n)) for at in (60, 120, 180) for n in logged]
    assert g.diffusion.steps == min(last, 70)


@pytest.mark.parametrize("size", [0.0, 0.5])
def test_the_control_repeats_real_rows_with_noise(seen, size):
    s, g, _, _ = seen(rows="noise", noise=size)
    real, made = s.buffer.rows()[:180], g.store.rows()  # made at 180
    same = (made[:, None] == real[None]).all(-1)
    assert same.any(1).all() if size == 0 else not same.any()
    assert g.diffusion.begun == []


def test_without_synthetic_rows_it_is_sac(seen):
    _, g, batches, _ = seen(rows="none")
    assert len(g.store) == 0 and g.diffusion.begun == []
    assert all((obs < MARK).all() for obs in batches)


@pytest.mark.parametrize(("steps", "fits"), [(177, 2), (180, 3), (183, 3)])
def test_a_fit_follows_the_step_that_crosses_a_multiple_and_no_other(seen, steps, fits):
    _, g, _, _ = seen(steps=steps)
    assert len(g.diffusion.begun) == fits


def test_offline_a_learner_has_synthetic_rows_in_place_of_the_data(tmp_path, monkeypatch):
    """Half of 600 rows are known: fit and z-scores are of these, batches of generated ones."""
    batches, models = [], []
    update = IQL.update

    class Kept(Marked):
        def __init__(self, *args, **keywords):
            super().__init__(*args, **keywords)
            models.append(self)

    def learned(self, batch, **more):
        batches.append(batch)
        return update(self, batch, **more)

    monkeypatch.setattr(synther, "Diffusion", Kept)
    monkeypatch.setattr(IQL, "update", learned)
    options = config("synther-iql", tmp_path, "run", steps=5)
    synther.main(options)
    (model,) = models
    data = load_dataset(options.data[0].removeprefix("dataset:")).share(0.5, seed=0)
    assert len(data) == 300 and torch.equal(model.begun[0], data.rows) and len(model.begun) == 1
    mean, std = data.moments()
    for batch in batches:
        assert torch.allclose(batch.obs, ((MARK + 1 - mean) / std).expand(16, -1))
        assert (batch.reward == MARK + 1).all()
    assert len(batches) == 5
    assert model.rules.terminated is not None
    for wrong, told in (
        ({"rows": "none"}, "reverie iql"),
        ({"env": "Hopper-v5"}, "the data has obs 10"),
        ({"learner": "td3bc", "td3bc": TD3Config(critic_bc=0.1)}, "next_action"),
    ):
        with pytest.raises(ValueError, match=told):
            synther.main(config("synther-iql", tmp_path, "wrong", **wrong))


def test_a_card_names_no_module_for_an_offline_run(tmp_path):
    options = config("synther-iql", tmp_path, "run")
    data = load_dataset(options.data[0].removeprefix("dataset:"))
    card = dataclasses.replace(data.card, env="somebodys_module:Mine-v0")
    Dataset(data.layout, data.rows, card).save(tmp_path / "d")
    given = {"env": synther.Config.env, "data": (f"dataset:{tmp_path / 'd'}",)}
    with pytest.raises(ValueError, match="a module would be imported"):
        synther.main(dataclasses.replace(options, **given))


def test_a_runs_synthetic_rows_are_data_for_every_learner(tmp_path):
    """Of a fill of 130 rows a batch of 16 takes three quarters, of the data the rest."""
    first = config("synther-iql", tmp_path, "made", steps=5)
    made = synther.main(first).path
    data = synthetic(str(made), seed=0)
    assert len(data) == 130 and data.card.env == "reverie/Reacher-v5"
    kept = data.all
    assert torch.equal(kept.terminated + kept.truncated, torch.ones(130)) and data.ends.all()
    parts = (f"synther:{made}:0.75", f"{first.data[0]}:0.25")
    learnt = iql.main(config("iql", tmp_path, "learnt", data=parts, steps=20))
    assert learnt.steps == 20
    again = iql.main(config("iql", tmp_path, "learnt", data=parts, steps=30), resume=True)
    assert again.steps == 30
    mixed = sac.main(config("sac", tmp_path, "mixed", data=("replay:0.5", parts[0]), steps=120))
    assert mixed.steps == 120
    with pytest.raises(ValueError, match="each of the 130 rows ends an episode"):
        rebrac.main(config("rebrac", tmp_path, "asks", data=parts))
    none = sac.main(config("sac", tmp_path, "none", steps=120)).path
    with pytest.raises(ValueError, match="holds no synthetic rows"):
        synthetic(str(none))


def test_a_first_fit_of_too_few_rows_is_told_before_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"refit_every=31.*diffusion\.batch_size=32"):
        synther.main(config("synther", tmp_path, "run", refit_every=31))
    assert not (tmp_path / "run").exists()


def test_rows_are_of_the_datas_rules_or_of_none(tmp_path, monkeypatch):
    models = []
    monkeypatch.setattr(
        synther, "Diffusion", lambda *a, **k: models.append(Marked(*a, **k)) or models[-1]
    )
    for more in ({}, {"env_options": {"max_episode_steps": 50, "reward_control_weight": 0.0}}):
        synther.main(config("synther-iql", tmp_path, f"run{len(models)}", steps=1, **more))
    assert [m.rules.reward is None for m in models] == [False, True]


def test_a_held_out_loss_is_written_when_it_is_looked_at(seen, monkeypatch):
    def fit_step(self, rows):
        self.steps += 1
        more = {"held_out_loss": torch.tensor(0.5)} if self.steps == 25 else {}
        return {"loss": torch.tensor(1.0), **more}

    monkeypatch.setattr(Marked, "fit_step", fit_step)
    _, _, _, rows = seen(steps=60)
    found = [(r["step"], "held_out_loss" in r) for r in rows if r["kind"] == "diffusion fit"]
    assert found == [(25, True), (60, False), (70, False)]


@pytest.mark.parametrize("memory", [False, True])
def test_a_fit_that_diverges_stops_the_run_with_a_dump(memory, tmp_path, monkeypatch):
    """Of the online run and of a memory of OER: siblings by the one `Phase.advance`."""
    real = Diffusion.fit_step

    def fit_step(self, rows):
        return {**real(self, rows), "loss": torch.tensor(torch.nan)}

    monkeypatch.setattr(Diffusion, "fit_step", fit_step)
    method, module = ("oer-synther", oer) if memory else ("synther", synther)
    with pytest.raises(Diverged, match=r"loss not finite.*dumped to"):
        module.main(config(method, tmp_path, "run"))


def test_rows_that_are_not_finite_stop_the_run_with_a_dump(seen, monkeypatch):
    def diverged(self, n, stop=None):
        raise FloatingPointError("3 of 25 generated rows are not finite")

    monkeypatch.setattr(Marked, "generate", diverged)
    with pytest.raises(Diverged, match=r"3 of 25 generated rows.*at step 60; dumped to"):
        seen()


def test_shares_are_of_what_there_is():
    layout = Layout(1, 1)
    real, made = ReplayBuffer(layout, 4), ReplayBuffer(layout, 4)
    zero = torch.zeros(4)
    real.add(Transitions(zero[:, None], zero[:, None], zero, zero[:, None], zero, zero))
    source = Rehearsed(real, made, 0.25)
    assert source.counts(8) == [8, 0] and len(source.sample(8).reward) == 8
    made.add(Transitions(zero[:, None] + 1, zero[:, None], zero, zero[:, None], zero, zero))
    assert source.counts(8) == [6, 2] and source.sample(8).obs.sum() == 2
    made.clear()
    assert source.counts(8) == [8, 0]


# -- noise


def test_the_nearest_row_may_lie_in_any_part(monkeypatch):
    monkeypatch.setattr(noise, "SAMPLE", 2)
    monkeypatch.setattr(noise, "CHUNK", 2)
    x, among = (
        torch.tensor([[0.0], [5.0], [9.0]]),
        torch.tensor([[7.0], [4.0], [1.0], [30.0], [9.0]]),
    )
    assert noise.nearest(x, among).tolist() == [1, 1, 0]


def noise_of(sd=0.5):
    """Rows of 1 + 1 dimensions: obs 0 or 4, action 0.9, reward 2 or -2, next_obs 10, ended."""
    layout = Layout(1, 1)
    rows = torch.tensor([[0.0, 0.9, 2.0, 10.0, 1.0, 0.0], [4.0, 0.9, -2.0, 10.0, 0.0, 1.0]])
    return Noise(layout, sd, seed=0), rows.repeat(500, 1)


def test_noise_is_in_standard_deviations_of_each_column():
    maker, rows = noise_of(0.1)
    made = maker.generate(rows, 20_000)
    of = made[:, 4] == 1
    assert 0.48 < of.float().mean() < 0.52 and torch.equal(made[:, 5], 1 - made[:, 4])
    # obs and reward have a standard deviation of 2, action and next_obs none
    for column, mean in ((0, 0.0), (2, 2.0)):
        assert made[of, column].mean() == pytest.approx(mean, abs=0.02)
        assert made[of, column].std() == pytest.approx(0.2, rel=0.05)
    assert (made[:, 1] == 0.9).all() and (made[:, 3] == 10).all()
    loud, varied = noise_of(5.0)
    varied[::2, 1] = -0.9
    assert loud.generate(varied, 1000)[:, 1].abs().max() == 1  # stays in the box


def test_matched_noise_lies_as_far_from_real_rows_as_the_generated_ones_do():
    maker, rows = noise_of()
    rows = torch.randn(2000, 6, generator=torch.Generator().manual_seed(0))
    made = noise_of(0.3)[0].generate(rows, 1000)
    maker.match(rows, made)
    assert maker.sd == pytest.approx(0.3, abs=0.03)
    before = maker.generate(rows, 10)
    again = noise_of()[0]
    maker.match(rows, made)
    again.load_state_dict(maker.state_dict())
    assert torch.equal(again.generate(rows, 10), maker.generate(rows, 10)) and len(before) == 10
