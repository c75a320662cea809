"""Copies of a store's shards on a node's local disk, shared by all workers of the node and by later runs."""

import errno
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash
from filelock import lock_descriptor

from depthflow.errors import DISK_IS_FULL, StoreError
from depthflow.storage.durable import commit_file
from depthflow.storage.location import reported
from depthflow.store.store import SampleStore

RESERVE_BYTES = 2 * 2**30
"""Bytes left free on the disk that holds the copies."""

CHUNK_BYTES = 16 * 2**20


class ShardCache:
    """Copies whole shards to a local folder and memory-maps the copies.

    A copy is named after the store's fingerprint, the shard's path and its checksum, and appears only once it is
    complete and verified. One worker copies while the others wait; if it dies, the next one starts again.

    Args:
        store: Store to copy from.
        folder: Folder on this node's local disk, created if missing.
    """

    def __init__(self, store: SampleStore, folder: str) -> None:
        self._store = store
        self._folder = Path(folder) / store.fingerprint

    def open(self, shard: Mapping[str, Any]) -> pa.NativeFile | None:
        """Opens a shard's copy, made now if it is missing; None, with a warning, if the disk lacks the space.

        Args:
            shard: Entry of the manifest.

        Raises:
            StoreError: if the shard does not match the manifest, or the folder cannot be written.
        """
        copy = self._folder / f"{shard['path'].removesuffix('.parquet')}-{shard['xxh3_128']}.parquet"
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            with _locked(copy.with_suffix(".lock")):
                if not copy.exists() or copy.stat().st_size != shard["bytes"]:
                    self._make(copy, shard)
                return pa.memory_map(str(copy))
        except OSError as error:
            if error.errno not in DISK_IS_FULL:
                raise StoreError(
                    f"The cache folder {self._folder} cannot be used: {error.strerror or error}. Choose another "
                    "--cache-dir."
                ) from None
        warnings.warn(
            f"Not enough space in {self._folder} for {shard['path']} ({shard['bytes'] / 1e6:.0f} MB and a reserve of "
            f"{RESERVE_BYTES / 1e9:.1f} GB): it is read from {self._store.files.root}.",
            stacklevel=2,
        )
        return None

    def _make(self, copy: Path, shard: Mapping[str, Any]) -> None:
        """Copies a shard under a temporary name and verifies it. Only for the holder of the copy's lock."""
        if shutil.disk_usage(copy.parent).free < shard["bytes"] + RESERVE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with commit_file(copy, temporary=copy.with_suffix(".part")) as target:
            for chunk in self._verified_chunks(shard):
                target.write(chunk)

    def _verified_chunks(self, shard: Mapping[str, Any]) -> Iterator[bytes]:
        """Yields the shard's bytes; raises StoreError at the end if their checksum is not the manifest's."""
        what = f"The shard {shard['path']} of {self._store.files.root}"
        fix = "Restore it, or delete it and manifest.json and run the same preprocess.py command again."
        checksum = xxhash.xxh3_128()
        try:
            with reported(f"{what} cannot be read", StoreError), self._store.files.open(shard["path"]) as source:
                while chunk := source.read(CHUNK_BYTES):
                    checksum.update(chunk)
                    yield chunk
        except FileNotFoundError:
            raise StoreError(f"{what} has vanished. {fix}") from None
        if checksum.hexdigest() != shard["xxh3_128"]:
            raise StoreError(
                f"{what} is damaged: its xxh3-128 is {checksum.hexdigest()}, the manifest says {shard['xxh3_128']}. "
                f"{fix}"
            )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for a lock file and holds it; the kernel releases it when its holder dies."""
    with path.open("w") as handle:
        lock_descriptor(handle.fileno())
        yield
