"""A file that arrives in parts, in any order, and survives kill -9: NAME.part and NAME.part.json."""

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from depthflow.datasets.remote_file import FileVersion
from depthflow.errors import SourceError
from depthflow.storage.durable import write_durably
from depthflow.storage.lock import try_lock

_log = logging.getLogger(__name__)


class PartialFile:
    """NAME.part, and beside it NAME.part.json, which says what of it is safe on the disk.

    Who has it open holds its lock, which the kernel frees when the holder dies, however it dies. Each part has one
    writer; any thread may ask what has arrived.

    Raises:
        SourceError: if another process has it open.
    """

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self.version: FileVersion
        self._target = target
        self._state_path = state_path(target)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        if not try_lock(self._descriptor, self.path):
            os.close(self._descriptor)
            raise SourceError(f"{target} is being fetched by another process. Wait for it to finish.")
        self._part_bytes = 0
        self._received: list[int] = []  # Bytes of each part, from its start without a gap.
        self._safe: list[int] = []  # Parts that the state file names.
        self._whole = 0  # Parts from the first one on that are complete.

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if os.fstat(self._descriptor).st_size == 0:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def begin(self, version: FileVersion, part_bytes: int) -> None:
        """Keeps the finished parts of an earlier run, if they are of the same version of the file."""
        self.version = version
        self._part_bytes = part_bytes if version.ranges else version.size_bytes
        self._received = [0] * -(-version.size_bytes // self._part_bytes)
        self._safe = self._finished_before()
        for part in self._safe:
            first, stop = self.extent(part)
            self._received[part] = stop - first
        if not self._safe:
            os.ftruncate(self._descriptor, 0)

    def extent(self, part: int) -> tuple[int, int]:
        """The part's first byte, and the first one after it."""
        first = part * self._part_bytes
        return first, min(first + self._part_bytes, self.version.size_bytes)

    def missing(self) -> list[int]:
        """The parts that are not complete, in order."""
        return [part for part in range(len(self._received)) if not self._is_complete(part)]

    def next_byte(self, part: int) -> int:
        """Where the part's arrival stands."""
        return part * self._part_bytes + self._received[part]

    def done_bytes(self) -> int:
        """All that has arrived."""
        return sum(self._received)

    def prefix_bytes(self) -> int:
        """What has arrived from the start without a gap. For one thread to ask: it remembers how far it came."""
        while self._whole < len(self._received) and self._is_complete(self._whole):
            self._whole += 1
        return self.next_byte(self._whole) if self._whole < len(self._received) else self.version.size_bytes

    def occupied_bytes(self) -> int:
        """Disk space that it takes already, gaps not counted."""
        return 512 * os.fstat(self._descriptor).st_blocks

    def append(self, part: int, chunk: bytes) -> None:
        """Writes the next bytes of a part."""
        left = memoryview(chunk)
        while left:
            written = os.pwrite(self._descriptor, left, self.next_byte(part))
            self._received[part] += written
            left = left[written:]

    def read(self, first: int, length: int) -> bytes:
        """Reads back what has been written."""
        return os.pread(self._descriptor, length, first)

    def commit(self) -> None:
        """Makes the complete parts safe, and only then names them in the state file."""
        complete = [part for part in range(len(self._received)) if self._is_complete(part)]
        if complete != self._safe:
            os.fsync(self._descriptor)
            write_durably(self._state_path, json.dumps({**self._plan(), "finished": complete}).encode())
            self._safe = complete

    def publish(self) -> None:
        """Gives the whole file its name. The state goes last: without it a whole file would count as nothing."""
        self.commit()
        self.path.rename(self._target)
        self._state_path.unlink()

    def discard(self) -> None:
        """Removes everything, so that the next run starts anew."""
        self._state_path.unlink(missing_ok=True)
        self.path.unlink()

    def _is_complete(self, part: int) -> bool:
        first, stop = self.extent(part)
        return self._received[part] == stop - first

    def _plan(self) -> dict[str, Any]:
        return {**asdict(self.version), "part_bytes": self._part_bytes}

    def _finished_before(self) -> list[int]:
        try:
            state = json.loads(self._state_path.read_text())
            finished = state.pop("finished")
        except (FileNotFoundError, ValueError):
            return []
        if state != self._plan():
            _log.warning("%s was begun with another version of the file: starting anew.", self.path)
            return []
        # The state may have outlived its file: deleted by hand, or renamed by a run that was killed just then.
        size = os.fstat(self._descriptor).st_size
        return finished if finished and self.extent(max(finished))[1] <= size else []


def state_path(target: Path) -> Path:
    """Where the state of a file that is being fetched lies."""
    return target.with_name(f"{target.name}.part.json")
