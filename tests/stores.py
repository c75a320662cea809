"""Stores made in this process, without Ray."""

import contextlib

from depthflow.datasets.archive import archive_identity, is_archive
from depthflow.storage.files import open_files
from depthflow.store.store import open_store
from depthflow.store.write.finish import finish_store
from depthflow.store.write.preprocess import content_config, plan_store, sample_layout, shard_maker, source_splits
from depthflow.store.write.shard import make_shard
from depthflow.store.write.sources import account_for, list_source
from depthflow.store.write.staging import list_archive, stage_segment


def unwatched(planned):
    """For what wants to report what it is at."""
    return contextlib.nullcontext()


def make_store(config):
    """What preprocess.py does, archives included, without its lock and without Ray."""
    files, splits, layout = open_files(config.out), source_splits(config), sample_layout(config)
    identities = {source: archive_identity(source) for source in config.source if is_archive(source)}
    for archive, identity in identities.items():
        list_archive(archive, identity, files, threads=2, progress=lambda name, done: None)
    listed = [list_source(source, splits, files, identities) for source in config.source]
    cameras = {source.location: source.camera for source in listed}
    shards, segments = plan_store(config, listed, identities)
    for segment in segments:
        stage_segment(segment, files=files, layout=layout, camera=cameras[segment.archive], watch=unwatched)
    make = shard_maker(layout, cameras, files)
    records = [make_shard(plan, files=files, layout=layout, make=make, watch=unwatched) for plan in shards]
    records.sort(key=lambda record: record.path)
    finish_store(
        files,
        records,
        account_for(listed, splits),
        settings=content_config(config),
        origin={"sources": list(config.source), "archives": sorted(identities.values())},
    )
    return open_store(config.out)
