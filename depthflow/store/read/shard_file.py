"""An open shard: its row groups as arrays, mapped where the file holds a plane as it is in memory, else decoded."""

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from depthflow.store.schema import plane_batch

PAGE_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """A row group's planes.

    Attributes:
        planes: plane to (rows, *shape), read-only.
        is_mapped: whether planes are views of the file, which the system keeps in memory as long as it has room.
    """

    planes: dict[str, np.ndarray]
    is_mapped: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all planes."""
        return sum(plane.nbytes for plane in self.planes.values())


class ShardFile:
    """A shard, read by row group, by one thread at a time.

    The first time that a row group is read from a disk, its pages' checksums are verified, which takes as long as
    decoding, and each plane is compared with the bytes where it lies if it is not compressed. Where they are the same,
    the plane is a view of the file from then on. What comes by ranged requests is verified every time.

    Args:
        handle: a memory-mapped file, or any file where `is_remote`.
        planes: the columns to read.
        checksums: content_xxh3 of its samples, from the index.

    Raises:
        ValueError: if it holds another number of samples.
    """

    def __init__(self, handle: Any, *, planes: Sequence[str], checksums: pa.ChunkedArray, is_remote: bool) -> None:
        self.is_remote = is_remote
        self._checksums = checksums
        self._verifying = pq.ParquetFile(handle, page_checksum_verification=True, pre_buffer=is_remote)
        self._metadata = self._verifying.metadata
        self._plain = pq.ParquetFile(handle, metadata=self._metadata)
        self.schema = self._verifying.schema_arrow
        self._planes = list(planes)
        self._content = None if is_remote else np.frombuffer(handle.read_buffer(), np.uint8)
        self._mapped: dict[int, dict[str, np.ndarray]] = {}
        self._lock = threading.Lock()
        self.group_sizes = [self._metadata.row_group(k).num_rows for k in range(self._metadata.num_row_groups)]
        self._starts = [0, *itertools.accumulate(self.group_sizes)]
        if self._starts[-1] != len(checksums):
            raise ValueError(f"it holds {self._starts[-1]} samples, and {len(checksums)} by the index")

    def read(self, number: int) -> RowGroup:
        """Returns the planes of a row group.

        Raises:
            ValueError: if it holds other samples than the index says.
        """
        with self._lock:
            if number in self._mapped:
                mapped = self._mapped[number]
                decoded = self._decode(self._plain, number, [name for name in self._planes if name not in mapped])
            else:
                decoded = self._decode(self._verifying, number, ["content_xxh3", *self._planes])
                mapped = self._as_they_lie(number, decoded)
                if not self.is_remote:
                    self._mapped[number] = mapped
        for plane in mapped.values():
            _bring_in(plane)
        return RowGroup(planes={**decoded, **mapped}, is_mapped=bool(mapped))

    def _decode(self, file: pq.ParquetFile, number: int, columns: list[str]) -> dict[str, np.ndarray]:
        """Returns the planes among some columns; checks the content's checksums if they are among them, too."""
        if not columns:
            return {}
        table = file.read_row_group(number, columns=columns, use_threads=False)
        if "content_xxh3" in columns:
            wanted = self._checksums.slice(self._starts[number], self.group_sizes[number])
            if not table["content_xxh3"].equals(wanted):
                raise ValueError(f"row group {number} holds other samples than the index says")
        return {name: plane_batch(table[name], self.schema.field(name)) for name in columns if name in self._planes}

    def _as_they_lie(self, number: int, decoded: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Those of the decoded planes that are in the file as they are: the end of a column chunk of one page."""
        found: dict[str, np.ndarray] = {}
        if self._content is None:
            return found
        for name, plane in decoded.items():
            chunk = self._metadata.row_group(number).column(self.schema.get_field_index(name))
            end = chunk.data_page_offset + chunk.total_compressed_size
            lying = self._content[max(0, end - plane.nbytes) : end]
            is_plain = chunk.compression == "UNCOMPRESSED"
            if is_plain and np.array_equal(lying, plane.reshape(-1).view(np.uint8)):
                found[name] = lying.view(plane.dtype).reshape(plane.shape)
        return found


def _bring_in(plane: np.ndarray) -> None:
    """Has the system read a mapped plane now, in one go, so that no batch waits for it page by page."""
    plane.reshape(-1).view(np.uint8)[::PAGE_BYTES].max(initial=0)
