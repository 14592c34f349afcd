"""Two workers on two cores: one thread each."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from types import SimpleNamespace

import pytest
import torch
from forked import Forked
from sequenced import sequence  # noqa: F401  a fixture

from reverie.experiments.runs import stopping
from reverie.experiments.studies import pool


@pytest.fixture(autouse=True)
def one_thread():
    """Runs set torch's threads; every test starts from one."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def nobody_asks(monkeypatch):
    """A test that asks a run to stop asks no other."""
    monkeypatch.setattr(stopping, "stop_asked", False)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    """Nothing here loses power, so nothing waits until it is on the disk."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture
def forks(monkeypatch):
    """The jobs of an engine are forks of this process, which cost no imports."""
    monkeypatch.setattr(pool, "subprocess", SimpleNamespace(Popen=Forked))
