"""Stores made in this process, without Ray."""

import contextlib

from depthflow.datasets.archive import archive_identity, is_archive
from depthflow.storage.files import open_files
from depthflow.store.store import open_store
from depthflow.store.write.finish import finish_store
from depthflow.store.write.preprocess import content_config, plan_shards, sample_layout, source_splits
from depthflow.store.write.shard import make_shard
from depthflow.store.write.sources import ArchiveSource, account_for, list_archive, list_tree, read_archive_source
from depthflow.store.write.staging import plan_staging, sample_maker, stage_segment


def unwatched(planned):
    """Watches nothing."""
    return contextlib.nullcontext()


def list_source(location, splits, files):
    """A tree or an archive, listed."""
    if not is_archive(location):
        return list_tree(location, splits)
    identity = archive_identity(location)
    list_archive(location, identity, files, threads=2, progress=lambda name, done: None)
    return read_archive_source(location, identity, splits, files)


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
