"""The row groups of a split, read from where the shards are or from copies on this node's disk."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import pyarrow as pa

from depthflow.errors import StoreError
from depthflow.storage.location import is_uri, reported
from depthflow.store.read.shard_cache import ShardCache
from depthflow.store.read.shard_file import RowGroup, ShardFile
from depthflow.store.schema import check_planes
from depthflow.store.store import MANIFEST, SampleStore

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
        checksums = _checksums_by_shard(store, split, [entry["path"] for entry in entries])
        with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as pool:
            shards = list(pool.map(self._open, entries, checksums))
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

    def _open(self, entry: Mapping[str, Any], checksums: pa.ChunkedArray) -> ShardFile:
        with self._explained(entry["path"]):
            handle = self._shard_cache.open(entry) if self._shard_cache else None
            is_remote = handle is None and is_uri(self._store.files.root)
            handle = handle or self._store.files.open(entry["path"])
            shard = ShardFile(handle, planes=self._planes, checksums=checksums, is_remote=is_remote)
            size = {"height": self._store.height, "width": self._store.width}
            check_planes(shard.schema, self._planes, **size, kind=self._store.kind)
            return shard

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        """Tells what a disk, an object store or Parquet refuses, and how to mend it."""
        root = self._store.files.root
        copied = ", or its copy in --cache-dir," if self._shard_cache else ""
        what = f"The shard {path} of {root}{copied} cannot be read"
        try:
            with reported(what, StoreError) if is_uri(root) else nullcontext():
                yield
        except (OSError, ValueError, pa.ArrowException) as error:
            raise StoreError(
                f"{what}: {error}. Restore it, or delete it and manifest.json and run the same preprocess.py command "
                "again."
            ) from None


def _checksums_by_shard(store: SampleStore, split: str, paths: Sequence[str]) -> list[pa.ChunkedArray]:
    """Returns content_xxh3 of each shard's samples, in the index's order.

    Raises:
        StoreError: if the index names a shard that is not in `paths`.
    """
    rows = store.split_index(split)
    counts = {pair["values"]: pair["counts"] for pair in rows["shard"].value_counts().to_pylist()}
    if unknown := sorted(counts.keys() - set(paths)):
        raise StoreError(
            f"{store.files.root} disagrees with its index: {MANIFEST} lists no shard {unknown[0]}. Restore it, or "
            "write the store again with preprocess.py."
        )
    starts = itertools.accumulate((counts.get(path, 0) for path in paths), initial=0)
    return [rows["content_xxh3"].slice(start, counts.get(path, 0)) for path, start in zip(paths, starts, strict=False)]
