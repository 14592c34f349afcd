"""A device that is never waited for, played by the CPU: what reads a tensor's values is refused.

Two modes, as some reads are Python's own (`.numpy()`, `if tensor:`) and others an operator's, which
autograd and optimisers call too. A shape that depends on values is a read.
"""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class Waited(AssertionError):
    """The host asked for a value."""


READS = {
    "numpy", "cpu", "item", "tolist", "equal", "allclose", "__bool__", "__int__", "__float__",
    "__index__", "__array__", "__contains__", "__repr__", "__format__", "__dlpack__",
}  # fmt: skip
OPS = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "nonzero_numpy", "argwhere",
    "masked_select", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave",
}  # fmt: skip
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}


class _Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        # the played device is a `torch.device("cpu")`; who writes "cpu" means the host
        to_host = name == "to" and any(type(x) is str for x in (*args[1:], *kwargs.values()))
        if name in READS or to_host:
            raise Waited(f"{name} waits for the device")
        return func(*args, **kwargs)


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        masks = name in INDEXED and any(
            x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
        )
        if name in OPS or masks:
            raise Waited(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_reads():
    """Raise Waited for whatever would make the host wait for a device, backward passes included."""
    with _Functions(), _Operators():
        yield
