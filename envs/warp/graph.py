"""Recorded launches: the CUDA graphs of Warp and of torch, and the stream that they share."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import warp as wp


class Graph:
    """Launches on fixed arrays, recorded at their second call and replayed from then on.

    Warp records its own launches (on the CPU device too), torch its own: a function holds those
    of one of them. The first call runs them one by one, which loads the kernels.
    """

    def __init__(self, launches: Callable[[], None], device: torch.device, record: str) -> None:
        self.launches, self.device, self.record = launches, device, record
        self.calls, self.seconds = 0, 0.0  # `seconds`: what recording took
        self._graph: Any = None

    def __call__(self) -> None:
        """Run the launches."""
        self.calls += 1
        if self._graph is None and self.record and self.calls > 1:
            start = time.perf_counter()
            self._graph = self._warp() if self.record == "warp" else self._torch()
            self.seconds = time.perf_counter() - start
        if self._graph is None:
            with on_torchs_stream(self.device):
                self.launches()
        elif self.record == "torch":
            self._graph.replay()
        else:
            with on_torchs_stream(self.device):
                wp.capture_launch(self._graph)

    def _warp(self) -> Any:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        name = str(self.device)  # launches go to Warp's current device, so it is set too
        with no_garbage(), wp.ScopedDevice(name), wp.ScopedCapture(device=name) as capture:
            self.launches()  # on Warp's own stream: CUDA does not record its default one
        return capture.graph

    def _torch(self) -> Any:
        if self.device.type != "cuda":  # torch has no graphs on the CPU: stays as it is
            self.record = ""
            return None
        graph = torch.cuda.CUDAGraph()
        with no_garbage(), torch.cuda.device(self.device):
            stream: Any = torch.cuda.Stream  # whose stubs have no types
            self._stream = stream(self.device)  # else torch's, of the first device
            with torch.cuda.graph(graph, stream=self._stream):
                self.launches()
        return graph


@contextmanager
def no_garbage() -> Iterator[None]:
    """Collect no garbage for a while: what it would free on the device must not be recorded."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def on_torchs_stream(device: torch.device) -> AbstractContextManager[Any]:
    """Let Warp launch where torch does, so that neither has to wait for the other.

    With a GPU in the machine Warp's own default is that: its CPU device must be asked for.
    """
    place: AbstractContextManager[Any]
    if device.type == "cpu":
        place = wp.ScopedDevice("cpu")
    else:
        place = wp.ScopedStream(wp.stream_from_torch(device), sync_enter=False)
    return place
