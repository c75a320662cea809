"""Files under a root, on a disk or an object store. A file is visible only once it is complete."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pyarrow.fs import FileSystem, FSSpecHandler, LocalFileSystem, PyFileSystem
from typing_extensions import override

from depthflow.errors import DISK_IS_FULL, FREE_SPACE, StoreError
from depthflow.storage.durable import TEMPORARY_PREFIX, commit_file
from depthflow.storage.location import is_uri, object_store, reported
from depthflow.storage.lock import LOCK_NAME, WriterLock, disk_lock, object_lock


def open_files(root: str, lock: WriterLock | None = None) -> "StoreFiles":
    """Returns the files under a folder, s3:// or gs:// URI.

    Args:
        lock: Checked before every change.

    Raises:
        StoreError: if the URI is of another kind.
    """
    return StoreFiles(root, lock) if is_uri(root) else DiskFiles(root, lock)


def open_output(root: str) -> "StoreFiles":
    """Returns the files under an output location, after checking that it can be written to.

    Raises:
        StoreError: if the URI is of another kind, or the path is a file, lies below one, or is not writable.
    """
    files = open_files(root)
    if is_uri(root):
        return files
    place = next(path for path in (Path(files.root), *Path(files.root).parents) if path.exists())
    if not place.is_dir():
        raise StoreError(f"--out must be a folder, and {place} is a file. Pass another folder. Received: {root}")
    if not os.access(place, os.W_OK | os.X_OK):
        raise StoreError(f"--out must be a folder that you may write to, and {place} is not. Received: {root}")
    return files


class StoreFiles:
    """Files under a prefix of a bucket, through fsspec. Paths are relative to the root.

    Args:
        root: s3:// or gs:// URI.
        lock: Checked before every change: a process that lost it raises LockLostError and changes nothing.
    """

    def __init__(self, root: str, lock: WriterLock | None = None) -> None:
        self.root, self.lock = root.rstrip("/"), lock
        self._filesystem, self._path = object_store(root, StoreError)

    def __reduce__(self) -> tuple[type, tuple[str, WriterLock | None]]:
        return type(self), (self.root, self.lock)

    def _check_lock(self) -> None:
        if self.lock:
            self.lock.check()

    def exists(self, path: str) -> bool:
        """Whether the file is committed."""
        with reported(f"{self.root} cannot be read", StoreError):
            return self._filesystem.exists(f"{self._path}/{path}")

    def names(self, pattern: str) -> list[str]:
        """Returns the paths of committed files that match a glob, sorted."""
        with reported(f"{self.root} cannot be listed", StoreError, absence_passes=False):
            found = self._filesystem.glob(f"{self._path}/{pattern}", detail=True)
        files = (path for path, about in found.items() if about["type"] == "file")
        return sorted(path.removeprefix(f"{self._path}/") for path in files)

    def open(self, path: str) -> Any:
        """Opens a file for seekable reading: by ranged requests from a bucket, memory-mapped from a disk."""
        with reported(f"{self.root}/{path} cannot be read", StoreError):
            return self._filesystem.open(f"{self._path}/{path}", "rb", cache_type="none")

    def read(self, path: str) -> pa.Buffer:
        """Returns the file's bytes."""
        with reported(f"{self.root}/{path} cannot be read", StoreError), self.open(path) as handle:
            return pa.py_buffer(handle.read())

    @contextmanager
    def commit(self, path: str, *, durable: bool = True) -> Iterator[IO[bytes]]:
        """Yields a handle to write to; the file appears under its path when the block ends without an error.

        Args:
            path: Path of the file.
            durable: Whether to wait for the disk. Without it, a power failure may lose the file; a kill never does.

        Raises:
            StoreError: if the disk is full, or the object store denies the write.
        """
        folder = tempfile.gettempdir()
        with (
            _full_disk_reported(f"{path} cannot be gathered in {folder}"),
            tempfile.NamedTemporaryFile(dir=folder) as handle,
        ):
            yield handle
            handle.flush()
            with reported(f"{self.root}/{path} cannot be written", StoreError, absence_passes=False):
                self._check_lock()
                self._filesystem.put_file(handle.name, f"{self._path}/{path}")

    def write(self, path: str, content: bytes) -> None:
        """Commits a small file."""
        with self.commit(path) as handle:
            handle.write(content)

    def unlink(self, path: str) -> None:
        """Removes a file, if it is there."""
        self._check_lock()
        with suppress(FileNotFoundError), reported(f"{self.root}/{path} cannot be removed", StoreError):
            self._filesystem.rm_file(f"{self._path}/{path}")

    def remove(self, folder: str) -> None:
        """Removes a folder and everything in it, if it is there."""
        self._check_lock()
        with reported(f"{self.root}/{folder} cannot be removed", StoreError):
            if self._filesystem.exists(f"{self._path}/{folder}"):
                self._filesystem.rm(f"{self._path}/{folder}", recursive=True)

    def remove_temporaries(self) -> None:
        """Removes what killed writers left: on a disk only, since an interrupted upload leaves no object.

        Only the holder of the store's lock may call it.
        """

    @contextmanager
    def writer_lock(self) -> "Iterator[StoreFiles]":
        """Holds the store's lock for the block, so that one process writes at a time, and yields files that check it.

        Raises:
            StoreError: if another writer holds it.
        """
        with object_lock(self._filesystem, self._path, self.root) as lock:
            yield StoreFiles(self.root, lock)

    def arrow(self) -> tuple[FileSystem, str]:
        """Returns the root as Arrow and Ray take it: a file system and a path in it."""
        return PyFileSystem(FSSpecHandler(self._filesystem)), self._path


