"""Stores made in this process, without Ray."""

import contextlib

import pyarrow as pa
import xxhash

from depthflow.datasets.archive import archive_identity, is_archive
from depthflow.datasets.layouts import find_frames
from depthflow.datasets.listing import list_tree
from depthflow.storage.files import open_files
from depthflow.store.schema import INDEX_SCHEMA, REJECT_SCHEMA, ROW_SCHEMA, SECONDS_FIELD
from depthflow.store.store import open_store
from depthflow.store.write.finish import finish_store
from depthflow.store.write.preprocess import content_config, plan_shards, sample_layout, source_splits
from depthflow.store.write.shard import ShardRecord, make_shard
from depthflow.store.write.sources import ArchiveSource, account_for, list_archive, read_archive, read_tree
from depthflow.store.write.staging import plan_staging, sample_maker, stage_segment


def diode_frames(location, splits=("train", "val")):
    """The frames of a tree in DIODE's layout."""
    return find_frames(list_tree(location), "diode", splits)


def unwatched(planned):
    """Watches nothing."""
    return contextlib.nullcontext()


def list_source(location, splits, files):
    """A tree or an archive, listed."""
    if not is_archive(location):
        return read_tree(location, splits)
    identity = archive_identity(location)
    list_archive(location, identity, files, threads=2, progress=lambda name, done: None)
    return read_archive(location, identity, splits, files)


def make_store(config):
    """What preprocess.py does, archives included, without its lock and without Ray."""
    files, splits, layout = open_files(config.out), source_splits(config), sample_layout(config)
    listed = [list_source(location, splits, files) for location in config.source]
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


def write_index(root, rows, *, height, width):
    """A finished store of these rows of the index, in one shard a split, whose files are empty.

    Args:
        rows: Of `INDEX_SCHEMA`, in any order; shard and row are filled in.
    """
    files = open_files(str(root))
    records = []
    for split in sorted({row["split"] for row in rows}):
        path = f"split={split}/part-00000.parquet"
        files.write(path, b"")
        mine = [{**dict.fromkeys(INDEX_SCHEMA.names), "dataset": "diode", **row} for row in rows if row["split"] == split]
        table = pa.Table.from_pylist(mine, schema=ROW_SCHEMA.append(SECONDS_FIELD))
        rejects = pa.Table.from_pylist([], schema=REJECT_SCHEMA)
        records.append(
            ShardRecord(path=path, rows=table, rejects=rejects, file_xxh3=xxhash.xxh3_128_hexdigest(b""), file_bytes=0)
        )
    finish_store(
        files,
        records,
        account_for([], ()),
        settings={"height": height, "width": width, "resplit": None},
        origin={"sources": [], "archives": []},
    )
    return open_store(str(root))
