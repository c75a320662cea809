"""Turns raw frames into a sample store: lists the sources, plans the shards, makes them, finishes the store."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported.

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from depthflow.errors import SourceError, StoreError
from depthflow.observability.gauges import StageGauges
from depthflow.observability.logs import fields
from depthflow.storage.files import StoreFiles, open_files
from depthflow.store.schema import sample_bytes, shard_schema
from depthflow.store.store import MANIFEST, SampleStore, open_store
from depthflow.store.write.choose_views import to_be_matched, with_views
from depthflow.store.write.config import PreprocessConfig
from depthflow.store.write.dry_run import write_frames
from depthflow.store.write.finish import finish_store
from depthflow.store.write.list_sources import Progress, archive_identities, list_sources
from depthflow.store.write.plan import ShardPlan, deal_to_shards, plan_samples
from depthflow.store.write.sample import SampleLayout
from depthflow.store.write.shard import ShardRecord, committed_plan_digest, make_shard
from depthflow.store.write.sources import (
    STAGING,
    ArchiveSource,
    Source,
    account_for,
)
from depthflow.store.write.split_files import read_split_files, split_by_files
from depthflow.store.write.splits import LEFT_OUT, split_by_scene, split_by_time, status
from depthflow.store.write.staging import Segment, plan_staging, sample_maker, stage_segment
from depthflow.store.write.tasks import Limits, Outcome, Reporter, check_rejects, run_tasks

BY_FILES = "file"
"""What a manifest states as resplit if its splits come from --split-file."""

_log = logging.getLogger(__name__)


def preprocess(config: PreprocessConfig, progress: Callable[[str], Progress]) -> SampleStore:
    """Writes a store, or resumes one, or finds it finished. Needs a running Ray.

    Args:
        progress: Returns the callable that shows the progress of a stage, by the stage's label.

    Raises:
        SourceError: if a source is missing, damaged or holds no usable sample, or lacks samples that are required.
        StoreError: if the folder holds a store of another configuration or source, is being written by another
            process, or cannot be written; if a sample takes too long, or too many inputs are rejected.
    """
    files, identities = open_files(config.out), archive_identities(config)
    read_split_files(config.split_file)  # One that cannot be read fails before the sources are listed.
    limits = Limits(sample_timeout_s=config.sample_timeout_s, max_rejects=config.max_rejects)
    with files.writer_lock() as files:
        files.remove_temporaries()
        _require_same_settings(files, content_config(config))
        if len(identities) < len(config.source) or config.split_file or not _holds_archives(files, identities):
            sources = list_sources(config, files, limits, progress)
            _write_store(config, sources, files, limits, progress)
        files.remove(STAGING)
        files.remove_temporaries()
    return open_store(files.root)


def store_facts(store: SampleStore) -> dict[str, Any]:
    """Returns what the command says of a store."""
    manifest = store.manifest
    counted = ("samples", "rejects", "rejects_by_reason", "counts", "accounting", "shards", "fingerprint")
    facts = {name: manifest[name] for name in counted} | {"shards": len(manifest["shards"])}
    return {"status": status(manifest["rejects_by_reason"]), "out": store.files.root, **facts}


def dry_run(config: PreprocessConfig, progress: Callable[[str], Progress]) -> tuple[pa.Table, list[Source]]:
    """Lists the sources, divides their frames between the splits, and writes the frame table. Needs Ray for archives.

    Returns:
        The frames as `PLAN_SCHEMA`, and their sources.

    Raises:
        SourceError: as `preprocess` does.
        StoreError: if the folder is being written by another process, or cannot be written.
    """
    limits = Limits(sample_timeout_s=config.sample_timeout_s, max_rejects=config.max_rejects)
    with open_files(config.out).writer_lock() as files:
        sources = list_sources(config, files, limits, progress)
        rows = plan_rows(config, sources)
        write_frames(rows, files)
    return rows, sources


def content_config(config: PreprocessConfig) -> dict[str, Any]:
    """Returns the part of the configuration that the store's content depends on."""
    unused = {"val_fraction"} if config.resplit is None else set()
    unused |= {"gap_s"} if config.resplit != "time" else set()
    unused |= {"kind"} if config.kind == "depth" else set()
    unused |= {"depth_from"} if config.depth_from == "file" else set()
    unused |= {"frame_step", "min_motion_m"} if config.kind != "video" else set()
    ignored = {"source", "layout", "out", "num_cpus", "verbose", "require_complete", "max_rejects", "report"}
    ignored |= {"sample_timeout_s", "dry_run", "split_file"}
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in ignored | unused}
    return settings | {"splits": sorted(config.splits), "resplit": BY_FILES if config.split_file else config.resplit}


