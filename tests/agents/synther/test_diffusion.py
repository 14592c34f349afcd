"""Fits, their stops and continuations, and what is refused."""

import ast
from pathlib import Path

import pytest
import torch
from diffused import LAYOUT, TINY, fit, made_rows, model, same

import reverie
from reverie.agents.synther.diffusion import Diffusion, held_out
from reverie.buffers import Layout


def test_a_fit_lowers_the_loss_and_ends():
    rows, one = made_rows(400), model(updates=300, lr=3e-3)
    one.begin(rows)
    looks = [m for m in fit(one, rows, 300) if "held_out_loss" in m]
    assert one.done and len(looks) == 30 and one.rows == 400 and one.fits == 1
    assert float(looks[-1]["held_out_loss"]) < 0.95 < 1 < float(looks[0]["held_out_loss"])
    with pytest.raises(ValueError, match="the fit is over after 300 updates: begin another"):
        one.fit_step(rows)


def plain(rows, width=16, **changes):
    """Fit a model of raw columns without ends; return it and its loss, averaged over updates."""
    one = model(actions="raw", terminal="none", layout=Layout(8, 2), width=width, **changes)
    one.begin(rows)
    running, at = 1.05, {}
    while not one.done:
        running += 0.01 * (float(one.fit_step(rows)["loss"]) - running)
        at[one.updates] = running
    return one, at


def test_independent_noise_leaves_nothing_to_learn():
    """1 is the least loss of features that are independent and Gaussian."""
    rows = torch.randn(20_000, 21, generator=torch.Generator().manual_seed(0))
    one, at = plain(rows, updates=400, lr=3e-3, batch_size=256)
    assert 0.985 < float(one.best_loss) < 1.02 and 0.985 < at[400] < 1.03


@pytest.mark.slow
def test_the_loss_of_a_deterministic_toy_is_that_of_the_sheet():
    """next_obs = tanh(A obs + B action), reward -|next_obs|^2: .69 at 1,000, .63 at 4,000."""
    draws = torch.Generator().manual_seed(0)
    a, b = torch.randn(8, 8, generator=draws) / 8**0.5, torch.randn(2, 8, generator=draws) / 2**0.5
    obs, action = torch.randn(50_000, 8, generator=draws), torch.rand(50_000, 2, generator=draws)
    then = torch.tanh(obs @ a + (2 * action - 1) @ b)
    flags = torch.zeros(50_000, 2)
    rows = torch.cat([obs, 2 * action - 1, -then.square().sum(1)[:, None], then, flags], 1)
    wide = {"width": 256, "depth": 6, "noise_width": 128, "lr": 3e-4, "batch_size": 256}
    one, at = plain(rows, updates=4000, **wide)
    assert at[1000] == pytest.approx(0.69, abs=0.02) and at[4000] == pytest.approx(0.63, abs=0.02)
    made = one.codec.out.unpack(one.generate(2000))
    wrong = made.next_obs - torch.tanh(made.obs @ a + made.action @ b)
    assert float(wrong.square().mean().sqrt()) < 0.1  # of .68


def test_the_rate_falls_along_a_cosine_from_the_first_update_of_each_fit():
    rows, one, seen = made_rows(), model(), []
    for updates in (4, 2):
        one.begin(rows, updates)
        while not one.done:
            one.fit_step(rows)
            seen.append(one.optimizer.param_groups[0]["lr"] / TINY.lr)
    assert seen == pytest.approx([1, 0.853553, 0.5, 0.146447, 1, 0.5], abs=1e-6)
    assert one.optimizer.param_groups[0]["betas"] == (0.9, 0.99)


def test_gradients_are_cut_to_a_length_of_one():
    rows, one = made_rows(), model(batch_size=2)
    one.begin(rows)
    one._flat.data.mul_(20)
    one.fit_step(rows)
    assert float(one._flat.grad.norm()) == pytest.approx(1, rel=1e-4)


def test_the_average_follows_every_tenth_update():
    rows, one = made_rows(), model(updates=130, held_out=0.0)
    one.begin(rows)
    fit(one, rows, 101)
    copied = one._flat.detach().clone()
    assert torch.equal(one._average_flat, copied)
    fit(one, rows, 9)
    assert torch.equal(one._average_flat, copied) and not torch.equal(one._flat, copied)
    fit(one, rows, 1)
    wanted = copied + (11 ** (-2 / 3)) * (one._flat - copied)
    assert torch.allclose(one._average_flat, wanted, atol=1e-7)


