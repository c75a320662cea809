"""Finishes a store: writes the index, the rejects, the accounting and the manifest from the shards' records."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from depthflow.datasets.catalogue import Accounting
from depthflow.errors import SourceError, StoreError
from depthflow.storage.files import StoreFiles
from depthflow.store.manifest import FORMAT
from depthflow.store.schema import REJECT_SCHEMA, index_schema
from depthflow.store.store import ACCOUNTING, INDEX, MANIFEST, REJECTS, fingerprint, totals
from depthflow.store.write.shard import ShardRecord

PACKAGES = ("depthflow", "ray", "pyarrow", "numpy", "opencv-python", "kornia-rs", "rapidgzip")
"""Packages whose versions the manifest states."""


def finish_store(
    files: StoreFiles,
    records: Sequence[ShardRecord],
    accounting: Accounting,
    *,
    settings: Mapping[str, Any],
    origin: Mapping[str, Any],
) -> None:
    """Writes the index, the rejects, the accounting and, last, the manifest.

    Args:
        records: Records of all shards, by path.
        settings: The settings that the content depends on; part of the fingerprint.
        origin: Where the content comes from; not part of the fingerprint.

    Raises:
        StoreError: if a shard is not visible from here.
        SourceError: if every input was rejected.
    """
    unseen = [record.path for record in records if not files.exists(record.path)]
    if unseen:
        raise StoreError(
            f"{len(unseen)} shards, such as {unseen[0]}, were written on other nodes and are not visible from here. "
            f"--out must be storage that all nodes share. Received: {files.root}"
        )
    schema = index_schema(settings.get("kind", "depth"))
    index = pa.concat_tables([_index_rows(record).cast(schema) for record in records])
    rejects = pa.concat_tables([record.rejects for record in records], promote_options="none")
    if index.num_rows == 0:
        raise SourceError(
            f"All {rejects.num_rows} inputs were rejected: {dict(Counter(rejects['reason'].to_pylist()))}. For example "
            f"{rejects['message'][0].as_py()}. Fix the source, then run the same command again."
        )
    tables = {
        INDEX: index,
        REJECTS: rejects.cast(REJECT_SCHEMA),
        ACCOUNTING: pa.Table.from_pylist(accounting.rows()),
    }
    manifest = {
        "format": FORMAT,
        "fingerprint": fingerprint(settings, index, rejects),
        "config": dict(settings),
        **origin,
        **totals(index, rejects),
        "accounting": accounting.summary(),
        "tables": {path: _write_table(files, path, table) for path, table in tables.items()},
        "shards": [
            {"path": r.path, "rows": r.rows.num_rows, "bytes": r.file_bytes, "xxh3_128": r.file_xxh3} for r in records
        ],
        "versions": {name: version(name) for name in PACKAGES},
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    files.write(MANIFEST, json.dumps(manifest, indent=2).encode())


def _index_rows(record: ShardRecord) -> pa.Table:
    count = record.rows.num_rows
    rows = record.rows.append_column("shard", pa.array([record.path] * count, pa.string()))
    return rows.append_column("row", pa.array(range(count), pa.int64()))


def _write_table(files: StoreFiles, path: str, table: pa.Table) -> str:
    """Commits a table and returns its file's xxh3-128."""
    content = pa.BufferOutputStream()
    pq.write_table(table, content, compression="zstd")
    files.write(path, written := content.getvalue())
    return xxhash.xxh3_128_hexdigest(written)
