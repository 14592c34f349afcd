"""A second store in a mixture: append-only, and a killed run goes on with it bit for bit."""

import dataclasses
import os
import signal
from itertools import pairwise

import torch
from made import same_end
from safetensors import safe_open
from tiny import config

from reverie.agents import SAC
from reverie.buffers import ReplayBuffer, mix
from reverie.experiments.loops import offpolicy
from reverie.experiments.runs import checkpoint
from reverie.experiments.runs.run import Run

EVERY, STEPS, KILLED = 30, 420, 250


def train(c, resume=False, kill=False):
    """Learn half from rows made of the replay's, thirty more every 30 steps, a reward of 50 each.

    Returns the session; `kill`: die at step 250, ten steps after a checkpoint.
    """
    s = offpolicy.build(SAC, c)
    synthetic = ReplayBuffer(s.buffer.layout, 600, seed=7)
    s.draw_from(mix([(s.buffer, 0.5), (synthetic, 0.5)]), synthetic=synthetic)
    with Run("sac", c, label="stores", steps=c.steps, seed=c.seed, resume=resume) as run:
        for _ in offpolicy.steps(run, s, c):
            if run.due(EVERY):
                rows = s.buffer.sample(30)
                synthetic.add(rows._replace(reward=torch.full((30,), 50.0)))
            if kill and run.step >= KILLED:
                os.kill(os.getpid(), signal.SIGKILL)
            run.keep(s.state_dict, s.stores)
        run.save(s.state_dict(), s.stores)
    return s


def settings(out, name):
    c = config("sac", out, name, steps=STEPS, buffer_size=STEPS)
    return dataclasses.replace(c, run=dataclasses.replace(c.run, keep=100))


def stored(path):
    return {p.name: p.read_bytes() for p in (path / "buffer" / "synthetic").iterdir()}


def test_a_second_store_is_append_only_and_a_killed_run_goes_on_with_it(tmp_path):
    whole = train(settings(tmp_path, "whole"))
    assert list(whole.stores) == ["replay", "synthetic"]
    batch = whole.source.sample(16)
    assert (batch.reward == 50).tolist() == [False] * 8 + [True] * 8  # half of every batch
    assert len(whole.stores["synthetic"]) == STEPS

    cut = tmp_path / "cut"
    if (child := os.fork()) == 0:
        try:
            train(settings(tmp_path, "cut"), kill=True)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    before = stored(cut)
    assert len(before) > 1 and len(checkpoint.list_checkpoints(cut / "checkpoints")) == 4
    again = train(settings(tmp_path, "cut"), resume=True)
    assert same_end(tmp_path / "whole", cut)
    one, other = (s.stores["synthetic"].export_rows(0, STEPS)["rows"] for s in (whole, again))
    assert torch.equal(one, other)
    after = stored(cut)
    assert before.items() < after.items()  # nothing rewritten, nothing gone, more of them


def test_a_checkpoint_holds_names_of_shards_and_none_of_their_rows(tmp_path):
    """Each checkpoint's shards begin with those of the one before; its tensors do not grow."""
    s = train(settings(tmp_path, "run"))
    points = checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")
    lists = [[x.name for x in checkpoint.manifest_stores(p)["synthetic"]] for p in points]
    assert len(points) == STEPS // 60
    assert all(b[: len(a)] == a and len(b) == len(a) + 1 for a, b in pairwise(lists))
    width = s.buffer.layout.width
    for point in points:
        with safe_open(point / "tensors.safetensors", "pt") as file:
            shapes = [file.get_slice(k).get_shape() for k in file.keys()]  # noqa: SIM118
        assert not [x for x in shapes if x[-1:] == [width]]
