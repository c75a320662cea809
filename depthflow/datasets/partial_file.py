"""A partially downloaded file, NAME.part and NAME.part.json, whose parts arrive in any order and survive kill -9."""

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
    """NAME.part, and NAME.part.json, which lists the parts that are safe on the disk.

    An open file is locked; the kernel releases the lock when its holder dies. Each part has one writer, and any thread
    may ask what has arrived.

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
        self._received: list[int] = []  # Contiguous bytes of each part, from its start.
        self._safe: list[int] = []  # Parts listed in the state file.
        self._whole = 0  # Number of complete parts from the start without a gap.

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if os.fstat(self._descriptor).st_size == 0:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def begin(self, version: FileVersion, part_bytes: int) -> None:
        """Keeps the finished parts of an earlier run if the file's version is unchanged."""
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
        """Returns the offsets of a part's first byte and of the first byte after it."""
        first = part * self._part_bytes
        return first, min(first + self._part_bytes, self.version.size_bytes)

    def missing(self) -> list[int]:
        """Returns the incomplete parts, in order."""
        return [part for part in range(len(self._received)) if not self._is_complete(part)]

    def next_byte(self, part: int) -> int:
        """Returns the offset of the next byte that the part needs."""
        return part * self._part_bytes + self._received[part]

    def done_bytes(self) -> int:
        """Returns the number of bytes received."""
        return sum(self._received)

    def prefix_bytes(self) -> int:
        """Returns the number of bytes received from the start without a gap. Only for a single calling thread."""
        while self._whole < len(self._received) and self._is_complete(self._whole):
            self._whole += 1
        return self.next_byte(self._whole) if self._whole < len(self._received) else self.version.size_bytes

    def occupied_bytes(self) -> int:
        """Returns the disk space in use, without gaps."""
        return 512 * os.fstat(self._descriptor).st_blocks

    def append(self, part: int, chunk: bytes) -> None:
        """Writes the next bytes of a part."""
        left = memoryview(chunk)
        while left:
            written = os.pwrite(self._descriptor, left, self.next_byte(part))
            self._received[part] += written
            left = left[written:]

    def read(self, first: int, length: int) -> bytes:
        """Reads back bytes that were written."""
        return os.pread(self._descriptor, length, first)

    def commit(self) -> None:
        """Syncs the complete parts to disk, and only then lists them in the state file."""
        complete = [part for part in range(len(self._received)) if self._is_complete(part)]
        if complete != self._safe:
            os.fsync(self._descriptor)
            write_durably(self._state_path, json.dumps({**self._plan(), "finished": complete}).encode())
            self._safe = complete

    def publish(self) -> None:
        """Renames the complete file, then removes the state file, without which the parts would not count."""
        self.commit()
        self.path.rename(self._target)
        self._state_path.unlink()

    def discard(self) -> None:
        """Removes everything, so that the next run starts over."""
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
            _log.warning("%s was begun with another version of the file: starting over.", self.path)
            return []
        # The state may outlive the file, if that was deleted by hand or renamed by a run that was then killed.
        size = os.fstat(self._descriptor).st_size
        return finished if finished and self.extent(max(finished))[1] <= size else []


def state_path(target: Path) -> Path:
    """Returns the path of a partial file's state."""
    return target.with_name(f"{target.name}.part.json")
