"""One writer at a time: a lock file made by exclusive create."""

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

    A lock left by a process of this host that no longer runs is taken over; another host's cannot be judged.

    Raises:
        StoreError: if another writer holds it.
    """
    path = Path(root) / LOCK_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _try_create(path):
        _remove_if_dead(path)
        if not _try_create(path):
            raise StoreError(
                f"{root} is being written by another process ({path.read_text().strip()}). "
                f"Wait for it, or, if it is surely dead, delete {path}."
            )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _try_create(path: Path) -> bool:
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    try:
        with path.open("x") as handle:
            json.dump(holder, handle)
    except FileExistsError:
        return False
    return True


def _remove_if_dead(path: Path) -> None:
    try:
        holder = json.loads(path.read_text())
        alive = holder["host"] != socket.gethostname() or _is_running(holder["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if not alive:
        path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
