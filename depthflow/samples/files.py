"""Files of a store: on a disk, committed by temporary name and rename; nothing is ever seen half-written."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa

from depthflow.errors import StoreError

TEMPORARY_PREFIX = ".tmp-"


class StoreFiles:
    """The files of one store, by their path in it.

    Args:
        root: the store's folder.

    Raises:
        StoreError: if the root is a URI of a kind that is not supported.
    """

    def __init__(self, root: str) -> None:
        if "://" in root:
            raise StoreError(f"A store is a folder that every node sees under one path. Received: {root}")
        self.root = str(Path(root).resolve())

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.root,)

    def exists(self, path: str) -> bool:
        """Whether the file is committed."""
        return (Path(self.root) / path).is_file()

    def names(self, pattern: str) -> list[str]:
        """Paths of committed files that match a glob, sorted."""
        found = (p.relative_to(self.root) for p in Path(self.root).glob(pattern) if p.is_file())
        return sorted(str(p) for p in found if not p.name.startswith(TEMPORARY_PREFIX))

    def open(self, path: str) -> pa.NativeFile:
        """The file for reading, memory-mapped."""
        return pa.memory_map(str(Path(self.root) / path))

    def read(self, path: str) -> pa.Buffer:
        """The file's bytes, memory-mapped."""
        return self.open(path).read_buffer()

    @contextmanager
    def commit(self, path: str) -> Iterator[IO[bytes]]:
        """A handle to write to; the file appears under its path, whole, when the block ends without an error."""
        target = Path(self.root) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{TEMPORARY_PREFIX}{target.name}-{uuid.uuid4().hex[:8]}")
        try:
            with temporary.open("xb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            temporary.rename(target)
            _sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def write(self, path: str, content: bytes) -> None:
        """Commits a small file."""
        with self.commit(path) as handle:
            handle.write(content)

    def remove_temporaries(self) -> None:
        """Removes what writers that were killed left behind. Only for the holder of the store's lock."""
        for path in Path(self.root).rglob(f"{TEMPORARY_PREFIX}*"):
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes a rename in the folder outlast a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
