"""Files of a store, on a disk or on an object store; nothing is ever seen half-written.

On a disk a file is committed by temporary name and rename; on an object store by one PUT, which is all or nothing.
"""

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pyarrow.fs import FileSystem, FSSpecHandler, LocalFileSystem, PyFileSystem
from typing_extensions import override

from depthflow.errors import StoreError
from depthflow.storage.durable import DISK_IS_FULL, TEMPORARY_PREFIX, commit_file
from depthflow.storage.location import is_uri, object_store, reported
from depthflow.storage.lock import LOCK_NAME, disk_lock, object_lock


class StoreFiles(ABC):
    """The files of one store, by their path in it.

    Attributes:
        root: the store's folder or URI.
    """

    root: str

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether the file is committed."""

    @abstractmethod
    def names(self, pattern: str) -> list[str]:
        """Paths of committed files that match a glob, sorted."""

    @abstractmethod
    def open(self, path: str) -> Any:
        """The file for reading, seekable: memory-mapped from a disk, by ranged requests from an object store."""

    @abstractmethod
    def commit(self, path: str, *, durable: bool = True) -> AbstractContextManager[IO[bytes]]:
        """A handle to write to; the file appears under its path, whole, when the block ends without an error.

        Args:
            path: of the file.
            durable: False saves the wait for the disk: then a power failure may lose what a killed process does not.

        Raises:
            StoreError: if the disk is full, or the object store refuses.
        """

    @abstractmethod
    def unlink(self, path: str) -> None:
        """Removes a file, if it is there."""

    @abstractmethod
    def remove(self, folder: str) -> None:
        """Removes a folder of the store with all that it holds, if it is there."""

    @abstractmethod
    def remove_temporaries(self) -> None:
        """Removes what writers that were killed left behind. Only for the holder of the store's lock."""

    @abstractmethod
    def writer_lock(self) -> AbstractContextManager[None]:
        """Holds the store's lock for the block: one writer at a time.

        Raises:
            StoreError: if another writer holds it.
        """

    @abstractmethod
    def arrow(self) -> tuple[FileSystem, str]:
        """The same place as Arrow's readers, and Ray, take it: a file system and the path in it."""

    def read(self, path: str) -> pa.Buffer:
        """The file's bytes."""
        with self.open(path) as handle:
            return handle.read_buffer() if isinstance(handle, pa.NativeFile) else pa.py_buffer(handle.read())

    def write(self, path: str, content: bytes) -> None:
        """Commits a small file."""
        with self.commit(path) as handle:
            handle.write(content)


def open_files(root: str) -> StoreFiles:
    """The files of the store at a folder, s3:// or gs:// URI.

    Raises:
        StoreError: if the URI is of another kind.
    """
    return ObjectFiles(root) if is_uri(root) else DiskFiles(root)


def open_output(root: str) -> StoreFiles:
    """As `open_files`, of a place that results go to: one that can be none is told before the work, not after it.

    Raises:
        StoreError: if the URI is of another kind, or the path is a file, lies in one, or may not be written to.
    """
    files = open_files(root)
    if is_uri(root):
        return files
    place = next(path for path in (Path(files.root), *Path(files.root).parents) if path.exists())
    if not place.is_dir():
        raise StoreError(f"--out must be a folder, and {place} is a file. Pass another folder. Received: {root}")
    if not os.access(place, os.W_OK | os.X_OK):
        raise StoreError(f"--out must be a folder that you may write to, and {place} is none. Received: {root}")
    return files


