"""Where a job's checkpoints are kept: on a disk that all nodes share, or in a bucket with a local working folder."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from typing_extensions import override

from depthflow.errors import LockLostError, StoreError, TrainingError
from depthflow.storage.files import StoreFiles, open_files
from depthflow.storage.location import is_uri, reported
from depthflow.storage.lock import WriterLock
from depthflow.training.checkpoint import MANIFEST_FILE, checkpoints, latest_whole

ARRAYS = "*.npz"
CHUNK_BYTES = 64 * 2**20


class KeptCheckpoints:
    """The checkpoints of one job in a folder that all nodes share. One process writes at a time.

    Args:
        folder: Folder that the functions of checkpoint.py work on.
        lock: The job's lock.
    """

    def __init__(self, folder: Path, lock: WriterLock | None = None) -> None:
        self.folder, self._lock = folder, lock

    def check_lock(self) -> None:
        """Raises LockLostError if another process has taken over the job."""
        if self._lock:
            self._lock.check()

    def refresh(self) -> None:
        """Brings the manifests in the folder up to date with the job's storage.

        Raises:
            StoreError: if the checkpoints cannot be listed.
        """

    def fetch(self, name: str) -> Path:
        """Makes sure that a checkpoint's arrays are in the folder, and returns its path.

        Raises:
            StoreError: if they cannot be read.
        """
        return self.folder / name

    def publish(self) -> None:
        """Makes the job's storage hold what the folder holds, and removes what was removed from the folder.

        Raises:
            TrainingError: if a checkpoint cannot be stored.
        """

    def latest(self) -> Path | None:
        """Returns the latest undamaged checkpoint, fetched, or None. Damaged ones are set aside."""
        self.refresh()
        found = latest_whole(self.folder, fetch=self.fetch)
        self.publish()
        return found


@contextmanager
def open_checkpoints(location: str, lock: WriterLock | None = None) -> Iterator[KeptCheckpoints]:
    """Opens the checkpoints in a folder, or under an s3:// or gs:// URI, for the block.

    Args:
        lock: The job's lock.

    Raises:
        StoreError: if the URI is of another kind.
    """
    if not is_uri(location):
        yield KeptCheckpoints(Path(location), lock)
        return
    with TemporaryDirectory(prefix="depthflow-checkpoints-", ignore_cleanup_errors=True) as scratch:
        yield BucketCheckpoints(open_files(location, lock), Path(scratch))


class BucketCheckpoints(KeptCheckpoints):
    """Checkpoints under a prefix of a bucket.

    The arrays are uploaded first and the manifest, without which a checkpoint does not count, last. The local folder
    holds every manifest, and the arrays of only those checkpoints that are being written or were fetched.

    Args:
        files: The prefix.
        scratch: Empty folder that no other process uses.
    """

    def __init__(self, files: StoreFiles, scratch: Path) -> None:
        super().__init__(scratch, files.lock)
        self._files = files
        self._published: dict[str, bytes] = {}  # Name to manifest, which is empty for what a killed writer left.
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
            local = {checkpoint.name: checkpoint for checkpoint in checkpoints(self.folder)}
            for name, checkpoint in local.items():
                manifest = (checkpoint / MANIFEST_FILE).read_bytes()
                if self._published.get(name) != manifest:
                    self._upload(checkpoint, manifest)
            for name in self._published.keys() - local.keys():
                self._files.unlink(f"{name}/{MANIFEST_FILE}")  # First: from here on the checkpoint does not count.
                self._files.remove(name)
                self._fetched.discard(name)
                del self._published[name]
        except LockLostError:
            raise
        except (StoreError, OSError) as error:
            raise TrainingError(
                f"The checkpoints in {self._files.root} cannot be kept: {error} Then run the same command with "
                "--resume: it goes on from the latest."
            ) from error

    def _upload(self, checkpoint: Path, manifest: bytes) -> None:
        """Uploads a checkpoint, or only its manifest if the arrays are in the bucket already."""
        name = checkpoint.name
        arrays = [] if name in self._fetched else sorted(checkpoint.glob(ARRAYS))
        if arrays:
            self._files.unlink(f"{name}/{MANIFEST_FILE}")  # An earlier manifest must not vouch for new arrays.
        for path in arrays:
            with path.open("rb") as source, self._files.commit(f"{name}/{path.name}") as target:
                shutil.copyfileobj(source, target, CHUNK_BYTES)
        self._files.write(f"{name}/{MANIFEST_FILE}", manifest)
        self._published[name] = manifest
        for path in arrays:
            path.unlink()
