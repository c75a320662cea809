"""Raw triplets to a sample store: list the sources, plan the shards, make them on every node, finish the store."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from depthflow.datasets.archive import archive_bytes, archive_identity, is_archive
from depthflow.datasets.camera import Camera
from depthflow.errors import SourceError, StoreError
from depthflow.observability.gauges import StageGauges
from depthflow.observability.logs import fields
from depthflow.placement import cluster_capacity, plan_data
from depthflow.storage.files import StoreFiles, open_files
from depthflow.storage.location import absolute
from depthflow.store.schema import PLANE_DTYPES, shard_schema
from depthflow.store.store import MANIFEST, SampleStore, open_store
from depthflow.store.write.config import PreprocessConfig
from depthflow.store.write.finish import finish_store
from depthflow.store.write.plan import PlannedSample, ShardPlan, deal_to_shards, plan_samples, resplit
from depthflow.store.write.sample import Sample, SampleLayout, make_sample
from depthflow.store.write.shard import Make, ShardRecord, committed_plan_digest, make_shard, timed
from depthflow.store.write.sources import Source, account_for, list_source, read_members
from depthflow.store.write.staging import (
    STAGING,
    PieceReader,
    Segment,
    list_archive,
    plan_segments,
    stage_segment,
    with_pieces,
)
from depthflow.store.write.tasks import Limits, Reporter, refuse_many_rejects, run_tasks

Progress = Callable[[int, int], None]
"""Called with (done, in all)."""

_log = logging.getLogger(__name__)


def preprocess(config: PreprocessConfig, progress: Callable[[str], Progress]) -> SampleStore:
    """Writes a store, or finishes one that was begun, or finds it finished. Needs a running Ray.

    Args:
        progress: gives what shows the progress of a stage of the work, by its label.

    Raises:
        SourceError: if a source is missing, damaged or holds no usable sample, or lacks some that are required.
        StoreError: if the folder holds a store of another configuration or source, is being written, or cannot be; if
            a sample takes too long, or too many are refused.
    """
    config = replace(config, source=tuple(map(absolute, config.source)))
    files = open_files(config.out)
    identities = {source: archive_identity(source) for source in config.source if is_archive(source)}
    trees = {
        source: list_source(source, source_splits(config), files, {})
        for source in config.source
        if source not in identities
    }
    with files.writer_lock():
        files.remove_temporaries()
        _refuse_other_configuration(files, config)
        if trees or not _holds_archives(files, identities):
            _list_archives(config, identities, files, progress("archives listed, in MiB"))
            archives = {source: list_source(source, source_splits(config), files, identities) for source in identities}
            sources = [{**trees, **archives}[source] for source in config.source]
            _write_store(config, sources, identities, files, progress)
        files.remove(STAGING)
        files.remove_temporaries()
    return open_store(files.root)


def content_config(config: PreprocessConfig) -> dict[str, Any]:
    """The part of the configuration that the store's content depends on."""
    only_where = {"val_fraction"} if config.resplit is None else set()
    ignored = {"source", "out", "num_cpus", "require_complete", "max_rejects", "sample_timeout_s", "report"}
    settings = {name: value for name, value in asdict(config).items() if name not in ignored | only_where}
    return settings | {"splits": sorted(config.splits)}


def source_splits(config: PreprocessConfig) -> tuple[str, ...]:
    """The splits to take from the sources."""
    return (config.resplit,) if config.resplit else config.splits


def sample_layout(config: PreprocessConfig) -> SampleLayout:
    """The part of the configuration that a sample's planes depend on."""
    return SampleLayout(
        height=config.height,
        width=config.width,
        edge_relative_jump=config.edge_relative_jump,
        edge_radius_px=config.edge_radius_px,
    )