@pytest.mark.parametrize("at", [7, 10, 23])
def test_a_fit_continues_bit_for_bit_and_so_does_a_fill(at):
    rows, whole, first = made_rows(), model(), model()
    for one in (whole, first):
        one.begin(rows)
    fit(whole, rows, 40)
    fit(first, rows, at)
    again = model(seed=9)
    again.load_state_dict(first.state_dict())
    fit(again, rows, 40 - at)
    assert again.done and same(again.state_dict(), whole.state_dict())
    a, b = whole.generate(5), again.generate(5)
    assert torch.equal(a, b)
    third = model(seed=9)
    third.load_state_dict(again.state_dict())
    assert torch.equal(third.generate(5), whole.generate(5))
    for one in (whole, third):
        one.begin(rows)
        fit(one, rows, 3)
    assert same(third.state_dict(), whole.state_dict())


def test_the_loss_by_level_is_that_of_the_average_at_fixed_levels():
    """Of a network that returns 0 it is 1 at each."""
    rows, one = made_rows(), model(terminal="none")
    one.begin(rows)
    one._average_flat.zero_()
    one._flat.data.fill_(1.0)
    out = one.loss_by_level(rows)
    assert list(out) == [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
    assert list(out.values()) == pytest.approx([1] * 7, abs=0.08)
    assert one.loss_by_level(rows) == out


def test_other_rows_within_a_fit_are_refused():
    one, rows = model(), made_rows()
    one.begin(rows)
    again = model()
    again.load_state_dict(one.state_dict())
    for others in (rows[1:], rows.flip(0)):
        text = f"began with 200 rows and goes on with {len(others)} others"
        with pytest.raises(ValueError, match=text):
            again.fit_step(others)
    assert "loss" in again.fit_step(rows)


def test_a_fit_that_no_longer_gets_better_ends_with_its_best_weights():
    rows, one = made_rows(), model(updates=1000, patience=3)
    one.begin(rows)
    fit(one, rows, 10)
    best = one._average_flat.clone()
    one.best_loss = torch.tensor(0.0)  # no look is better than that
    fit(one, rows, 30)
    assert one.done and one.stale == 3 and one.updates == 40
    assert torch.equal(one._average_flat, best)


def test_held_out_rows_stay_so_and_no_update_sees_them():
    rows, one = made_rows(), model(held_out=0.2)
    one.begin(rows)
    train, held = one._split(rows)
    assert torch.allclose(held, one.codec.encode(rows[one.held(rows)]), atol=1e-6)
    assert len(train) + len(held) == 200 and 25 <= len(held) <= 55
    told = torch.cat([rows, torch.rand(200, 3)], 1)  # flags and extra columns say nothing of it
    told[:, 9:] = 0.5
    more = model(held_out=0.2, layout=Layout(3, 2, {"next_known": 1, "context": 2}))
    assert torch.equal(more.held(told), one.held(rows))


def test_a_row_is_held_out_by_itself_wherever_it_lies():
    """A ring that wraps moves rows to other places, and a copy must not be learned from."""
    rows = torch.randn(20_000, 9, generator=torch.Generator().manual_seed(0))
    held = held_out(rows, 0.1)
    assert abs(int(held.sum()) - 2000) < 4 * (20_000 * 0.1 * 0.9) ** 0.5
    assert torch.equal(held_out(rows[7_000:], 0.1), held[7_000:])
    assert torch.equal(held_out(rows.flip(0), 0.1), held.flip(0))
    whole = torch.arange(20_000.0)[:, None] * torch.ones(9)  # few bits of a column are set
    for values in (whole, whole * torch.eye(9)[0], whole * torch.eye(9)[8], -whole):
        assert abs(int(held_out(values, 0.1)[1:].sum()) - 2000) < 200
    assert not held_out(rows, 0.0).any() and held_out(rows[:1], 0.05).all()
    assert int(held_out(rows[~held][:30], 0.1).sum()) == 1  # none of them would be by its own


def test_rows_that_are_all_alike_are_refused():
    row = next(r for r in made_rows() if bool(held_out(r[:9].repeat(2, 1), 0.5).all()))
    assert model(held_out=0.5).held(row.repeat(40, 1)).all()
    with pytest.raises(ValueError, match="all 40 rows are alike, or so many that none is left"):
        model(held_out=0.5).begin(row.repeat(40, 1))


def test_a_warm_fit_goes_on_from_the_average_and_a_cold_one_does_not():
    rows, other = made_rows(), made_rows(seed=1) * 1.5
    for warm in (True, False):
        one = model(warm=warm)
        one.begin(rows)
        begun = one._flat.clone()
        fit(one, rows, 40)
        one._flat.data.add_(0.1)  # the average is not the last weights
        kept, frequencies = one._average_flat.clone(), one.net.frequencies.clone()
        one.begin(other)
        assert torch.equal(one._flat, kept) == torch.equal(one.net.frequencies, frequencies) == warm
        assert not warm or not torch.equal(kept, begun)
        assert torch.equal(one._average_flat, one._flat)
        assert torch.equal(one.average.frequencies, one.net.frequencies)


def test_generated_rows_are_of_the_layout_and_in_the_box():
    rows, one = made_rows() * 3, model()
    rows[:, 3:5].clamp_(-1, 1)
    one.begin(rows)
    fit(one, rows, 40)
    out = one.codec.out.unpack(one.generate(50, batch=16))
    assert len(out.obs) == 50 and out.next_obs.shape == (50, 3)
    assert float(out.action.abs().max()) <= 1 and not out.truncated.any()
    assert set(out.terminated.tolist()) <= {0.0, 1.0}
    assert len(one.generate(0)) == 0


def test_a_batch_of_another_size_is_another_draw_and_the_global_generator_stays():
    rows, one = made_rows(), model()
    before = torch.random.get_rng_state()
    one.begin(rows)
    fit(one, rows, 12)
    one.generate(5)
    model(warm=False).begin(rows)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_rows_whose_successor_the_data_does_not_tell_are_left_out():
    layout = Layout(3, 2, {"next_known": 1})
    rows = made_rows(layout=layout)
    rows[:, -1] = 1
    rows[5, -1] = 0
    rows[5, 6:9] = 1e6
    one = model(layout=layout)
    one.begin(rows)
    assert one.rows == 199 and float(one.codec.std.max()) < 10
    fit(one, rows, 2)
    assert one.generate(4).shape == (4, LAYOUT.width)


def test_what_cannot_be_fit_is_told(caplog):
    rows, one = made_rows(), model()
    with pytest.raises(ValueError, match="31 rows are fewer than a batch of 32: collect more"):
        one.begin(rows[:31])
    with pytest.raises(ValueError, match=r"shape \(200, 10\) do not fit a model of Layout\("):
        one.begin(rows[:, :10])
    for bad in (float("nan"), float("inf")):
        broken = rows.clone()
        broken[7, 4] = bad
        with pytest.raises(ValueError, match=rf"action\[1\] of row 7 is {bad}"):
            one.begin(broken)
    hot = rows.clone()
    hot[:, 3] = (rows[:, 3] > 0).float()
    hot[:, 4] = 1 - hot[:, 3]
    with pytest.raises(ValueError, match=r"action\[0\], action\[1\] are 0 or 1 in every row"):
        one.begin(hot)
    with pytest.raises(ValueError, match="fit to nothing"):
        one.generate(1)
    rows[:, 1] = 1234.567
    one.begin(rows)
    assert "obs[1] never changed in 200 rows" in caplog.text
    caplog.clear()
    one.begin(rows)
    assert not caplog.text  # once is enough
    fit(one, rows, 5)
    assert one.generate(50)[:, 1].tolist() == pytest.approx([1234.567] * 50, abs=1e-2)


def test_a_state_of_another_model_is_refused():
    one, other = model(), Diffusion(Layout(4, 2), TINY)
    with pytest.raises((ValueError, RuntimeError)):
        other.load_state_dict(one.state_dict())


def test_a_diverged_fit_is_told_when_it_is_sampled():
    rows, one = made_rows(), model()
    one.begin(rows)
    one._average_flat.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="5 of 5 generated rows are not finite"):
        one.generate(5)


def test_a_second_fit_without_one_finite_look_is_told_too():
    """Its weights are not those of the fit before."""
    rows, one = made_rows(), model(updates=20)
    for bad in (False, True):
        one.begin(rows)
        if bad:
            one._flat.data.fill_(float("nan"))
            one._average_flat.fill_(float("nan"))
        fit(one, rows, 20)
    with pytest.raises(FloatingPointError, match="generated rows are not finite"):
        one.generate(5)


def test_diffusers_is_imported_by_the_first_model_only():
    """It takes seconds: one file imports it, and no file imports that one at its top."""
    for path in Path(reverie.__file__).parent.glob("agents/**/*.py"):
        for node in ast.parse(path.read_text()).body:
            names = ast.unparse(node) if isinstance(node, ast.Import | ast.ImportFrom) else ""
            assert "diffusers" not in names or path.name == "denoiser.py", path
            assert "denoiser" not in names, path
