"""Reading a split: rows of planes as arrays, and a worker's part of a pass."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from depthflow.errors import StoreError
from depthflow.samples.epoch import worker_part
from depthflow.samples.schema import PLANE_DTYPES, plane_batch
from depthflow.samples.store import SampleStore

CACHE_BYTES = 2 * 2**30
"""Decoded row groups kept in memory; a store that fits is decoded once."""


@dataclass(frozen=True, kw_only=True)
class SampleBatch:
    """Some samples of a split.

    Attributes:
        sample_ids: n ids.
        scene_types: n of indoors, outdoor.
        rgb: (n, H, W, 3) uint8.
        log_depth: (n, H, W) float32, natural log of metres; 0 where invalid.
        valid_mask: (n, H, W) bool.
        edge_mask: (n, H, W) bool.
    """

    sample_ids: tuple[str, ...]
    scene_types: tuple[str, ...]
    rgb: np.ndarray
    log_depth: np.ndarray
    valid_mask: np.ndarray
    edge_mask: np.ndarray


class SplitReader:
    """Random access to the samples of one split, by row group, with a cache of decoded row groups.

    Args:
        store: a finished store.
        split: one that it has.

    Raises:
        StoreError: if the split is not there, or a shard has vanished.
    """

    def __init__(self, store: SampleStore, split: str) -> None:
        index = store.split_index(split)
        self._root = store.files.root
        self.sample_ids: list[str] = index["sample_id"].to_pylist()
        self._scene_types: list[str] = index["scene_type"].to_pylist()
        shards = [shard for shard in store.manifest["shards"] if shard["path"].startswith(f"split={split}/")]
        self._files = [self._open(store, shard["path"]) for shard in sorted(shards, key=lambda s: s["path"])]
        self._groups = [
            (file, group, file.metadata.row_group(group).num_rows)
            for file in self._files
            for group in range(file.metadata.num_row_groups)
        ]
        self.group_sizes = [size for _, _, size in self._groups]
        self._starts = np.concatenate([[0], np.cumsum(self.group_sizes)]).astype(np.int64)
        if self._starts[-1] != len(self.sample_ids):
            raise StoreError(
                f"{store.files.root} disagrees with its index: {self._starts[-1]} rows in the shards of {split}, "
                f"{len(self.sample_ids)} in index.parquet. Write the store again."
            )
        self._cache: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self.sample_ids)

    @staticmethod
    def _open(store: SampleStore, path: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(store.files.open(path), page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"The shard {path} of {store.files.root} cannot be read: {error}. Restore it, or write the store again."
            ) from None

    def read(self, rows: Sequence[int] | np.ndarray) -> SampleBatch:
        """The samples of some rows, in the order asked for.

        Args:
            rows: n row numbers, counted through the split's row groups.
        """
        rows = np.asarray(rows, dtype=np.int64)
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        offsets = rows - self._starts[groups]
        decoded = {group: self._decode(group) for group in sorted(set(groups.tolist()))}
        planes = {
            name: np.stack([decoded[group][name][offset] for group, offset in zip(groups, offsets, strict=True)])
            for name in PLANE_DTYPES
        }
        return SampleBatch(
            sample_ids=tuple(self.sample_ids[row] for row in rows),
            scene_types=tuple(self._scene_types[row] for row in rows),
            **planes,
        )

    def _decode(self, group: int) -> dict[str, np.ndarray]:
        """The planes of one row group, from the cache if it was read not long ago."""
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        file, number, _ = self._groups[group]
        try:
            table = file.read_row_group(number, columns=list(PLANE_DTYPES))
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"Row group {number} of a shard of {self._root} is damaged: {error}. Delete manifest.json and the "
                "shard, and run the same preprocess.py command again."
            ) from None
        planes = {name: plane_batch(table[name], table.schema.field(name)) for name in PLANE_DTYPES}
        self._cache[group] = planes
        self._cached_bytes += table.nbytes
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            _, evicted = self._cache.popitem(last=False)
            self._cached_bytes -= sum(plane.nbytes for plane in evicted.values())
        return planes


def worker_pass(reader: SplitReader, *, max_batch_size: int, rank: int, num_workers: int) -> Iterator[SampleBatch]:
    """One worker's part of a split in the store's order, to its last sample, in batches of at most `max_batch_size`."""
    part = np.arange(len(reader))[worker_part(len(reader), rank=rank, num_workers=num_workers)]
    for start in range(0, len(part), max_batch_size):
        yield reader.read(part[start : start + max_batch_size])
