"""A fit of a world model: what it holds out, when it ends, how it goes on, what it leaves."""

import json

import pytest
import torch
from dreamt import KINDS, adding, config, fitted

from reverie.agents.dreams import files
from reverie.agents.dreams.data import episodes, held_out
from reverie.agents.dreams.fan import open_loop, some_masks
from reverie.agents.dreams.fit import Fit
from reverie.agents.dreams.models import build
from reverie.buffers import Card, Dataset, Layout, ReplayBuffer, Transitions
from reverie.experiments.runs.codec import decode, encode

every_kind = pytest.mark.parametrize("kind", KINDS)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_episodes_of_a_store_in_the_order_of_its_worlds():
    store = ReplayBuffer(Layout(1, 1), 12, 2)
    for t in range(6):
        obs = torch.tensor([[t], [10.0 + t]])
        ends = torch.tensor([float(t == 2), float(t == 4)])
        valid = torch.tensor([True, t != 1])
        store.add(Transitions(obs, 0 * obs, obs[:, 0], obs, ends, 0 * ends), valid)
    parts = episodes(store)
    assert parts.rows[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 10, 12, 13, 14, 15]
    assert parts.episode.tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4]
    assert parts.lengths.tolist() == [3, 3, 1, 3, 1]


def test_an_episode_stays_held_out_as_others_are_added():
    small, large = (held_out(torch.arange(n), 0.1) for n in (300, 3000))
    assert torch.equal(large[:300], small)
    assert abs(int(large.sum()) - 300) < 3 * (3000 * 0.09) ** 0.5
    assert held_out(torch.arange(2), 0.01).sum() == 1 and held_out(torch.arange(2), 0.9).sum() == 1
    assert not held_out(torch.arange(9), 0.0).any()
    with pytest.raises(ValueError, match="single episode"):
        held_out(torch.arange(1), 0.1)


def test_what_is_held_out_is_not_learned_from():
    store = adding(40)
    fit = Fit(build(2, 2, config()))
    fit.begin(store)
    train, held = fit._split(store)
    a, b = ({tuple(r) for r in x.rows().tolist()} for x in (train, held))
    assert not a & b and len(a) + len(b) == len(store) == 480 and 0 < len(b) < 240
    seen = {tuple(r) for r in train.layout.pack(train.sample(5000)).tolist()}
    assert seen == a


def test_a_fit_ends_with_its_best_weights_when_it_no_longer_gets_better():
    settings = {"updates": 1000, "judge_every": 10, "patience": 30}
    model, store = build(2, 2, config(**settings)), adding(10)
    fit, after = Fit(model), {}
    fit.begin(store)
    losses = iter([0.5, 0.3, 0.4, 0.3, 0.6])  # 0.3 again is not better
    whole = model.loss

    def told(batch, mask, masks):
        if torch.is_grad_enabled():
            return whole(batch, mask, masks)
        after[fit.updates] = weights(model)
        return torch.tensor(next(losses))

    model.loss = told
    while not fit.done:
        fit.fit_step(store)
    assert fit.updates == 50 and float(fit.best_loss) == pytest.approx(0.3)
    assert torch.equal(weights(model), after[20]) and not torch.equal(after[20], after[50])
    with pytest.raises(ValueError, match="the fit is over after 50"):
        fit.fit_step(store)


@every_kind
def test_a_fit_continues_bit_for_bit_inside(kind):
    store = adding(8)
    whole = Fit(build(2, 2, config(kind, updates=12, judge_every=5)))
    whole.begin(store)
    half = Fit(build(2, 2, config(kind, updates=12, judge_every=5), seed=9), seed=0)
    for _ in range(7):
        whole.fit_step(store)
    tensors, tree = encode(whole.state_dict())
    half.load_state_dict(decode(tensors, json.loads(json.dumps(tree))))
    while not whole.done:
        a, b = whole.fit_step(store), half.fit_step(store)
        assert {k: float(v) for k, v in a.items()} == {k: float(v) for k, v in b.items()}
    assert half.done and torch.equal(weights(whole.model), weights(half.model))
    with pytest.raises(ValueError, match="give the same ones"):
        half.load_state_dict({**whole.state_dict(), "updates": 0})
        half.fit_step(adding(9))


def test_a_second_fit_goes_on_from_the_first():
    store, model = adding(10), build(2, 2, config(updates=60))
    fit = fitted(model, store)
    before = weights(model)
    fit.begin(adding(11), updates=5)
    assert torch.equal(weights(model), before) and fit.fits == 2 and fit.total == 5
    assert model.scales.horizon == 12 and fit.about["rows"] == 132
    with pytest.raises(ValueError, match="the store is empty"):
        fit.begin(ReplayBuffer(Layout(2, 2), 10))


