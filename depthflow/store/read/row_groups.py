"""The row groups of a split, read from where the shards are or from copies on this node's disk."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import pyarrow as pa

from depthflow.errors import StoreError
from depthflow.storage.location import is_uri, reported
from depthflow.store.read.shard_cache import ShardCache
from depthflow.store.read.shard_file import RowGroup, ShardFile
from depthflow.store.store import SampleStore

DECODING_THREADS = 4
REQUESTS_AT_A_TIME = 16
"""To an object store, where threads wait more than they work."""


class RowGroups:
    """Reads row groups of one split, numbered through its shards, in threads of its own.

    Args:
        store: a finished store.
        split: one that it has.
        planes: the columns to read.
        cache_dir: folder on this node's own disk that the shards are copied to first; None reads them where they are,
            memory-mapped from a disk, by ranged requests from an object store.

    Raises:
        StoreError: if a shard has vanished or is damaged.
    """

    def __init__(self, store: SampleStore, split: str, *, planes: Sequence[str], cache_dir: str | None) -> None:
        self._store = store
        self._planes = planes
        self._shard_cache = ShardCache(store, cache_dir) if cache_dir else None
        entries = [shard for shard in store.manifest["shards"] if shard["path"].startswith(f"split={split}/")]
        entries.sort(key=lambda shard: shard["path"])
        with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as pool:
            shards = list(pool.map(self._open, entries))
        self.sizes = [size for shard in shards for size in shard.group_sizes]
        self._places = [
            (entry["path"], shard, number)
            for entry, shard in zip(entries, shards, strict=True)
            for number in range(len(shard.group_sizes))
        ]
        any_remote = any(shard.is_remote for shard in shards)
        self._pool = ThreadPoolExecutor(REQUESTS_AT_A_TIME if any_remote else DECODING_THREADS)

    def begin(self, group: int) -> Future[RowGroup]:
        """Begins to read a row group. The result raises StoreError if the shard is damaged or cannot be read."""
        return self._pool.submit(self._read, *self._places[group])

    def _read(self, path: str, shard: ShardFile, number: int) -> RowGroup:
        with self._explained(path):
            return shard.read(number)

    def _open(self, entry: Mapping[str, Any]) -> ShardFile:
        with self._explained(entry["path"]):
            if self._shard_cache and (copy := self._shard_cache.open(entry)):
                return ShardFile(copy, planes=self._planes, is_remote=False)
            handle = self._store.files.open(entry["path"])
            return ShardFile(handle, planes=self._planes, is_remote=is_uri(self._store.files.root))

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        """Tells what a disk, an object store or Parquet refuses, and how to mend it."""
        root = self._store.files.root
        copied = ", or its copy in --cache-dir," if self._shard_cache else ""
        what = f"The shard {path} of {root}{copied} cannot be read"
        try:
            with reported(what, StoreError) if is_uri(root) else nullcontext():
                yield
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"{what}: {error}. Restore it, or delete it and manifest.json and run the same preprocess.py command "
                "again."
            ) from None
