"""One writer at a time.

On a disk the lock is an advisory one, which the kernel releases when its holder dies, even by kill -9. An object store
has no such lock. There it is an object made by exclusive create (If-None-Match), which its holder rewrites every few
seconds. Another writer takes over once the object has stayed unchanged for long enough.

A holder that was only suspended has then lost its lock, and its other processes may still be at work. So all of them
check a `WriterLock` before each write.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import lock_descriptor
from fsspec.implementations.local import LocalFileSystem

from depthflow.errors import LockLostError, StoreError
from depthflow.storage.location import reported

LOCK_NAME = ".lock"
_NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
HEARTBEAT_S = 5.0
"""Seconds between two heartbeats of a lock object's holder."""
LEASE_S = 30.0
"""Seconds without a heartbeat after which a lock object's holder counts as dead."""


@dataclass(frozen=True, kw_only=True)
class WriterLock:
    """A lock as its holder has it. Processes that write for the holder get a copy, by pickling.

    Attributes:
        filesystem: fsspec filesystem of the folder.
        folder: Path in the filesystem.
        root: The folder as messages name it.
        token: Text that no other holder writes into its lock.
    """

    filesystem: Any
    folder: str
    root: str
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def check(self) -> None:
        """Checks that nobody has taken the lock over.

        Raises:
            LockLostError: if somebody has, or the lock was removed.
            StoreError: if it cannot be read.
        """
        with reported(f"{self.root} cannot be read", StoreError):
            newest = _lock_paths(self.filesystem, self.folder)[-1:]
            holder = (_read_if_there(self.filesystem, newest[0]) if newest else None) or b""
        if self.token.encode() not in holder:
            taken = f"another process took it over ({holder.decode(errors='replace').strip()})"
            raise LockLostError(
                f"This process no longer holds the lock of {self.root}: {taken if holder else 'it was removed'}. It "
                "stops, and changes nothing more there."
            )

    def record(self) -> str:
        """Describes this process, differently at every call."""
        return json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "since": time.strftime("%FT%T%z"),
                "token": self.token,
                "beat": uuid.uuid4().hex[:8],
            }
        )


def _lock_paths(filesystem: Any, folder: str) -> list[str]:
    """Returns the paths of a folder's locks, of which the last one counts."""
    try:
        paths = filesystem.ls(folder, detail=False)
    except FileNotFoundError:
        return []
    return sorted(path for path in paths if path.rpartition("/")[2].startswith(LOCK_NAME))


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
def disk_lock(path: Path) -> Iterator[WriterLock]:
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
        lock = WriterLock(filesystem=LocalFileSystem(), folder=str(path.parent), root=str(path.parent))
        handle.truncate(0)
        handle.write(lock.record())
        handle.flush()
        os.fsync(handle.fileno())  # Other nodes read it, over a network file system.
        try:
            yield lock
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def object_lock(
    filesystem: Any, folder: str, root: str, *, heartbeat_s: float = HEARTBEAT_S, lease_s: float = LEASE_S
) -> Iterator[WriterLock]:
    """Holds a lock object for the block: .lock-00000 or a higher number, of which the highest counts.

    A writer that finds a lock watches it for one lease, by its own clock. If the lock is rewritten meanwhile, the
    writer gives up; otherwise it creates the next number. If two writers try, one succeeds.

    Args:
        filesystem: An fsspec filesystem whose `pipe_file(mode="create")` fails if the object exists.
        folder: Path in the filesystem.
        root: URI of the store, for messages.
        heartbeat_s: Seconds between two heartbeats.
        lease_s: Seconds without a heartbeat after which a holder counts as dead.

    Raises:
        StoreError: if another writer holds it.
    """
    lock, stop = WriterLock(filesystem=filesystem, folder=folder, root=root), threading.Event()
    with reported(f"{root} cannot be locked", StoreError, absence_passes=False):
        name = _take_object(lock, lease_s)
    beating = threading.Thread(
        target=_beat, args=(lock, name, heartbeat_s, stop), name=f"heartbeat of {name}", daemon=True
    )
    beating.start()
    try:
        yield lock
    finally:
        stop.set()
        beating.join()
        with suppress(StoreError):
            lock.check()  # Another holder's lock may have the same name by now.
            for number in range(int(name[-5:]) + 1):
                _remove_if_there(filesystem, f"{folder}/{LOCK_NAME}-{number:05d}")


def _take_object(lock: WriterLock, lease_s: float) -> str:
    """Acquires the lock and returns the path of its object."""
    filesystem = lock.filesystem
    while True:
        held = _lock_paths(filesystem, lock.folder)
        dead = _wait_for_lease(filesystem, held[-1], lock.root, lease_s) if held else None
        if held and dead is None:
            continue  # Released while we watched.
        number = int(held[-1][-5:]) + 1 if held else 0
        name = f"{lock.folder}/{LOCK_NAME}-{number:05d}"
        try:
            filesystem.pipe_file(name, lock.record().encode(), mode="create")
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


def _beat(lock: WriterLock, name: str, every_s: float, stop: threading.Event) -> None:
    """Rewrites the lock until `stop` is set or it is lost. The next heartbeat makes up for one that fails."""
    while not stop.wait(every_s):
        try:
            lock.check()
            lock.filesystem.pipe_file(name, lock.record().encode())
        except LockLostError:
            return
        except Exception as error:
            print(f"The lock {name} could not be renewed: {error}", flush=True)


def _remove_if_there(filesystem: Any, name: str) -> None:
    with suppress(FileNotFoundError):
        filesystem.rm_file(name)


def _held_by_another(root: str, holder: str) -> StoreError:
    return StoreError(f"{root} is being written by another process ({holder.strip()}). Wait for it to finish.")
