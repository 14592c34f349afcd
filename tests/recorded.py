"""What records launches on CUDA, played by the CPU: the operators of a call, replayed one by one.

As a graph does: recording computes nothing that stays, a replay runs each operator on the tensors
that it was recorded with, and Python does not take part. Generators go on with each replay.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

ALIASES = {"view", "expand", "select", "slice", "unsqueeze", "squeeze", "t", "transpose", "detach",
           "alias", "permute", "split", "unbind", "as_strided", "_unsafe_view", "_reshape_alias",
           "diagonal", "chunk", "mT"}  # fmt: skip


def tensors(x):
    return [t for t in tree_flatten(x)[0] if isinstance(t, torch.Tensor)]


class Tape(TorchDispatchMode):
    """Runs what it sees, and keeps it; `undo` puts back what was there before and was written."""

    def __init__(self):
        super().__init__()
        self.ops, self.before, self.made = [], {}, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.keep(value)
        out = func(*args, **kwargs)
        own = [] if func._schema.name.endswith("_") else tensors(out)
        if func._schema.name.removeprefix("aten::") not in ALIASES:
            self.made |= {t.untyped_storage().data_ptr() for t in own}
            self.ops.append((func, args, kwargs, own))
        return out

    def keep(self, value):
        for t in tensors(value):
            home = t.untyped_storage()
            if home.data_ptr() not in self.made and home.data_ptr() not in self.before:
                self.before[home.data_ptr()] = (home, home.clone())

    def undo(self):
        for home, copy in self.before.values():
            home.copy_(copy)

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, own in self.ops:
                for to, x in zip(own, tensors(func(*args, **kwargs)) if own else [], strict=True):
                    to.copy_(x)
                if not own:
                    func(*args, **kwargs)


class OnTape:
    """`agents.graphs.OnCuda`, on the CPU."""

    def __init__(self):
        self.ran, self.tapes = 0, []

    def run(self, launches):
        self.ran += 1
        return launches()

    def record(self, launches, generators):
        states = [g.get_state() for g in generators]
        with Tape() as tape:
            launches()
        tape.undo()
        for g, state in zip(generators, states, strict=True):
            g.set_state(state)
        self.tapes.append(tape)
        return tape.replay
