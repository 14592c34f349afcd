"""A generator saved, loaded, damaged; and as a Source."""

import dataclasses
import json
import logging

import pytest
import torch
from diffused import LAYOUT, TINY, fit, made_rows, model, same
from safetensors.torch import load_file, save_file

from reverie.agents.synther.codec import Rules
from reverie.agents.synther.diffusion import Diffusion
from reverie.agents.synther.files import CARD, NETWORK, WEIGHTS, load, save
from reverie.agents.synther.source import Generated
from reverie.buffers import Source, mix
from reverie.buffers.shards import file_digest


@pytest.fixture
def fitted():
    one = model(updates=12)
    one.begin(made_rows())
    fit(one, made_rows(), 12)
    return one


def test_a_generator_comes_back_exactly(fitted, tmp_path):
    before = torch.random.get_rng_state()
    save(fitted, tmp_path / "g", {"env": "reverie/Known-v0"})
    again, about = load(tmp_path / "g", seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    for a, b in zip(
        again.average.state_dict().values(), fitted.average.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)
    assert same(again.codec.state_dict(), fitted.codec.state_dict())
    assert about["env"] == "reverie/Known-v0" and about["rows"] == 200 and about["updates"] == 12
    assert len(about["rows_sha256"]) == 16 and about["held_out_loss"] < 2
    assert again.about == fitted.about and {**again.about, "env": about["env"]} == about
    for one in (again, fitted):
        one.generator.manual_seed(5)
    assert torch.equal(again.generate(7), fitted.generate(7))
    weights = again._average_flat.clone()
    again.begin(made_rows())
    assert torch.allclose(again._flat, weights, atol=1e-6)  # from where it was
    fit(again, made_rows(), 2)  # and it can be fit further
    assert sorted(p.name for p in (tmp_path / "g").iterdir()) == sorted([CARD, NETWORK, WEIGHTS])


def test_rules_must_be_those_of_the_fit(tmp_path):
    rules = Rules(lambda then: then[:, 0] > 4, lambda obs, act, then: obs[:, 0] + act[:, 0])
    one = Diffusion(LAYOUT, TINY, rules=rules)
    one.begin(made_rows())
    save(one, tmp_path)
    with pytest.raises(ValueError, match=r"do not give \['reward', 'terminated'\]: give rules_of"):
        load(tmp_path)
    assert load(tmp_path, rules=rules)[0].codec.dim == one.codec.dim


def changed(folder, **parts):
    card = json.loads((folder / CARD).read_text())
    for name, value in parts.items():
        card[name] = {**card[name], **value} if isinstance(value, dict) else value
    (folder / CARD).write_text(json.dumps(card))


HARM = {
    "no generator": lambda f: (f / CARD).write_text("[]"),
    "no JSON": lambda f: (f / CARD).write_text("{"),
    "another setting": lambda f: changed(f, config={"sampler": "magic"}),
    "an unknown setting": lambda f: changed(f, config={"colour": 1}),
    "a huge network": lambda f: changed(f, config={"width": 16_384, "depth": 1000}),
    "other statistics": lambda f: changed(f, mean=[[1.0]]),
    "another layout": lambda f: changed(f, layout={"obs_dim": "x"}),
    "other weights": lambda f: (
        save_file({"a": torch.zeros(3)}, f / WEIGHTS),
        changed(f, sha256=file_digest(f / WEIGHTS)),
    ),
    "no weights": lambda f: (f / WEIGHTS).write_bytes(b"\x80\x04pickle"),
    "changed weights": lambda f: save_file(
        {k: v + 1 for k, v in load_file(f / WEIGHTS).items()}, f / WEIGHTS
    ),
    "another network": lambda f: (f / NETWORK).write_text('{"width": 16384}'),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_folder_is_told_in_one_line(fitted, tmp_path, harm):
    save(fitted, tmp_path)
    HARM[harm](tmp_path)
    with pytest.raises(ValueError, match=r".") as told:
        load(tmp_path)
    assert "\n" not in str(told.value) and len(str(told.value)) < 700
    assert str(tmp_path) in str(told.value)


@pytest.mark.parametrize("name", [CARD, WEIGHTS, NETWORK])
def test_a_missing_file_is_named(fitted, tmp_path, name):
    save(fitted, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        load(tmp_path)


def test_loading_says_nothing_of_diffusers_own(fitted, tmp_path, caplog, capfd):
    save(fitted, tmp_path)
    with caplog.at_level(logging.WARNING):
        load(tmp_path)
    assert not caplog.records and not capfd.readouterr().err


def test_a_generator_is_a_source(fitted):
    source = Generated(fitted, ahead=10, batch=4, about={"env": "e"})
    assert isinstance(source, Source) and source.about["rows"] == 200
    fitted.generator.manual_seed(3)
    first, second, third = (source.sample(4) for _ in range(3))
    fitted.generator.manual_seed(3)
    rows = fitted.generate(10, 4)
    assert torch.equal(LAYOUT.pack(first), rows[:4]) and torch.equal(LAYOUT.pack(second), rows[4:8])
    assert torch.equal(LAYOUT.pack(third), fitted.generate(10, 4)[:4])
    assert len(source.sample(25).reward) == 25  # more than it makes ahead
    assert len(mix([(source, 0.5), (source, 0.5)]).sample(6).reward) == 6


@pytest.mark.parametrize("drawn", [0, 4, 8, 12])
def test_a_source_continues_exactly(fitted, drawn):
    source = Generated(fitted, ahead=10)
    for _ in range(drawn // 4):
        source.sample(4)
    other = model()
    other.load_state_dict(fitted.state_dict())
    other.generator.manual_seed(99)
    again = Generated(other, ahead=10)
    again.load_state_dict(source.state_dict())
    for _ in range(4):
        assert torch.equal(LAYOUT.pack(source.sample(4)), LAYOUT.pack(again.sample(4)))


def test_settings_out_of_bounds_are_refused():
    for change, text in (
        ({"width": 0}, r"width must be in \[1, 16384\], got 0"),
        ({"terminal": "guess"}, "terminal must be one of .*'rule'.*, got 'guess'"),
    ):
        with pytest.raises(ValueError, match=text):
            Diffusion(LAYOUT, dataclasses.replace(TINY, **change))
