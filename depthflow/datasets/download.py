"""DIODE's official archives over HTTP: parallel parts, resumed after any end, and nothing but the right bytes."""

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
"""Of the official train.tar.gz and val.tar.gz: https://diode-dataset.org."""

PATIENCE = Patience()
PART_BYTES = 16 * 2**20
HASH_BLOCK_BYTES = 2**20
TICK_S = 0.2
"""How often progress is told, finished parts are made safe, and the hash looks for new bytes."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A whole archive on the disk, its MD5 verified.

    Attributes:
        downloaded_bytes: of these `size_bytes`, those that this run fetched.
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
    """Fetches a file unless it is there already, and verifies it.

    It has its name only once its MD5 is right; until then it is NAME.part. Beside it, NAME.md5 records that it was
    verified, for `md5sum --check` and for the next run, which then does nothing.

    Args:
        url: its last part is the file's name.
        folder: where to; made if missing.
        md5: what the file's MD5 must be, in hexadecimal.
        connections: parts fetched at a time.
        progress: called with the bytes that are there and those there will be.
        hash_progress: the same of the bytes hashed, while the hash is all that is waited for.
        patience: with a server that fails.
        part_bytes: size of a part, what a killed run loses of each connection at most.

    Raises:
        SourceError: if the server has not the file, or fails for too long, or sends other bytes; if a file with this
            name and another MD5 is there; if the disk cannot take it; if another process fetches it.
    """
    target = folder.absolute() / url.rsplit("/", 1)[-1]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            with PartialFile(target) as partial:
                if not target.exists():  # Else another process has just finished it.
                    remote = RemoteFile(url, connections=connections, patience=patience)
                    version = remote.insist(remote.look)
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
    """Fetches what is missing; returns the MD5, taken of what is there while the rest arrives."""
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
        except BaseException:  # Ctrl-C too: else leaving the pool would wait for the whole archive.
            remote.stopped.set()
            raise


def _fetch_parts(remote: RemoteFile, partial: PartialFile, parts: deque[int]) -> None:
    """One connection's work: takes the next part until none is left."""
    while not remote.stopped.is_set():
        try:
            part = parts.popleft()
        except IndexError:
            return
        remote.insist(bind(_fetch_part, remote, partial, part), partial.done_bytes)


def _fetch_part(remote: RemoteFile, partial: PartialFile, part: int) -> None:
    """One attempt, from where the last one was cut."""
    first, stop = partial.next_byte(part), partial.extent(part)[1]
    if first == stop:  # The last one was cut after the last byte.
        return
    for chunk in remote.read(partial.version, first, stop):
        partial.append(part, chunk)
        if remote.stopped.is_set():
            return


def _publish(partial: PartialFile, target: Path, kept_bytes: int, md5: str, received_md5: str) -> Archive:
    """Gives the right file its name; deletes a wrong one."""
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
    """Tells progress and makes finished parts safe, until all have arrived or one connection has failed."""
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
    """Tells of the hash where it is far behind, as after a resume."""
    while not hashing.done():
        hash_progress(hasher.done_bytes, partial.version.size_bytes)
        wait([hashing], timeout=TICK_S)
    hashing.result()
    hash_progress(hasher.done_bytes, partial.version.size_bytes)


class _PrefixHasher:
    """The MD5 of a file that is still arriving: follows its gapless beginning, reading back what is on the disk."""

    def __init__(self, remote: RemoteFile, partial: PartialFile) -> None:
        self.done_bytes = 0
        self._remote = remote
        self._partial = partial

    def run(self) -> str:
        """Returns the digest once the whole file is there, or an empty one when stopped."""
        digest = hashlib.md5(usedforsecurity=False)
        while self.done_bytes < self._partial.version.size_bytes:
            ready = self._partial.prefix_bytes() - self.done_bytes
            if self._remote.stopped.wait(0 if ready else TICK_S):
                return ""
            block = self._partial.read(self.done_bytes, min(ready, HASH_BLOCK_BYTES))
            if ready and not block:
                raise SourceError(f"{self._partial.path} was cut by another process. Delete it and run again.")
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
    """The file is there: as NAME.md5 records it, else verified now."""
    record_path = _record_path(target)
    if not record_path.exists() or record_path.read_bytes() != _record(target, md5):
        received = _md5_of(target, hash_progress)
        if received != md5:
            raise SourceError(
                f"{target} is there, but its MD5 must be {md5}. Received: {received}. "
                "Delete it and run again, or check --md5."
            )
        write_durably(record_path, _record(target, md5))
    if state_path(target).exists():  # Of a run that was killed just after giving the file its name.
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
    """As md5sum writes it; the size is in a comment, which md5sum skips."""
    return f"# {target.stat().st_size} bytes\n{md5}  {target.name}\n".encode()
