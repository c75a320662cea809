"""Makes a shard from its plan and commits it: the whole job of one task. Independent of Ray."""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from depthflow.datasets.reject import RejectError
from depthflow.errors import StoreError
from depthflow.storage.files import StoreFiles
from depthflow.store.schema import (
    KINDS,
    REJECT_SCHEMA,
    SECONDS_FIELD,
    row_schema,
    sample_bytes,
    shard_schema,
    with_dataset,
)
from depthflow.store.write.plan import PlannedSample, ShardPlan
from depthflow.store.write.sample import Sample, SampleLayout, to_table

MAX_ROWS_PER_GROUP = 16
MAX_GROUP_BYTES = 16 * 2**20
"""Readers fetch one row group at a time: 16 samples at 256 x 256, 2 at 768 x 1024."""

PLANE_COMPRESSION = dict.fromkeys(("rgb", "log_depth", *(view for views in KINDS.values() for view in views)), "none")
"""Images and laser depths are too noisy for lz4 to save more than 6%; uncompressed, they are read in place."""

Make = Callable[[PlannedSample], Sample]
"""Returns a finished sample, or raises RejectError."""
Watch = Callable[[PlannedSample], AbstractContextManager[None]]
"""Entered while a sample is being made, to show which one takes too long or is rejected."""


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What the driver needs to know about a committed shard.

    Attributes:
        path: Path in the store.
        rows: `row_schema` and `SECONDS_FIELD`, one row per sample, in the shard's order.
        rejects: `REJECT_SCHEMA`, one row per reject.
        file_xxh3: xxh3-128 of the file.
        file_bytes: Size of the file.
    """

    path: str
    rows: pa.Table
    rejects: pa.Table
    file_xxh3: str
    file_bytes: int


def make_shard(plan: ShardPlan, *, files: StoreFiles, layout: SampleLayout, make: Make, watch: Watch) -> ShardRecord:
    """Makes and commits a shard, unless it is already committed.

    The shard's footer holds its plan's digest and its rejects, so no other file is needed to resume.

    Raises:
        StoreError: if another run has written the shard from another plan, or storage fails.
    """
    if files.exists(plan.path):
        if committed_plan_digest(files, plan.path) != plan.digest:
            raise StoreError(f"{plan.path} of {files.root} was just written by another run. Choose another --out.")
        return read_shard_record(files, plan.path, kind=layout.kind)
    writer = _ShardWriter(layout)
    with files.commit(plan.path) as handle:
        return writer.write(plan, handle, make, watch)


class _ShardWriter:
    """Writes a shard and collects what goes into its record."""

    def __init__(self, layout: SampleLayout) -> None:
        self._schema = shard_schema(height=layout.height, width=layout.width, metadata={}, kind=layout.kind)
        self._row_schema = row_schema(layout.kind).append(SECONDS_FIELD)
        self._rows: list[dict[str, Any]] = []
        self._rejects: list[dict[str, str]] = []

    def write(self, plan: ShardPlan, handle: IO[bytes], make: Make, watch: Watch) -> ShardRecord:
        hashed = _HashedFile(handle)
        group_size = rows_per_group(self._schema)
        with pq.ParquetWriter(
            pa.PythonFile(hashed, mode="w"),
            self._schema.with_metadata({"depthflow.plan": plan.digest}),
            compression={name: PLANE_COMPRESSION.get(name, "lz4") for name in self._schema.names},  # type: ignore[arg-type]
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        ) as writer:
            samples = self._make_samples(plan, make, watch)
            while group := list(itertools.islice(samples, group_size)):
                writer.write_table(to_table(group, self._schema), row_group_size=group_size)
            writer.add_key_value_metadata({"depthflow.rejects": json.dumps(self._rejects)})
        return ShardRecord(
            path=plan.path,
            rows=pa.Table.from_pylist(self._rows, schema=self._row_schema),
            rejects=pa.Table.from_pylist(self._rejects, schema=REJECT_SCHEMA),
            file_xxh3=hashed.checksum.hexdigest(),
            file_bytes=hashed.size,
        )

    def _make_samples(self, plan: ShardPlan, make: Make, watch: Watch) -> Iterator[Sample]:
        """Yields the plan's samples and collects its rejects."""
        for planned in plan.samples:
            started = time.perf_counter()
            try:
                with watch(planned):
                    if planned.frame.reason:
                        raise RejectError(planned.frame.reason, planned.frame.problem)
                    sample = make(planned)
            except RejectError as error:
                self._rejects.append(reject_row(planned, error))
                continue
            self._rows.append({SECONDS_FIELD.name: time.perf_counter() - started, **sample.row})
            yield sample


class _HashedFile:
    """A file to write to that tracks the size and the xxh3-128 of its content."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self.checksum = xxhash.xxh3_128()
        self.size = 0
        self.closed = False

    def write(self, content: Any) -> int:
        self.checksum.update(content)
        self.size += len(content)
        return self._handle.write(content)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._handle.flush()

    def close(self) -> None:
        self.closed = True


def reject_row(planned: PlannedSample, error: RejectError) -> dict[str, str]:
    """Returns a reject's row of `REJECT_SCHEMA`."""
    return {
        "sample_id": planned.frame.sample_id,
        "split": planned.frame.split,
        "source": planned.source,
        "reason": error.reason,
        "message": error.message,
    }


def rows_per_group(schema: pa.Schema) -> int:
    """Returns the rows per row group that keep its decoded planes under `MAX_GROUP_BYTES`."""
    return max(1, min(MAX_ROWS_PER_GROUP, MAX_GROUP_BYTES // sample_bytes(schema)))


def read_shard_record(files: StoreFiles, path: str, *, kind: str = "depth") -> ShardRecord:
    """Reads a committed shard's record from the shard; how long its samples took is not in there."""
    content, schema = files.read(path), row_schema(kind)
    with pq.ParquetFile(pa.BufferReader(content)) as shard:
        rows = with_dataset(shard.read(columns=schema.names)).cast(schema).replace_schema_metadata(None)
        rejects = json.loads(shard.metadata.metadata[b"depthflow.rejects"])
    return ShardRecord(
        path=path,
        rows=rows.append_column(SECONDS_FIELD, pa.nulls(rows.num_rows, SECONDS_FIELD.type)),
        rejects=pa.Table.from_pylist(rejects, schema=REJECT_SCHEMA),
        file_xxh3=xxhash.xxh3_128_hexdigest(content),
        file_bytes=content.size,
    )


def committed_plan_digest(files: StoreFiles, path: str) -> str:
    """Returns the digest of the plan that a committed shard was made from."""
    try:
        with files.open(path) as handle, pq.ParquetFile(handle) as shard:
            return (shard.schema_arrow.metadata or {}).get(b"depthflow.plan", b"").decode()
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"The shard {path} of {files.root} is damaged: {error}. Delete it, and {files.root}/manifest.json, and run "
            "the same command again."
        ) from None
