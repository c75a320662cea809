"""Durable writes on a local disk: a file is there whole or not at all, even after a crash or a power failure."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

TEMPORARY_PREFIX = ".tmp-"

_CANNOT_SYNC_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def commit_file(path: Path, *, temporary: Path | None = None, durable: bool = True) -> Iterator[IO[bytes]]:
    """Yields a handle to write to; the file appears under its path when the block ends without an error.

    Args:
        path: Final path, in a folder that exists.
        temporary: Path to write to until then, overwritten if a killed writer left it. Only for a single writer.
            Defaults to a unique name.
        durable: Whether to wait for the disk. Without it, a power failure may lose the file; a kill never does.
    """
    temporary = temporary or path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")  # Short, however long the name is.
    try:
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            if durable:
                os.fsync(handle.fileno())
        temporary.replace(path)
        if durable:
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_durably(path: Path, content: bytes) -> None:
    """Writes a small file that has one writer at a time."""
    with commit_file(path, temporary=path.with_name(f"{TEMPORARY_PREFIX}{path.name}")) as handle:
        handle.write(content)


def _sync_folder(folder: Path) -> None:
    """Makes a rename in the folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_FOLDERS:  # Some network file systems have no need of it.
            raise
    finally:
        os.close(descriptor)
