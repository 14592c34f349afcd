"""Small finished runs, made once for each process, to be copied and harmed."""

import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path

from tiny import config, module_of

from reverie.experiments.runs.checkpoint import list_checkpoints


@functools.cache
def made(method):
    """The directory of a run with checkpoints at 60, 120 and 180, where it ends."""
    out = Path(tempfile.mkdtemp(prefix="reverie-made-"))
    options = config(method, out, "run", steps=180)
    run = dataclasses.replace(options.run, keep=3)
    return module_of(method).main(dataclasses.replace(options, run=run)).path


def copy_of(method, out):
    """The directory as a kill after the checkpoint at 120 leaves it: with rows of later steps."""
    shutil.copytree(made(method), out / "run")  # makes `out` too
    shutil.rmtree(list_checkpoints(out / "run" / "checkpoints")[-1])
    return out / "run"


def resume(method, out, steps=180, **changes):
    return module_of(method).main(config(method, out, "run", steps=steps, **changes), resume=True)


def files(path):
    """What lies in a directory, by name; the lock is nobody's word about the run."""
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name != "lock"
    }


def same_end(a, b):
    """Whether two runs have the same rows and the same newest checkpoint."""
    newest = [list_checkpoints(p / "checkpoints")[-1] for p in (a, b)]
    names = ("tensors.safetensors", "state.json")
    pairs = [[n / name for n in newest] for name in names] + [[p / "metrics.jsonl" for p in (a, b)]]
    return newest[0].name == newest[1].name and all(
        x.read_bytes() == y.read_bytes() for x, y in pairs
    )
