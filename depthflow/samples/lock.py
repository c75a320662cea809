"""One writer at a time: an advisory lock that the kernel frees when its holder dies, however it dies."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from depthflow.errors import StoreError

LOCK_NAME = ".lock"


@contextmanager
def writer_lock(root: str) -> Iterator[None]:
    """Holds the store's lock for the block.

    Raises:
        StoreError: if another writer holds it.
    """
    path = Path(root) / LOCK_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        if not _try_lock(handle.fileno(), path):
            handle.seek(0)
            raise StoreError(
                f"{root} is being written by another process ({handle.read().strip()}). Wait for it to finish."
            )
        handle.truncate(0)
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%FT%T%z")}, handle)
        handle.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _try_lock(descriptor: int, path: Path) -> bool:
    """Takes the lock if it is free and if the file is still the one at the path: its last holder removes it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False