def sample_layout(config: PreprocessConfig) -> SampleLayout:
    """Returns the part of the configuration that a sample's planes depend on."""
    return SampleLayout(**{field.name: getattr(config, field.name) for field in dataclasses.fields(SampleLayout)})


def plan_shards(config: PreprocessConfig, sources: Sequence[Source]) -> list[ShardPlan]:
    """Deals the sources' samples to shards.

    Raises:
        SourceError: if no frame is complete.
    """
    schema = shard_schema(height=config.height, width=config.width, metadata={}, kind=config.kind)
    return deal_to_shards(
        plan_rows(config, sources),
        sample_bytes=sample_bytes(schema),
        shard_bytes=config.shard_mib * 2**20,
        seed=config.seed,
        settings=json.dumps(content_config(config), sort_keys=True),
    )


def plan_rows(config: PreprocessConfig, sources: Sequence[Source]) -> pa.Table:
    """Returns the sources' frames as `PLAN_SCHEMA`, in the splits that they are stored in.

    Raises:
        SourceError: if no frame is complete.
    """
    rows = plan_samples(sources)
    if pc.all(pc.not_equal(rows["reason"], "")).as_py():
        first = rows.slice(0, 1).to_pylist()[0]
        raise SourceError(
            f"No whole frame in {', '.join(source.location for source in sources)}: "
            f"{dict(Counter(rows['reason'].to_pylist()))}. For example {first['sample_id']}: {first['problem']}. Fix "
            "the source, then run the same command again."
        )
    rows = _divided(rows, config)
    if config.depth_from == "stereo":
        return to_be_matched(with_views(rows, "stereo"))
    return with_views(rows, config.kind, frame_step=config.frame_step, min_motion_m=config.min_motion_m)


def _divided(rows: pa.Table, config: PreprocessConfig) -> pa.Table:
    """Returns the rows to be stored, in the splits that the flags ask for."""
    if config.split_file:
        rows = split_by_files(rows, read_split_files(config.split_file), config.splits)
    elif config.resplit == "time":
        rows = split_by_time(rows, val_fraction=config.val_fraction, gap_s=config.gap_s, seed=config.seed)
    elif config.resplit:
        rows = split_by_scene(rows, val_fraction=config.val_fraction, seed=config.seed)
    return rows.filter(pc.is_in(rows["split"], pa.array(config.splits)))


def _require_same_settings(files: StoreFiles, settings: Mapping[str, Any]) -> None:
    """Raises StoreError if the folder holds a finished store of another configuration."""
    if not files.exists(MANIFEST):
        return
    written = open_store(files.root).manifest["config"]
    asked = json.loads(json.dumps(settings))
    differing = {k: (written.get(k), asked[k]) for k in asked if written.get(k) != asked[k]}
    if differing:
        changes = ", ".join(f"{k} {old} (now {new})" for k, (old, new) in differing.items())
        raise StoreError(
            f"{files.root} is a store of another configuration: {changes}. Choose another --out, or delete the folder."
        )


def _holds_archives(files: StoreFiles, identities: Mapping[str, str]) -> bool:
    """Whether the store is finished and was made from exactly these archives, so they need not be listed again."""
    if not files.exists(MANIFEST):
        return False
    return open_store(files.root).manifest.get("archives") == sorted(identities.values())


