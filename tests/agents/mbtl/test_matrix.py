"""Transfer matrices as files."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from reverie.agents.mbtl import Matrix, MatrixCard, load_matrix
from reverie.agents.mbtl.synthetic import hill, line_contexts

CARD = MatrixCard("reverie/CartPoleSwingUp-v0", ("length",), 18_000, (100, 101), low=-1, high=3)


def matrix():
    values = torch.stack([hill(0, 4), hill(1, 4)], -1)
    return Matrix(values, line_contexts(4), CARD)


def test_a_matrix_comes_back_as_it_was(tmp_path):
    one = matrix()
    card = one.save(tmp_path / "length.01")  # a dot in a name is no suffix
    assert card == dataclasses.replace(CARD, sha256=one.digest)
    for name in ("length.01", "length.01.json", "length.01.safetensors"):
        again = load_matrix(tmp_path / name)
        assert torch.equal(again.values, one.values) and torch.equal(again.contexts, one.contexts)
        assert again.card == card


def test_units_and_bootstraps_by_hand():
    one = matrix()
    assert torch.equal(one.unit(1), (one.values[..., 1] + 1) / 4)
    assert torch.allclose(one.unit(), (one.unit(0) + one.unit(1)) / 2)
    many = one.bootstrap(50, seed=0)
    assert many.shape == (50, 4, 4)
    of_first = (many == one.unit(0)).all(2)
    of_second = (many == one.unit(1)).all(2)
    assert bool((of_first ^ of_second).all())  # each row is that of one seed, whole
    assert 0.3 < float(of_first.double().mean()) < 0.7
    assert torch.equal(many, one.bootstrap(50, seed=0))


def test_a_damaged_matrix_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors is missing"):
        load_matrix(tmp_path / "none")
    matrix().save(tmp_path / "m")
    file, about = tmp_path / "m.safetensors", tmp_path / "m.json"
    whole, told = file.read_bytes(), about.read_text()
    file.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match="not a readable matrix"):
        load_matrix(tmp_path / "m")
    parts = load_file_of(whole, file)
    save_file({**parts, "values": parts["values"] + 1}, file)
    with pytest.raises(ValueError, match="does not match the sha256"):
        load_matrix(tmp_path / "m")
    save_file({"values": parts["values"].float(), "contexts": parts["contexts"]}, file)
    with pytest.raises(ValueError, match="expected values"):
        load_matrix(tmp_path / "m")
    file.write_bytes(whole)
    for wrong in ({"budget": "much"}, {"seeds": [1]}, {"nobody": 1}, {"task": 3}):
        about.write_text(json.dumps(json.loads(told) | wrong))
        with pytest.raises(ValueError, match="not a readable matrix"):
            load_matrix(tmp_path / "m")


def load_file_of(whole, file):
    file.write_bytes(whole)
    return load_file(file)


def test_what_is_no_matrix():
    one = matrix()
    with pytest.raises(ValueError, match="of 2 seeds and features"):
        Matrix(one.values[..., :1], one.contexts, CARD)
    with pytest.raises(ValueError, match="of 2 seeds and features"):
        Matrix(one.values, one.contexts[:3], CARD)
    with pytest.raises(ValueError, match="not finite"):
        Matrix(one.values / 0, one.contexts, CARD)
    with pytest.raises(ValueError, match="high must be above low"):
        Matrix(one.values, one.contexts, dataclasses.replace(CARD, low=3.0))
