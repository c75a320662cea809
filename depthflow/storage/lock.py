"""One writer at a time.

On a disk the lock is an advisory one, which the kernel releases when its holder dies, even by kill -9. An object store
has no such lock. There it is an object made by exclusive create (If-None-Match), which its holder rewrites every few
seconds. Another writer takes over once the object has stayed unchanged for long enough.
"""

import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from depthflow.errors import StoreError
from depthflow.storage.location import reported

LOCK_NAME = ".lock"
_NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
HEARTBEAT_S = 5.0
"""Seconds between two heartbeats of a lock object's holder."""
LEASE_S = 30.0
"""Seconds without a heartbeat after which a lock object's holder counts as dead."""


def try_lock(descriptor: int, path: Path) -> bool:
    """Locks an open file if it is free and still the file at the path; returns whether it did.

    The last holder may have removed or renamed the file since it was opened.
    """
    try:
        locked = lock_descriptor(descriptor, blocking=False)
        return locked and os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


@contextmanager
def _placed(what: str) -> Iterator[None]:
    """Reports that a file or folder cannot be created; the error of a full disk passes unchanged."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        raise StoreError(
            f"{what}: {error.strerror}. Pass a folder that exists or can be made, and that you may write to."
        ) from None


@contextmanager
def disk_lock(path: Path) -> Iterator[None]:
    """Holds a lock file for the block.

    Raises:
        StoreError: if another writer holds it, or the folder cannot be created or written to.
    """
    with _placed(f"{path.parent} cannot be written to"):
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a+")
    with opened as handle:
        if not try_lock(handle.fileno(), path):
            handle.seek(0)
            raise _held_by_another(str(path.parent), handle.read())
        handle.truncate(0)
        handle.write(_holder())
        handle.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def object_lock(
    filesystem: Any, folder: str, root: str, *, heartbeat_s: float = HEARTBEAT_S, lease_s: float = LEASE_S
) -> Iterator[None]:
    """Holds a lock object for the block: .lock-00000 or a higher number, of which the highest counts.

    A writer that finds a lock watches it for one lease, by its own clock. If the lock is rewritten meanwhile, the
    writer gives up; otherwise it creates the next number. If two writers try, one succeeds. A holder that was only
    suspended and lost its lock does no harm when it wakes: it still writes the same shards from the same plan.

    Args:
        filesystem: An fsspec filesystem whose `pipe_file(mode="create")` fails if the object exists.
        folder: Path in the filesystem.
        root: URI of the store, for messages.
        heartbeat_s: Seconds between two heartbeats.
        lease_s: Seconds without a heartbeat after which a holder counts as dead.

    Raises:
        StoreError: if another writer holds it.
    """
    with reported(f"{root} cannot be locked", StoreError, absence_passes=False):
        name = _take_object(filesystem, folder, root, lease_s)
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(filesystem, name, heartbeat_s, stop), daemon=True)
    beating.start()
    try:
        yield
    finally:
        stop.set()
        beating.join()
        for number in range(int(name[-5:]) + 1):
            _remove_if_there(filesystem, f"{folder}/{LOCK_NAME}-{number:05d}")


def _take_object(filesystem: Any, folder: str, root: str, lease_s: float) -> str:
    """Acquires the lock and returns the path of its object."""
    while True:
        held = sorted(filesystem.glob(f"{folder}/{LOCK_NAME}-*"))
        dead = _wait_for_lease(filesystem, held[-1], root, lease_s) if held else None
        if held and dead is None:
            continue  # Released while we watched.
        number = int(held[-1][-5:]) + 1 if held else 0
        name = f"{folder}/{LOCK_NAME}-{number:05d}"
        try:
            filesystem.pipe_file(name, _holder().encode(), mode="create")
        except FileExistsError:
            continue  # Another writer was faster; the next round finds its heartbeat.
        if not held or _read_if_there(filesystem, held[-1]) == dead:
            return name
        _remove_if_there(filesystem, name)  # The holder woke up or released it since the last read.


def _wait_for_lease(filesystem: Any, name: str, root: str, lease_s: float) -> bytes | None:
    """Returns a lock's content if it stays unchanged for a lease, or None if it is gone; raises if it changes."""
    first = _read_if_there(filesystem, name)
    until = time.monotonic() + lease_s
    while first is not None and time.monotonic() < until:
        time.sleep(min(1.0, lease_s / 5))
        now = _read_if_there(filesystem, name)
        if now is None:
            return None
        if now != first:
            raise _held_by_another(root, first.decode())
    return first


def _read_if_there(filesystem: Any, name: str) -> bytes | None:
    try:
        return filesystem.cat_file(name)
    except FileNotFoundError:
        return None


def _beat(filesystem: Any, name: str, every_s: float, stop: threading.Event) -> None:
    """Rewrites the lock until `stop` is set. The next heartbeat makes up for one that fails."""
    while not stop.wait(every_s):
        try:
            filesystem.pipe_file(name, _holder().encode())
        except Exception as error:
            print(f"The lock {name} could not be renewed: {error}", flush=True)


def _remove_if_there(filesystem: Any, name: str) -> None:
    with suppress(FileNotFoundError):
        filesystem.rm_file(name)


def _holder() -> str:
    """Describes this process, differently at every call."""
    return json.dumps(
        {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%FT%T%z"),
            "beat": uuid.uuid4().hex[:8],
        }
    )


def _held_by_another(root: str, holder: str) -> StoreError:
    return StoreError(f"{root} is being written by another process ({holder.strip()}). Wait for it to finish.")