class DiskFiles(StoreFiles):
    """Files in a folder, on a disk that every node mounts at the same path.

    It does what fsspec's local file system does not: commits by rename, maps files into memory, and locks.
    """

    def __init__(self, root: str, lock: WriterLock | None = None) -> None:
        self.root, self.lock = str(Path(root).resolve()), lock

    @override
    def exists(self, path: str) -> bool:
        return (Path(self.root) / path).is_file()

    @override
    def names(self, pattern: str) -> list[str]:
        found = (p.relative_to(self.root) for p in Path(self.root).glob(pattern) if p.is_file())
        return sorted(str(p) for p in found if not p.name.startswith(TEMPORARY_PREFIX))

    @override
    def open(self, path: str) -> pa.NativeFile:
        return pa.memory_map(os.fsencode(Path(self.root) / path))  # Arrow encodes strings as UTF-8 only.

    @override
    def read(self, path: str) -> pa.Buffer:
        with self.open(path) as handle:
            return handle.read_buffer()

    @override
    @contextmanager
    def commit(self, path: str, *, durable: bool = True) -> Iterator[IO[bytes]]:
        target = Path(self.root) / path
        with _full_disk_reported(f"{target} cannot be written"):
            target.parent.mkdir(parents=True, exist_ok=True)
            with commit_file(target, durable=durable) as handle:
                yield handle
                self._check_lock()

    @override
    def unlink(self, path: str) -> None:
        self._check_lock()
        (Path(self.root) / path).unlink(missing_ok=True)

    @override
    def remove(self, folder: str) -> None:
        self._check_lock()
        shutil.rmtree(Path(self.root) / folder, ignore_errors=True)

    @override
    def remove_temporaries(self) -> None:
        for path in Path(self.root).rglob(f"{TEMPORARY_PREFIX}*"):
            path.unlink(missing_ok=True)

    @override
    @contextmanager
    def writer_lock(self) -> Iterator[StoreFiles]:
        with disk_lock(Path(self.root) / LOCK_NAME) as lock:
            yield DiskFiles(self.root, lock)

    @override
    def arrow(self) -> tuple[FileSystem, str]:
        return LocalFileSystem(), self.root


@contextmanager
def _full_disk_reported(what: str) -> Iterator[None]:
    """Turns the error of a full disk into a message for the user; any other error passes unchanged."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_IS_FULL:
            raise
        raise StoreError(f"{what}: {os.strerror(error.errno)}. {FREE_SPACE}: it goes on from what is done.") from error
