"""Where a job's checkpoints are kept: on a disk that all nodes see, or in a bucket, beside a folder of each process.

Either way `folder` is what the functions of checkpoint.py work on. Of a bucket it has the manifests of all checkpoints
that count, and the arrays of those that are being written or were fetched.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from typing_extensions import override

from depthflow.errors import StoreError, TrainingError
from depthflow.storage.files import StoreFiles, open_files
from depthflow.storage.location import is_uri, reported
from depthflow.training.checkpoint import MANIFEST_FILE, checkpoints, latest_whole

ARRAYS = "*.npz"
CHUNK_BYTES = 64 * 2**20


class KeptCheckpoints(ABC):
    """The checkpoints of one job; one process at a time writes.

    Attributes:
        folder: on a disk of this node.
    """

    folder: Path

    @abstractmethod
    def refresh(self) -> None:
        """Has the folder show which checkpoints count, and their figures.

        Raises:
            StoreError: if they cannot be listed.
        """

    @abstractmethod
    def fetch(self, name: str) -> Path:
        """A checkpoint with its arrays, in the folder.

        Raises:
            StoreError: if they cannot be read.
        """

    @abstractmethod
    def publish(self) -> None:
        """Keeps what the folder has come to hold, and lets go of what was removed from it.

        Raises:
            TrainingError: if it cannot be kept.
        """

    def latest(self) -> Path | None:
        """The latest checkpoint whose files are all whole, fetched; or None. Damaged ones count no more."""
        self.refresh()
        found = latest_whole(self.folder, fetch=self.fetch)
        self.publish()
        return found


@contextmanager
def open_checkpoints(location: str) -> Iterator[KeptCheckpoints]:
    """The checkpoints in a folder, or under an s3:// or gs:// URI, for the block.

    Raises:
        StoreError: if the URI is of another kind.
    """
    if not is_uri(location):
        yield DiskCheckpoints(Path(location))
        return
    with TemporaryDirectory(prefix="depthflow-checkpoints-", ignore_cleanup_errors=True) as scratch:
        yield BucketCheckpoints(open_files(location), Path(scratch))


class DiskCheckpoints(KeptCheckpoints):
    """In the folder, which all nodes see: what is in it is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @override
    def refresh(self) -> None:
        """It is as it is."""

    @override
    def fetch(self, name: str) -> Path:
        return self.folder / name

    @override
    def publish(self) -> None:
        """It is there."""


class BucketCheckpoints(KeptCheckpoints):
    """Under a prefix of a bucket: arrays first, and the manifest, without which they do not count, last.

    Args:
        files: the prefix.
        scratch: an empty folder of this process's own.
    """

    def __init__(self, files: StoreFiles, scratch: Path) -> None:
        self.folder, self._files = scratch, files
        self._published: dict[str, bytes] = {}  # Name to manifest; without one, what a killed writer left.
        self._fetched: set[str] = set()

    @override
    def refresh(self) -> None:
        paths = self._files.names("step-*/*")
        self._published = {path.partition("/")[0]: b"" for path in paths}
        for name in self._published:
            if f"{name}/{MANIFEST_FILE}" in paths:
                manifest = self._files.read(f"{name}/{MANIFEST_FILE}").to_pybytes()
                self._published[name] = manifest
                (self.folder / name).mkdir(exist_ok=True)
                (self.folder / name / MANIFEST_FILE).write_bytes(manifest)

    @override
    def fetch(self, name: str) -> Path:
        checkpoint = self.folder / name
        if name in self._fetched:
            return checkpoint
        checkpoint.mkdir(exist_ok=True)
        for path in self._files.names(f"{name}/*"):
            with (
                reported(f"{self._files.root}/{path} cannot be read", StoreError, absence_passes=False),
                self._files.open(path) as source,
                (self.folder / path).open("wb") as target,
            ):
                shutil.copyfileobj(source, target, CHUNK_BYTES)
        self._fetched.add(name)
        return checkpoint

    @override
    def publish(self) -> None:
        try:
            there = {checkpoint.name: checkpoint for checkpoint in checkpoints(self.folder)}
            for name, checkpoint in there.items():
                manifest = (checkpoint / MANIFEST_FILE).read_bytes()
                if self._published.get(name) != manifest:
                    self._upload(checkpoint, manifest)
            for name in self._published.keys() - there.keys():
                self._files.unlink(f"{name}/{MANIFEST_FILE}")  # First: from here on it does not count.
                self._files.remove(name)
                self._fetched.discard(name)
                del self._published[name]
        except (StoreError, OSError) as error:
            raise TrainingError(
                f"The checkpoints in {self._files.root} cannot be kept: {error} Then run the same command with "
                "--resume: it goes on from the latest."
            ) from error

    def _upload(self, checkpoint: Path, manifest: bytes) -> None:
        """Of one that was annotated alone, the arrays are there already."""
        name = checkpoint.name
        arrays = [] if name in self._fetched else sorted(checkpoint.glob(ARRAYS))
        if arrays:
            self._files.unlink(f"{name}/{MANIFEST_FILE}")  # Of an earlier one of the name: it must not vouch for these.
        for path in arrays:
            with path.open("rb") as source, self._files.commit(f"{name}/{path.name}") as target:
                shutil.copyfileobj(source, target, CHUNK_BYTES)
        self._files.write(f"{name}/{MANIFEST_FILE}", manifest)
        self._published[name] = manifest
        for path in arrays:
            path.unlink()