def test_rows_whose_successor_is_unknown_teach_nothing_of_it():
    model = build(2, 2, config())
    batch = adding().sample(64)
    known = (torch.arange(64) % 2).float()
    batch = batch._replace(extra={"next_known": known})
    spoilt = batch._replace(next_obs=torch.where(known[:, None] > 0, batch.next_obs, 1e6))
    ones = torch.ones(64)
    assert torch.equal(model.loss(batch, ones, ()), model.loss(spoilt, ones, ()))
    model.scale(spoilt, 12)
    assert float(model.scales.high.max()) < 100 and float(model.scales.out_std.max()) < 100


def test_units_by_hand():
    model = build(1, 1, config())
    obs = torch.tensor([[0.0], [2.0], [4.0]])
    flag = torch.tensor([0.0, 0, 1])
    after = torch.tensor([[1.0], [3.0], [8.0]])
    rows = Transitions(obs, 0 * obs, torch.tensor([5.0, 5.0, 5.0]), after, flag, 0 * flag)
    model.scale(rows, 3)
    s = model.scales
    assert s.low.tolist() == [0, 5] and s.high.tolist() == [8, 5]  # of obs and next_obs
    assert s.obs_mean.tolist() == [2] and s.obs_std.tolist() == [2]
    assert s.out_mean.tolist() == [2, 5]  # changes 1, 1, 4; the reward is 5 whatever is predicted
    assert s.out_std.tolist() == pytest.approx([3**0.5, 0])
    assert bool(s.ends) and s.horizon == 3
    assert s.targets(rows)[2].tolist() == pytest.approx([2 / 3**0.5, 0])
    next_obs, reward = s.outputs(obs, s.targets(rows))
    assert torch.allclose(next_obs, after) and torch.allclose(reward, rows.reward)
    _, reward = s.outputs(obs, torch.full((3, 2), 7.0))
    assert reward.tolist() == [5, 5, 5]


@pytest.mark.parametrize("kind", ["mlp", "gru"])
def test_a_clock_ticks_whatever_a_model_was_fitted_to(kind):
    """Ticks of 1/500 from -1 differ by their rounding; 100 dreamt ones are a fifth."""
    store = adding(10, length=50)
    rows = store.layout.unpack(store.rows())
    ticks = torch.arange(50.0).repeat(10)[:, None]
    timed = ReplayBuffer(Layout(3, 2), 500)
    timed.add(
        rows._replace(
            obs=torch.cat([rows.obs, ticks / 500 - 1], 1),
            next_obs=torch.cat([rows.next_obs, (ticks + 1) / 500 - 1], 1),
        )
    )
    model = build(3, 2, config(kind, updates=20))
    fitted(model, timed)
    if kind == "gru":  # a density of what never varies has no bound: it is not learned
        loss = model.loss(*timed.sample_windows(8, 6, 2), ())
        (bias,) = torch.autograd.grad(loss, [model.head.bias])
        of_dims = bias[: 3 * 3 * 5].view(3, 3, 5)
        assert not of_dims[:, 2].any() and of_dims[:, :2].abs().sum() > 0
    masks = some_masks(model, 500, 0.5, 0)
    said = open_loop(model, timed.layout.unpack(timed.rows()).obs, torch.ones(500, 100, 2), masks)
    assert torch.allclose(said[:, -1, 2], ticks[:, 0] / 500 - 1 + 0.2, atol=1e-4)


@every_kind
def test_a_model_goes_through_a_folder(kind, tmp_path):
    fixed = 0 if kind == "ensemble" else 3
    model = build(2, 2, config(kind, updates=5, fixed=fixed), seed=6)
    fit = fitted(model, adding(5))
    files.save(model, tmp_path, {**fit.about, "env": "adding"})
    again, about = files.load(tmp_path)
    assert about["env"] == "adding" and again.config == model.config
    for k, v in files.weights_of(model).items():
        assert torch.equal(v, files.weights_of(again)[k])
    obs, state = torch.randn(5, 2), model.initial_state(5)
    a, b = (m.predict(obs, obs, state, (), None) for m in (model, again))
    assert torch.equal(a.next_obs, b.next_obs) and again.scales.horizon == 12
    card = tmp_path / files.CARD
    text = card.read_text()
    for damaged in (text.replace("16", "17"), text.replace('"sha256": "', '"sha256": "0'), "{"):
        card.write_text(damaged)
        with pytest.raises(ValueError, match="not a readable world model"):
            files.load(tmp_path)
    card.unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        files.load(tmp_path)


def test_a_dataset_is_fitted_to_as_a_store_is():
    store = adding(10)
    data = Dataset.of(store.layout.unpack(store.rows()), Card(env="adding"))
    a, b = (build(2, 2, config(updates=20)) for _ in range(2))
    fitted(a, store), fitted(b, data)
    assert torch.equal(weights(a), weights(b))