def _require_same_shards(files: StoreFiles, plans: Sequence[ShardPlan]) -> None:
    """Raises StoreError if a committed shard belongs to another configuration or source."""
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
    files: StoreFiles,
    limits: Limits,
    progress: Callable[[str], Progress],
) -> None:
    """Plans the store, and makes what is missing of it."""
    accounting = account_for(sources, config.source_splits, must_be_diode=config.require_complete)
    if config.require_complete and not accounting.is_complete:
        raise SourceError(f"--require-complete: {accounting.describe_gap()}")
    plans = plan_shards(config, sources)
    _require_same_shards(files, plans)
    if files.exists(MANIFEST):
        return
    unread = pa.concat_tables([plan.rows.filter(pc.not_equal(plan.rows["reason"], "")) for plan in plans])
    if limits.max_rejects is not None:
        left_out = sum(reason in LEFT_OUT for reason in unread["reason"].to_pylist())
        limits = limits._replace(max_rejects=limits.max_rejects + left_out)
    example = "".join(f"{row['sample_id']} ({row['problem']})" for row in unread.slice(0, 1).to_pylist())
    check_rejects(unread.num_rows, max_rejects=limits.max_rejects, example=example)
    layout = sample_layout(config)
    plans, segments = plan_staging(plans, sources, files)
    _stage(segments, layout, files, limits, progress("samples staged"))
    records = _make_shards(plans, layout, files, limits, progress("inputs"))
    finish_store(
        files,
        records,
        accounting,
        settings=content_config(config),
        origin={
            "sources": [source.location for source in sources],
            "archives": sorted(source.identity for source in sources if isinstance(source, ArchiveSource)),
        },
    )


def _stage(
    segments: Sequence[Segment], layout: SampleLayout, files: StoreFiles, limits: Limits, progress: Progress
) -> None:
    """Makes the samples of archives, one task per segment."""

    def work(segment: Segment, reporter: Reporter) -> Outcome:
        rejects = stage_segment(segment, files=files, layout=layout, watch=reporter.watch)
        return Outcome(segment.rows.num_rows, rejects)

    total = sum(segment.rows.num_rows for segment in segments)
    run_tasks(segments, work, limits=limits, progress=_shown(progress, "staging", total))


def _make_shards(
    plans: Sequence[ShardPlan], layout: SampleLayout, files: StoreFiles, limits: Limits, progress: Progress
) -> list[ShardRecord]:
    """Makes the shards, one task per shard, and returns their records by path."""
    records: list[ShardRecord] = []

    def take(outcome: Outcome) -> None:
        records.append(outcome.value)
        _log_rejects(outcome.value)

    total = sum(plan.rows.num_rows for plan in plans)
    run_tasks(
        plans, shard_work(layout, files), limits=limits, progress=_shown(progress, "shards", total), on_outcome=take
    )
    return sorted(records, key=lambda record: record.path)


def shard_work(layout: SampleLayout, files: StoreFiles) -> Callable[[ShardPlan, Reporter], Outcome]:
    """Returns what a task does with its plan; the outcome's value is the shard's record."""

    def work(plan: ShardPlan, reporter: Reporter) -> Outcome:
        make = sample_maker(layout, files)
        record = make_shard(plan, files=files, layout=layout, make=make, watch=reporter.watch)
        return Outcome(plan.rows.num_rows, record.rejects.num_rows, record)

    return work


def _shown(progress: Progress, stage: str, total: int) -> Callable[[int, int], None]:
    """Shows how much of a stage is done to people and to Prometheus."""
    gauges = StageGauges(stage, total=total)

    def show(done: int, rejects: int) -> None:
        progress(done, total)
        gauges(done, rejects)

    return show


def _log_rejects(record: ShardRecord) -> None:
    """Writes a log event for each reject."""
    for reject in record.rejects.to_pylist():
        _log.info(
            "rejected: %s",
            reject["message"],
            extra=fields(sample_id=reject["sample_id"], split=reject["split"], reason=reject["reason"]),
        )
