"""Resumable parallel download of DIODE's official archives over HTTP, verified by MD5."""

import hashlib
import shutil
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path

from depthflow.datasets.partial_file import PartialFile, state_path
from depthflow.datasets.remote_file import Patience, RemoteFile
from depthflow.errors import SourceError
from depthflow.storage.durable import write_durably

MD5_OF_SPLIT = {"train": "3a94632398fe1d002d89f11743f748b1", "val": "5c895d09201b88973c8fe4552a67dd85"}
"""MD5 of the official train.tar.gz and val.tar.gz: https://diode-dataset.org."""

PATIENCE = Patience()
PART_BYTES = 16 * 2**20
HASH_BLOCK_BYTES = 2**20
TICK_S = 0.2
"""Seconds between two reports of progress, syncs of finished parts, and checks for new bytes to hash."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A complete archive on the disk, whose MD5 is verified.

    Attributes:
        path: Path of the archive.
        size_bytes: Size of the archive.
        md5: MD5 of the archive, in hexadecimal.
        downloaded_bytes: Bytes that this run fetched.
    """

    path: Path
    size_bytes: int
    md5: str
    downloaded_bytes: int


def download(
    *,
    url: str,
    folder: Path,
    md5: str,
    connections: int,
    progress: Progress,
    hash_progress: Progress,
    patience: Patience = PATIENCE,
    part_bytes: int = PART_BYTES,
) -> Archive:
    """Downloads and verifies a file, unless it is there already.

    The file is NAME.part until its MD5 is verified. NAME.md5 then records that it was, for `md5sum --check` and for the
    next run, which has nothing to do.

    Args:
        url: URL whose last part is the file's name.
        folder: Destination, created if missing.
        md5: Expected MD5, in hexadecimal.
        connections: Number of parts fetched at a time.
        progress: Called with the bytes received and the total.
        hash_progress: Called with the bytes hashed and the total, while only the hash is still running.
        patience: Retry policy for a server that fails.
        part_bytes: Size of a part: the most that a killed run loses per connection.

    Raises:
        SourceError: if the server lacks the file, fails for too long, or sends other bytes; if a file with this name
            and another MD5 exists; if the disk cannot hold it; if another process is downloading it.
    """
    target = folder.absolute() / url.rsplit("/", 1)[-1]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            with PartialFile(target) as partial:
                if not target.exists():  # Otherwise another process has just finished it.
                    remote = RemoteFile(url, connections=connections, patience=patience)
                    version = remote.insist(remote.probe)
                    _require_space(partial, version.size_bytes)
                    partial.begin(version, part_bytes)
                    kept_bytes = partial.done_bytes()
                    received_md5 = _fetch(remote, partial, progress, hash_progress)
                    return _publish(partial, target, kept_bytes, md5.lower(), received_md5)
        return _accept(target, md5.lower(), hash_progress)
    except OSError as error:
        raise SourceError(
            f"{error.filename or target} could not be written or read: {error.strerror or error}. "
            "Check --out, the disk and its free space, then run the same command again: what has arrived is kept."
        ) from error


def _fetch(remote: RemoteFile, partial: PartialFile, progress: Progress, hash_progress: Progress) -> str:
    """Fetches the missing parts and returns the file's MD5, computed while they arrive."""
    parts = deque(partial.missing())
    hasher = _PrefixHasher(remote, partial)
    with ThreadPoolExecutor(1 + remote.connections) as pool:
        try:
            hashing = pool.submit(hasher.run)
            connections = [pool.submit(_fetch_parts, remote, partial, parts) for _ in range(remote.connections)]
            _watch(connections, partial, progress)
            if wait([hashing], timeout=1.0).not_done:
                _watch_hash(hashing, hasher, partial, hash_progress)
            return hashing.result()
        except BaseException:  # Ctrl-C too: otherwise leaving the pool would wait for the whole archive.
            remote.stopped.set()
            raise


def _fetch_parts(remote: RemoteFile, partial: PartialFile, parts: deque[int]) -> None:
    """Runs one connection: fetches the next part until none is left."""
    while not remote.stopped.is_set():
        try:
            part = parts.popleft()
        except IndexError:
            return
        remote.insist(bind(_fetch_part, remote, partial, part), partial.done_bytes)


def _fetch_part(remote: RemoteFile, partial: PartialFile, part: int) -> None:
    """Makes one attempt, from where the last one was interrupted."""
    first, stop = partial.next_byte(part), partial.extent(part)[1]
    if first == stop:  # The last attempt was interrupted after the last byte.
        return
    for chunk in remote.read(partial.version, first, stop):
        partial.append(part, chunk)
        if remote.stopped.is_set():
            return