def plan_store(
    config: PreprocessConfig, sources: Sequence[Source], identities: dict[str, str]
) -> tuple[list[ShardPlan], list[Segment]]:
    """Deals the sources' samples to shards, and those of archives to segments, too.

    Raises:
        SourceError: if no sample is whole.
    """
    samples = plan_samples((source.location, triplet) for source in sources for triplet in source.triplets)
    if all(sample.reject_reason for sample in samples):
        reasons = Counter(sample.reject_reason for sample in samples)
        raise SourceError(
            f"No whole triplet in {', '.join(config.source)}: {dict(reasons)}. For example "
            f"{samples[0].triplet.sample_id}: {samples[0].reject_message}. Mend the source, then run the "
            "same command again."
        )
    if config.resplit:
        divided = resplit(samples, val_fraction=config.val_fraction, seed=config.seed)
        samples = [sample for sample in divided if sample.triplet.split in config.splits]
    settings = json.dumps(content_config(config), sort_keys=True)
    segments = [
        segment
        for archive, identity in identities.items()
        for segment in plan_segments(
            [sample for sample in samples if sample.source == archive and not sample.reject_reason],
            archive=archive,
            identity=identity,
            settings=settings,
        )
    ]
    schema = shard_schema(height=config.height, width=config.width, metadata={})
    shards = deal_to_shards(
        with_pieces(samples, segments),
        sample_bytes=sum(schema.field(plane).type.byte_width for plane in PLANE_DTYPES),
        shard_bytes=config.shard_mib * 2**20,
        seed=config.seed,
        settings=settings,
    )
    return shards, segments


def shard_maker(layout: SampleLayout, cameras: dict[str, Camera | None], files: StoreFiles) -> Make:
    """Makes planned samples: a tree's from its files; an archive's were made already and lie in pieces."""
    pieces = PieceReader(files)

    def from_tree(planned: PlannedSample) -> Sample:
        return make_sample(planned.triplet, read_members(planned), layout, cameras.get(planned.source))

    timed_from_tree = timed(from_tree)
    return lambda planned: pieces.take(*planned.staged) if planned.staged else timed_from_tree(planned)


def _refuse_other_configuration(files: StoreFiles, config: PreprocessConfig) -> None:
    """A finished store is left alone by another configuration."""
    if not files.exists(MANIFEST):
        return
    written = open_store(files.root).manifest["config"]
    asked = json.loads(json.dumps(content_config(config)))
    differing = {k: (written.get(k), asked[k]) for k in asked if written.get(k) != asked[k]}
    if differing:
        changes = ", ".join(f"{k} {old} (now {new})" for k, (old, new) in differing.items())
        raise StoreError(
            f"{files.root} is a store of another configuration: {changes}. Choose another --out, or delete the folder."
        )


def _holds_archives(files: StoreFiles, identities: dict[str, str]) -> bool:
    """Whether the store is finished and was made of these very archives, which need not be listed again then."""
    if not files.exists(MANIFEST):
        return False
    return open_store(files.root).manifest.get("archives") == sorted(identities.values())


def _refuse_other_shards(files: StoreFiles, plans: Sequence[ShardPlan]) -> None:
    """A folder is resumed only by the configuration and the source that began it."""
    planned = {plan.path: plan.digest for plan in plans}
    for path in files.names("split=*/part-*.parquet"):
        if planned.get(path) != committed_plan_digest(files, path):
            raise StoreError(
                f"{files.root} was begun with another configuration or with a source that held other samples: "
                f"{path} does not belong to this plan. Choose another --out, or delete the folder."
            )


def _write_store(
    config: PreprocessConfig,
    sources: Sequence[Source],
    identities: dict[str, str],
    files: StoreFiles,
    progress: Callable[[str], Progress],
) -> None:
    """All that is left to do for a finished store."""
    accounting = account_for(sources, source_splits(config))
    if config.require_complete and not accounting.is_complete:
        raise SourceError(f"--require-complete: {accounting.describe_gap()}")
    shards, segments = plan_store(config, sources, identities)
    _refuse_other_shards(files, shards)
    if files.exists(MANIFEST):
        return
    unread = [sample for shard in shards for sample in shard.samples if sample.reject_reason]
    refuse_many_rejects(
        len(unread),
        max_rejects=config.max_rejects,
        example=f"{unread[0].triplet.sample_id} ({unread[0].reject_message})" if unread else "",
    )
    cameras = {source.location: source.camera for source in sources}
    _stage(config, _needed(segments, shards, files), cameras, files, progress("samples staged"))
    records = _make_shards(config, shards, cameras, files, progress("inputs"))
    finish_store(
        files,
        records,
        accounting,
        settings=content_config(config),
        origin={"sources": list(config.source), "archives": sorted(identities.values())},
    )


