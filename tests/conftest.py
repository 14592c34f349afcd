"""Two workers on two cores: one thread each."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Runs set torch's threads; every test starts from one."""
    torch.set_num_threads(1)
