"""The end of a store's making: its shards' records become the index, the rejects, the account and the manifest."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from depthflow.datasets.catalogue import Accounting
from depthflow.errors import SourceError, StoreError
from depthflow.storage.files import StoreFiles
from depthflow.store.schema import INDEX_SCHEMA, REJECT_SCHEMA
from depthflow.store.store import ACCOUNTING, FORMAT, INDEX, MANIFEST, REJECTS, fingerprint
from depthflow.store.write.shard import ShardRecord

PACKAGES = ("depthflow", "ray", "pyarrow", "numpy", "opencv-python", "kornia-rs", "rapidgzip")
"""Whose versions the manifest names."""


def finish_store(
    files: StoreFiles,
    records: Sequence[ShardRecord],
    accounting: Accounting,
    *,
    settings: Mapping[str, Any],
    origin: Mapping[str, Any],
) -> None:
    """Writes the index, the rejects, the account and, last, the manifest.

    Args:
        records: of all shards, by path.
        settings: what the content depends on; part of the fingerprint.
        origin: where the content is from; no part of it.

    Raises:
        StoreError: if a shard cannot be seen from here.
        SourceError: if every input was refused.
    """
    unseen = [record.path for record in records if not files.exists(record.path)]
    if unseen:
        raise StoreError(
            f"{len(unseen)} shards, {unseen[0]} for one, were written on other nodes and cannot be seen from here. "
            f"--out must be storage that every node shares. Received: {files.root}"
        )
    index = pa.concat_tables([_index_rows(record) for record in records])
    rejects = pa.concat_tables([record.rejects for record in records], promote_options="none")
    if index.num_rows == 0:
        raise SourceError(
            f"Every one of the {rejects.num_rows} inputs was refused: "
            f"{dict(Counter(rejects['reason'].to_pylist()))}. For example {rejects['message'][0].as_py()}. Mend the "
            "source, then run the same command again."
        )
    _write_table(files, INDEX, index)
    _write_table(files, REJECTS, rejects.cast(REJECT_SCHEMA))
    _write_table(files, ACCOUNTING, pa.Table.from_pylist(accounting.rows()))
    manifest = {
        "format": FORMAT,
        "fingerprint": fingerprint(settings, index, rejects),
        "config": dict(settings),
        **origin,
        **_contents(index, rejects),
        "accounting": accounting.summary(),
        "shards": [
            {"path": r.path, "rows": r.rows.num_rows, "bytes": r.file_bytes, "xxh3_128": r.file_xxh3} for r in records
        ],
        "versions": {name: version(name) for name in PACKAGES},
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    files.write(MANIFEST, json.dumps(manifest, indent=2).encode())


def _contents(index: pa.Table, rejects: pa.Table) -> dict[str, Any]:
    return {
        "samples": index.num_rows,
        "rejects": rejects.num_rows,
        "counts": _counts(zip(index["split"].to_pylist(), index["scene_type"].to_pylist(), strict=True)),
        "rejects_by_reason": dict(sorted(Counter(rejects["reason"].to_pylist()).items())),
    }


def _index_rows(record: ShardRecord) -> pa.Table:
    count = record.rows.num_rows
    rows = record.rows.append_column("shard", pa.array([record.path] * count, pa.string()))
    return rows.append_column("row", pa.array(range(count), pa.int64())).cast(INDEX_SCHEMA)


def _counts(samples: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Samples per split and scene type."""
    counts: dict[str, dict[str, int]] = {}
    for (split, scene_type), count in sorted(Counter(samples).items()):
        counts.setdefault(split, {})[scene_type] = count
    return counts


def _write_table(files: StoreFiles, path: str, table: pa.Table) -> None:
    with files.commit(path) as handle:
        pq.write_table(table, handle, compression="zstd")
