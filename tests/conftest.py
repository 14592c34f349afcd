"""Two workers on two cores: one thread each."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from reverie.experiments.runs import stopping


@pytest.fixture(autouse=True)
def one_thread():
    """Runs set torch's threads; every test starts from one."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def nobody_asks(monkeypatch):
    """A test that asks a run to stop asks no other."""
    monkeypatch.setattr(stopping, "stop_asked", False)