class DiskFiles(StoreFiles):
    """A store in a folder, on a disk that every node sees under one path."""

    def __init__(self, root: str) -> None:
        self.root = str(Path(root).resolve())

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.root,)

    @override
    def exists(self, path: str) -> bool:
        return (Path(self.root) / path).is_file()

    @override
    def names(self, pattern: str) -> list[str]:
        found = (p.relative_to(self.root) for p in Path(self.root).glob(pattern) if p.is_file())
        return sorted(str(p) for p in found if not p.name.startswith(TEMPORARY_PREFIX))

    @override
    def open(self, path: str) -> pa.NativeFile:
        return pa.memory_map(str(Path(self.root) / path))

    @override
    @contextmanager
    def commit(self, path: str, *, durable: bool = True) -> Iterator[IO[bytes]]:
        target = Path(self.root) / path
        with _told_if_full(f"{target} cannot be written"):
            target.parent.mkdir(parents=True, exist_ok=True)
            with commit_file(target, durable=durable) as handle:
                yield handle

    @override
    def unlink(self, path: str) -> None:
        (Path(self.root) / path).unlink(missing_ok=True)

    @override
    def remove(self, folder: str) -> None:
        shutil.rmtree(Path(self.root) / folder, ignore_errors=True)

    @override
    def remove_temporaries(self) -> None:
        for path in Path(self.root).rglob(f"{TEMPORARY_PREFIX}*"):
            path.unlink(missing_ok=True)

    @override
    def writer_lock(self) -> AbstractContextManager[None]:
        return disk_lock(Path(self.root) / LOCK_NAME)

    @override
    def arrow(self) -> tuple[FileSystem, str]:
        return LocalFileSystem(), self.root


class ObjectFiles(StoreFiles):
    """A store under a prefix of a bucket."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._filesystem, self._path = object_store(root, StoreError)

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.root,)

    @override
    def exists(self, path: str) -> bool:
        with reported(f"{self.root} cannot be read", StoreError):
            return self._filesystem.exists(f"{self._path}/{path}")

    @override
    def names(self, pattern: str) -> list[str]:
        with reported(f"{self.root} cannot be listed", StoreError, absence_passes=False):
            found = self._filesystem.glob(f"{self._path}/{pattern}", detail=True)
        files = (path for path, about in found.items() if about["type"] == "file")
        return sorted(path.removeprefix(f"{self._path}/") for path in files)

    @override
    def open(self, path: str) -> Any:
        with reported(f"{self.root}/{path} cannot be read", StoreError):
            return self._filesystem.open(f"{self._path}/{path}", "rb", cache_type="none")

    @override
    def read(self, path: str) -> pa.Buffer:
        with reported(f"{self.root}/{path} cannot be read", StoreError):
            return super().read(path)

    @override
    @contextmanager
    def commit(self, path: str, *, durable: bool = True) -> Iterator[IO[bytes]]:
        folder = tempfile.gettempdir()
        with _told_if_full(f"{path} cannot be gathered in {folder}"), tempfile.NamedTemporaryFile(dir=folder) as handle:
            yield handle
            handle.flush()
            with reported(f"{self.root}/{path} cannot be written", StoreError, absence_passes=False):
                self._filesystem.put_file(handle.name, f"{self._path}/{path}")

    @override
    def unlink(self, path: str) -> None:
        with suppress(FileNotFoundError), reported(f"{self.root}/{path} cannot be removed", StoreError):
            self._filesystem.rm_file(f"{self._path}/{path}")

    @override
    def remove(self, folder: str) -> None:
        with reported(f"{self.root}/{folder} cannot be removed", StoreError):
            if self._filesystem.exists(f"{self._path}/{folder}"):
                self._filesystem.rm(f"{self._path}/{folder}", recursive=True)

    @override
    def remove_temporaries(self) -> None:
        """There are none: an upload that was cut short is no object."""

    @override
    def writer_lock(self) -> AbstractContextManager[None]:
        return object_lock(self._filesystem, self._path, self.root)

    @override
    def arrow(self) -> tuple[FileSystem, str]:
        return PyFileSystem(FSSpecHandler(self._filesystem)), self._path


@contextmanager
def _told_if_full(what: str) -> Iterator[None]:
    """Tells that a disk is full as a message to the user; any other error passes as it is."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_IS_FULL:
            raise
        raise StoreError(
            f"{what}: {os.strerror(error.errno)}. Free space, or raise the quota, and run the same command again: it "
            "goes on from what is done."
        ) from error
