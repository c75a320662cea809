"""The row groups of a split, decoded from where the shards are or from copies on this node's disk."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from depthflow.errors import StoreError
from depthflow.samples.mirror import ShardMirror
from depthflow.samples.schema import plane_batch
from depthflow.samples.store import SampleStore
from depthflow.storage import is_uri, reported

GroupPlanes = dict[str, np.ndarray]
"""Plane to (rows of the group, *shape), read-only views of the decoded column's buffer."""

DECODING_THREADS = 4
REQUESTS_AT_A_TIME = 16
"""To an object store, where threads wait more than they work."""


class RowGroups:
    """Decodes row groups of one split, numbered through its shards, in threads of its own.

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
        self._planes = list(planes)
        self._mirror = ShardMirror(store, cache_dir) if cache_dir else None
        shards = [shard for shard in store.manifest["shards"] if shard["path"].startswith(f"split={split}/")]
        with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as pool:
            self._shards = list(pool.map(self._open, sorted(shards, key=lambda shard: shard["path"])))
        self._places = [(shard, number) for shard in self._shards for number in range(len(shard.group_sizes))]
        self.sizes = [size for shard in self._shards for size in shard.group_sizes]
        any_remote = any(shard.is_remote for shard in self._shards)
        self._pool = ThreadPoolExecutor(REQUESTS_AT_A_TIME if any_remote else DECODING_THREADS)

    def decode(self, group: int) -> Future[GroupPlanes]:
        """Begins to decode a row group. Its result raises StoreError if the shard is damaged or cannot be read."""
        return self._pool.submit(self._decode, *self._places[group])

    def _decode(self, shard: "_Shard", number: int) -> GroupPlanes:
        with self._explained(shard.path):
            table = shard.read(number, self._planes)
        return {name: plane_batch(table[name], table.schema.field(name)) for name in self._planes}

    def _open(self, entry: Mapping[str, Any]) -> "_Shard":
        path = entry["path"]
        with self._explained(path):
            if self._mirror and (copy := self._mirror.open(entry)):
                return _Shard(path, copy, is_remote=False)
            return _Shard(path, self._store.files.open(path), is_remote=is_uri(self._store.files.root))

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        """Tells what a disk, an object store or Parquet refuses, and how to mend it."""
        root = self._store.files.root
        copied = ", or its copy in --cache-dir," if self._mirror else ""
        what = f"The shard {path} of {root}{copied} cannot be read"
        try:
            with reported(what, StoreError) if is_uri(root) else nullcontext():
                yield
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"{what}: {error}. Restore it, or delete it and manifest.json and run the same preprocess.py command "
                "again."
            ) from None


class _Shard:
    """An open shard.

    Of a file that is memory-mapped, each page's checksum is verified when it is read for the first time: verifying
    takes as long as decoding. What comes by ranged requests is verified every time, since it travels every time.
    """

    def __init__(self, path: str, handle: Any, *, is_remote: bool) -> None:
        self.path = path
        self.is_remote = is_remote
        self._verifying = pq.ParquetFile(handle, page_checksum_verification=True, pre_buffer=is_remote)
        metadata = self._verifying.metadata
        self._plain = pq.ParquetFile(handle, metadata=metadata)
        self._verified: set[int] = set()
        self._lock = threading.Lock()  # A ParquetFile is one thread's.
        self.group_sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]

    def read(self, number: int, columns: list[str]) -> pa.Table:
        with self._lock:
            file = self._plain if number in self._verified else self._verifying
            table = file.read_row_group(number, columns=columns, use_threads=False)
            if not self.is_remote:
                self._verified.add(number)
            return table