def _needed(segments: Sequence[Segment], shards: Sequence[ShardPlan], files: StoreFiles) -> list[Segment]:
    """The segments that hold a sample of a shard that is not made yet."""
    pieces = {
        sample.staged[0]
        for shard in shards
        if not files.exists(shard.path)
        for sample in shard.samples
        if sample.staged
    }
    return [segment for segment in segments if segment.piece in pieces]


def _limits(config: PreprocessConfig) -> Limits:
    return Limits(sample_timeout_s=config.sample_timeout_s, max_rejects=config.max_rejects)


def _list_archives(config: PreprocessConfig, identities: dict[str, str], files: StoreFiles, progress: Progress) -> None:
    """Lists each archive in a task with a thread for each CPU of its node, which it borrows: it waits for none."""
    if not identities:
        return
    threads = plan_data(**cluster_capacity()).most_cpus
    sizes_mib = {archive: archive_bytes(archive) // 2**20 for archive in identities}

    def work(archive: str, reporter: Reporter) -> dict[str, Any]:
        def at(member: str, position_bytes: int) -> None:
            reporter.begin(member, done=position_bytes // 2**20)

        list_archive(archive, identities[archive], files, threads=threads, progress=at)
        return {"done": sizes_mib[archive], "refused": 0}

    total = sum(sizes_mib.values())
    run_tasks(list(identities), work, limits=_limits(config), progress=lambda done: progress(done, total))


def _stage(
    config: PreprocessConfig,
    segments: Sequence[Segment],
    cameras: dict[str, Camera | None],
    files: StoreFiles,
    progress: Progress,
) -> None:
    """Makes the samples of archives, a task a segment."""
    layout = sample_layout(config)
    total = sum(len(segment.samples) for segment in segments)

    def work(segment: Segment, reporter: Reporter) -> dict[str, Any]:
        refused = stage_segment(
            segment, files=files, layout=layout, camera=cameras[segment.archive], watch=reporter.watch
        )
        return {"done": len(segment.samples), "refused": refused}

    run_tasks(
        segments,
        work,
        limits=_limits(config),
        progress=lambda done: progress(done, total),
        gauges=StageGauges("staging", total=total),
    )


def _make_shards(
    config: PreprocessConfig,
    plans: Sequence[ShardPlan],
    cameras: dict[str, Camera | None],
    files: StoreFiles,
    progress: Progress,
) -> list[ShardRecord]:
    """Makes the shards, a task a shard; only its index rows come back."""
    total = sum(len(plan.samples) for plan in plans)
    work = shard_work(sample_layout(config), cameras, files)
    records: list[ShardRecord] = []

    def take(row: dict[str, Any]) -> None:
        records.append(ShardRecord.from_row(row))
        _log_rejects(records[-1])

    run_tasks(
        plans,
        work,
        limits=_limits(config),
        progress=lambda done: progress(done, total),
        gauges=StageGauges("shards", total=total),
        on_result=take,
    )
    return sorted(records, key=lambda record: record.path)


def _log_rejects(record: ShardRecord) -> None:
    """For logs of records; for people rejects.parquet has them all."""
    for reject in record.rejects.to_pylist():
        _log.info(
            "refused: %s",
            reject["message"],
            extra=fields(sample_id=reject["sample_id"], split=reject["split"], reason=reject["reason"]),
        )


def shard_work(
    layout: SampleLayout, cameras: dict[str, Camera | None], files: StoreFiles
) -> Callable[[ShardPlan, Reporter], dict[str, Any]]:
    """What a task does with its plan; its record comes back as plain values."""

    def work(plan: ShardPlan, reporter: Reporter) -> dict[str, Any]:
        make = shard_maker(layout, cameras, files)
        record = make_shard(plan, files=files, layout=layout, make=make, watch=reporter.watch)
        return {"done": len(plan.samples), "refused": record.rejects.num_rows, **record.to_row()}

    return work
