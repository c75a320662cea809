"""Stores made in this process, without Ray."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from depthflow.datasets import diode
from depthflow.datasets.archive import archive_identity, is_archive
from depthflow.datasets.frame_table import DEPTH_FRAME, frame_table, frames_of
from depthflow.datasets.layouts import find_frames
from depthflow.datasets.listing import list_tree
from depthflow.storage.files import open_files
from depthflow.store.schema import INDEX_SCHEMA, REJECT_SCHEMA, SECONDS_FIELD, row_schema
from depthflow.store.store import open_store
from depthflow.store.write.finish import finish_store
from depthflow.store.write.preprocess import content_config, plan_shards, sample_layout
from depthflow.store.write.shard import ShardRecord, make_shard
from depthflow.store.write.sources import ArchiveSource, account_for, list_archive, read_archive, read_tree
from depthflow.store.write.staging import plan_staging, sample_maker, stage_segment


def diode_frames(location, splits=("train", "val")):
    """The frames of a tree in DIODE's layout."""
    return listed_frames(list_tree(location), splits)


def listed_frames(listing, splits=("train", "val")):
    """The frames of a listing in DIODE's layout, before they are packed into a table."""
    assert find_frames(listing, "diode", splits).num_rows
    return [frame for frame in diode.frames(listing) if frame.split in splits]


def unwatched(planned):
    """Watches nothing."""
    return contextlib.nullcontext()


def list_source(location, splits, files, needed=DEPTH_FRAME):
    """A tree or an archive, listed."""
    if not is_archive(location):
        return read_tree(location, splits, needed=needed)
    identity = archive_identity(location)
    list_archive(location, identity, files, threads=2, progress=lambda name, done: None)
    return read_archive(location, identity, splits, files, needed=needed)


def make_store(config, *, change=lambda frame: frame):
    """What preprocess.py does, archives included, without its lock and without Ray.

    Args:
        change: Returns the frame to store instead of one that was listed.
    """
    files, splits, layout = open_files(config.out), config.source_splits, sample_layout(config)
    listed = [list_source(location, splits, files, config.needed) for location in config.source]
    has_depth = {"depth_needed": "depth" in config.needed}
    listed = [
        replace(source, frames=frame_table(map(change, frames_of(source.frames)), **has_depth)) for source in listed
    ]
    plans, segments = plan_staging(plan_shards(config, listed), listed, files)
    for segment in segments:
        stage_segment(segment, files=files, layout=layout, watch=unwatched)
    make = sample_maker(layout, files)
    records = [make_shard(plan, files=files, layout=layout, make=make, watch=unwatched) for plan in plans]
    records.sort(key=lambda record: record.path)
    finish_store(
        files,
        records,
        account_for(listed, splits),
        settings=content_config(config),
        origin={
            "sources": list(config.source),
            "archives": sorted(source.identity for source in listed if isinstance(source, ArchiveSource)),
        },
    )
    return open_store(config.out)


def write_index(root, rows, *, height, width, kind="depth"):
    """A finished store of these rows of its kind's index, in one shard a split, whose files are empty.

    Args:
        rows: Of `INDEX_SCHEMA`, in any order; shard and row are filled in.
    """
    files, schema = open_files(str(root)), row_schema(kind)
    records = []
    for split in sorted({row["split"] for row in rows}):
        path = f"split={split}/part-00000.parquet"
        files.write(path, b"")
        blank = {**dict.fromkeys(INDEX_SCHEMA.names), "dataset": "diode"}
        mine = [{**blank, **row} for row in rows if row["split"] == split]
        table = pa.Table.from_pylist(mine, schema=schema.append(SECONDS_FIELD))
        rejects = pa.Table.from_pylist([], schema=REJECT_SCHEMA)
        records.append(
            ShardRecord(path=path, rows=table, rejects=rejects, file_xxh3=xxhash.xxh3_128_hexdigest(b""), file_bytes=0)
        )
    finish_store(
        files,
        records,
        account_for([], ()),
        settings={"height": height, "width": width, "resplit": None, **({} if kind == "depth" else {"kind": kind})},
        origin={"sources": [], "archives": []},
    )
    return open_store(str(root))


def as_before_datasets(root):
    """Rewrites a store as it was written before samples had a data set: without the column in shards and index."""
    root = Path(root)
    manifest = json.loads((root / "manifest.json").read_text())
    for shard in manifest["shards"]:
        path = root / shard["path"]
        before = pq.ParquetFile(path, memory_map=False)
        schema = before.schema_arrow.remove(before.schema_arrow.get_field_index("dataset"))
        content = pa.BufferOutputStream()
        with pq.ParquetWriter(content, schema, compression="none", use_dictionary=False) as writer:
            for number in range(before.num_row_groups):
                writer.write_table(before.read_row_group(number).select(schema.names).cast(schema))
            rejects = before.metadata.metadata[b"depthflow.rejects"].decode()
            writer.add_key_value_metadata({"depthflow.rejects": rejects})
        path.write_bytes(written := content.getvalue().to_pybytes())
        shard |= {"bytes": len(written), "xxh3_128": xxhash.xxh3_128_hexdigest(written)}
    index = root / "index.parquet"
    pq.write_table(pq.read_table(index).drop_columns(["dataset"]), index)
    manifest["tables"]["index.parquet"] = xxhash.xxh3_128_hexdigest(index.read_bytes())
    (root / "manifest.json").write_text(json.dumps(manifest))
