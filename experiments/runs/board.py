"""TensorBoard's events, written as they come.

`torch.utils.tensorboard` hands them to a thread, which a full disk kills for good, with a record
cut in the middle.
"""

import itertools
import os
import platform
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from .rows import Growing


class Board:
    """One events file; in those before it in the folder, what is from step `purge` on is void.

    Raises OSError where the disk refuses the folder.
    """

    def __init__(self, folder: Path, purge: int) -> None:
        from tensorboard.compat.proto import event_pb2

        folder.mkdir(parents=True, exist_ok=True)
        before = max((p.name for p in folder.glob("events.out.tfevents.*")), default="")
        who = f"{platform.node()}.{os.getpid()}"
        names = (f"events.out.tfevents.{s:010d}.{who}" for s in itertools.count(int(time.time())))
        name = next(n for n in names if n > before)  # they are read in the order of their names
        self._file, self._event = Growing(folder / name), event_pb2.Event
        self._first: list[dict[str, Any]] = [{"file_version": "brain.Event:2"}]
        if before:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._first += [{"step": purge, "session_log": start}]

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Write the scalars of one step, all or none; OSError where the disk refuses them."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        while self._first:
            self._append(**self._first[0])
            del self._first[0]
        scalars = [Summary.Value(tag=k, simple_value=v) for k, v in values.items()]
        self._append(step=step, summary=Summary(value=scalars))

    def _append(self, **fields: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = BytesIO()
        RecordWriter(record).write(self._event(wall_time=time.time(), **fields).SerializeToString())
        self._file.append(record.getvalue())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
