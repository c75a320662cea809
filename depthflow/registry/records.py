"""Stores metrics on their way to MLflow: one file or object per record."""

from pathlib import Path

from depthflow.errors import RegistryError, StoreError
from depthflow.storage.durable import write_durably
from depthflow.storage.files import open_files
from depthflow.storage.location import is_uri

RECORD = ".json"


class Records:
    """Texts under names that end in .json, in a folder or under an s3:// or gs:// URI.

    Args:
        location: Folder or URI. A folder is created by `make` and never again: if its disk is unmounted, nothing is
            written to the mount point.

    Raises:
        StoreError: if the URI is of another kind.
    """

    def __init__(self, location: str | Path) -> None:
        self.location = str(location)
        self._files = open_files(self.location)
        self._folder = None if is_uri(self.location) else Path(self._files.root)

    def exists(self) -> bool:
        """Whether the location exists. A bucket's prefix always does."""
        return self._folder is None or self._folder.exists()

    def make(self) -> None:
        """Creates the folder; a prefix needs no creation.

        Raises:
            RegistryError: if it cannot be created.
        """
        try:
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RegistryError(
                f"The folder for metrics on their way to MLflow cannot be made: {error}. Check --storage."
            ) from error

    def names(self) -> list[str]:
        """Returns the names of all records, sorted.

        Raises:
            RegistryError: if they cannot be listed.
        """
        try:
            if self._folder is not None:
                self._folder.stat()  # A folder that is gone is an error, not an empty one.
            return self._files.names(f"*{RECORD}")
        except (OSError, StoreError) as error:
            raise RegistryError(
                f"Metrics on their way to MLflow cannot be listed: {error}. Check --storage."
            ) from error

    def read(self, name: str) -> str:
        """Returns a record's text.

        Raises:
            FileNotFoundError: if the record is no longer there.
        """
        return self._files.read(name).to_pybytes().decode()

    def write(self, name: str, text: str) -> None:
        """Writes a record, which is durable when this returns.

        Raises:
            OSError or StoreError: if it cannot be written; no part of it remains.
        """
        if self._folder is None:
            self._files.write(name, text.encode())
        else:
            write_durably(self._folder / name, text.encode())

    def remove(self, name: str) -> None:
        """Removes a record, if it is there."""
        self._files.unlink(name)
