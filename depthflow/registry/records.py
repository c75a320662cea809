"""Where metrics wait on their way to MLflow: in a folder on a disk, or in a bucket."""

import contextlib
import os
from abc import ABC, abstractmethod
from pathlib import Path

from typing_extensions import override

from depthflow.errors import RegistryError, StoreError
from depthflow.storage.files import StoreFiles, open_files
from depthflow.storage.location import is_uri

RECORD = ".json"


class Records(ABC):
    """Texts under names that end in .json.

    Attributes:
        location: the folder or URI.
    """

    location: str

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is such a place: without it there are no records."""

    @abstractmethod
    def make(self) -> None:
        """Makes the place.

        Raises:
            RegistryError: if it cannot be made.
        """

    @abstractmethod
    def names(self) -> list[str]:
        """Of all records, sorted.

        Raises:
            RegistryError: if they cannot be listed.
        """

    @abstractmethod
    def read(self, name: str) -> str:
        """A record's text.

        Raises:
            FileNotFoundError: if it is not there any more.
        """

    @abstractmethod
    def write(self, name: str, text: str) -> None:
        """Keeps a record, which is there, whole and for good, when this returns.

        Raises:
            OSError or StoreError: if it cannot be kept; nothing is left of it.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Removes a record, if it is there."""


def open_records(location: str | Path) -> Records:
    """The records in a folder, or under an s3:// or gs:// URI.

    Raises:
        StoreError: if the URI is of another kind.
    """
    location = str(location)
    return ObjectRecords(open_files(location)) if is_uri(location) else DiskRecords(location)


class DiskRecords(Records):
    """In a folder, which is made once: if its disk goes away, nothing is written where it was mounted."""

    def __init__(self, location: str) -> None:
        self.location, self._folder = location, Path(location)

    @override
    def exists(self) -> bool:
        return self._folder.exists()

    @override
    def make(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RegistryError(
                f"The folder for metrics on their way to MLflow cannot be made: {error}. Check --storage."
            ) from error

    @override
    def names(self) -> list[str]:
        try:
            return sorted(path.name for path in self._folder.iterdir() if path.suffix == RECORD)
        except OSError as error:
            raise RegistryError(
                f"The folder with metrics on their way to MLflow cannot be read: {error}. Check --storage."
            ) from error

    @override
    def read(self, name: str) -> str:
        return (self._folder / name).read_text(encoding="utf-8")

    @override
    def write(self, name: str, text: str) -> None:
        path = self._folder / name
        partial = path.with_suffix(".partial")
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        with contextlib.suppress(OSError):  # Some network file systems cannot: there a name is durable as it is.
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    @override
    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)


class ObjectRecords(Records):
    """Under a prefix of a bucket: one PUT a record, and there are but a few in an epoch."""

    def __init__(self, files: StoreFiles) -> None:
        self.location, self._files = files.root, files

    @override
    def exists(self) -> bool:
        return True

    @override
    def make(self) -> None:
        """A prefix needs no making."""

    @override
    def names(self) -> list[str]:
        try:
            return self._files.names(f"*{RECORD}")
        except StoreError as error:
            raise RegistryError(f"Metrics on their way to MLflow cannot be listed: {error}") from error

    @override
    def read(self, name: str) -> str:
        return self._files.read(name).to_pybytes().decode()

    @override
    def write(self, name: str, text: str) -> None:
        self._files.write(name, text.encode())

    @override
    def remove(self, name: str) -> None:
        self._files.unlink(name)