def _publish(partial: PartialFile, target: Path, kept_bytes: int, md5: str, received_md5: str) -> Archive:
    """Renames the file if its MD5 is right, and deletes it otherwise."""
    version = partial.version
    if received_md5 != md5:
        partial.discard()
        raise SourceError(
            f"{version.url} is not the archive that was asked for: the MD5 of its {version.size_bytes} bytes must be "
            f"{md5}. Received: {received_md5}. They are deleted; run the same command again, or check --base-url and "
            "--md5."
        )
    partial.publish()
    write_durably(_record_path(target), _record(target, md5))
    downloaded_bytes = version.size_bytes - kept_bytes
    return Archive(path=target, size_bytes=version.size_bytes, md5=md5, downloaded_bytes=downloaded_bytes)


def _watch(connections: list[Future[None]], partial: PartialFile, progress: Progress) -> None:
    """Reports progress and syncs finished parts, until all have arrived or one connection has failed."""
    size = partial.version.size_bytes
    pending = set(connections)
    while pending:
        if partial.done_bytes() < size:
            progress(partial.done_bytes(), size)
        done, pending = wait(pending, timeout=TICK_S, return_when=FIRST_EXCEPTION)
        partial.commit()
        for future in done:
            future.result()
    progress(size, size)


def _watch_hash(hashing: Future[str], hasher: "_PrefixHasher", partial: PartialFile, hash_progress: Progress) -> None:
    """Reports the progress of a hash that is far behind, as after a resume."""
    while not hashing.done():
        hash_progress(hasher.done_bytes, partial.version.size_bytes)
        wait([hashing], timeout=TICK_S)
    hashing.result()
    hash_progress(hasher.done_bytes, partial.version.size_bytes)


class _PrefixHasher:
    """Computes the MD5 of a file while it arrives, by reading back its gapless prefix from the disk."""

    def __init__(self, remote: RemoteFile, partial: PartialFile) -> None:
        self.done_bytes = 0
        self._remote = remote
        self._partial = partial

    def run(self) -> str:
        """Returns the digest once the file is complete, or an empty string if stopped."""
        digest = hashlib.md5(usedforsecurity=False)
        while self.done_bytes < self._partial.version.size_bytes:
            ready = self._partial.prefix_bytes() - self.done_bytes
            if self._remote.stopped.wait(0 if ready else TICK_S):
                return ""
            block = self._partial.read(self.done_bytes, min(ready, HASH_BLOCK_BYTES))
            if ready and not block:
                raise SourceError(f"{self._partial.path} was truncated by another process. Delete it and run again.")
            digest.update(block)
            self.done_bytes += len(block)
        return digest.hexdigest()


def _require_space(partial: PartialFile, size_bytes: int) -> None:
    folder = partial.path.parent
    needed, free = size_bytes - partial.occupied_bytes(), shutil.disk_usage(folder).free
    if needed > free:
        raise SourceError(
            f"{folder} has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} GB are still to come. "
            "Free some space, or pass --out another disk."
        )


def _accept(target: Path, md5: str, hash_progress: Progress) -> Archive:
    """Accepts an existing file that NAME.md5 records as verified, or verifies it now."""
    record_path = _record_path(target)
    if not record_path.exists() or record_path.read_bytes() != _record(target, md5):
        received = _md5_of(target, hash_progress)
        if received != md5:
            raise SourceError(
                f"{target} is there, but its MD5 must be {md5}. Received: {received}. "
                "Delete it and run again, or check --md5."
            )
        write_durably(record_path, _record(target, md5))
    if state_path(target).exists():  # Left by a run that was killed just after renaming the file.
        state_path(target).unlink()
    return Archive(path=target, size_bytes=target.stat().st_size, md5=md5, downloaded_bytes=0)


def _md5_of(path: Path, hash_progress: Progress) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    size = path.stat().st_size
    with path.open("rb") as handle:
        while block := handle.read(HASH_BLOCK_BYTES):
            digest.update(block)
            hash_progress(handle.tell(), size)
    return digest.hexdigest()


def _record_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.md5")


def _record(target: Path, md5: str) -> bytes:
    """Formats a line as md5sum does, after a comment with the size, which md5sum skips."""
    return f"# {target.stat().st_size} bytes\n{md5}  {target.name}\n".encode()
