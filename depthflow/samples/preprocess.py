"""Raw triplets to a sample store: plan the shards, make them with Ray Data on every node, write the manifest last."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from depthflow.config import PreprocessConfig
from depthflow.diode.camera import Camera, read_camera
from depthflow.diode.layout import find_triplets
from depthflow.errors import SourceError, StoreError, unwrapped
from depthflow.samples.files import StoreFiles
from depthflow.samples.lock import writer_lock
from depthflow.samples.plan import ShardPlan, deal_to_shards, plan_samples, resplit
from depthflow.samples.schema import INDEX_SCHEMA, PLANE_DTYPES, REJECT_SCHEMA, shard_schema
from depthflow.samples.shard import SampleLayout, ShardRecord, committed_plan_digest, make_shard
from depthflow.samples.store import FORMAT, INDEX, MANIFEST, REJECTS, SampleStore, fingerprint, open_store

Progress = Callable[[int, int], None]
"""Called with (inputs done, inputs in all)."""


def preprocess(config: PreprocessConfig, progress: Progress) -> SampleStore:
    """Writes a store, or finishes one that was begun, or finds it finished. Needs a running Ray.

    Raises:
        SourceError: if a source is missing or holds no usable sample.
        StoreError: if the folder holds a store of another configuration or source, or is being written.
    """
    plans = plan_store(config)
    files = StoreFiles(config.out)
    with writer_lock(files.root):
        _refuse_other_content(files, config, plans)
        files.remove_temporaries()
        if not files.exists(MANIFEST):
            records = _make_shards(config, plans, files, progress)
            _finish(config, files, records)
    return open_store(files.root)


def content_config(config: PreprocessConfig) -> dict[str, Any]:
    """The part of the configuration that the store's content depends on."""
    only_where = {"val_fraction"} if config.resplit is None else set()
    ignored = {"source", "out", "num_cpus"} | only_where
    settings = {name: value for name, value in asdict(config).items() if name not in ignored}
    return settings | {"splits": sorted(config.splits)}


def plan_store(config: PreprocessConfig) -> list[ShardPlan]:
    """Finds the sources' triplets and deals them to shards."""
    splits = (config.resplit,) if config.resplit else config.splits
    samples = plan_samples((source, t) for source in config.source for t in find_triplets(source, splits))
    if all(sample.reject_reason for sample in samples):
        reasons = Counter(sample.reject_reason for sample in samples)
        raise SourceError(
            f"No whole triplet in {', '.join(config.source)}: {dict(reasons)}. For example "
            f"{samples[0].triplet.sample_id}: {samples[0].reject_message}."
        )
    if config.resplit:
        divided = resplit(samples, val_fraction=config.val_fraction, seed=config.seed)
        samples = [sample for sample in divided if sample.triplet.split in config.splits]
    schema = shard_schema(height=config.height, width=config.width, metadata={})
    return deal_to_shards(
        samples,
        sample_bytes=sum(schema.field(plane).type.byte_width for plane in PLANE_DTYPES),
        shard_bytes=config.shard_mib * 2**20,
        seed=config.seed,
        settings=json.dumps(content_config(config), sort_keys=True),
    )


def _refuse_other_content(files: StoreFiles, config: PreprocessConfig, plans: list[ShardPlan]) -> None:
    """A folder is resumed only by the configuration and the source that began it."""
    advice = "Choose another --out, or delete the folder."
    if files.exists(MANIFEST):
        written = open_store(files.root).manifest["config"]
        asked = json.loads(json.dumps(content_config(config)))
        differing = {k: (written.get(k), asked[k]) for k in asked if written.get(k) != asked[k]}
        if differing:
            changes = ", ".join(f"{k} {old} (now {new})" for k, (old, new) in differing.items())
            raise StoreError(f"{files.root} is a store of another configuration: {changes}. {advice}")
    planned = {plan.path: plan.digest for plan in plans}
    for path in files.names("split=*/part-*.parquet"):
        if planned.get(path) != committed_plan_digest(files, path):
            raise StoreError(
                f"{files.root} was begun with another configuration or with a source that held other samples: "
                f"{path} does not belong to this plan. {advice}"
            )


def _make_shards(
    config: PreprocessConfig, plans: list[ShardPlan], files: StoreFiles, progress: Progress
) -> list[ShardRecord]:
    """Ray Data maps over shard plans: a task makes one whole shard, and only its index rows come back."""
    import ray

    layout = SampleLayout(
        height=config.height,
        width=config.width,
        edge_relative_jump=config.edge_relative_jump,
        edge_radius_px=config.edge_radius_px,
    )
    cameras: dict[str, Camera | None] = {source: read_camera(source) for source in config.source}

    plans_ref = ray.put(plans)

    def make(item: dict[str, Any]) -> dict[str, Any]:
        plan = ray.get(plans_ref)[item["shard"]]
        return make_shard(plan, files=files, layout=layout, cameras=cameras).to_row()

    shards = [{"shard": number} for number in range(len(plans))]
    made = ray.data.from_items(shards, override_num_blocks=len(plans)).map(make)
    records: list[ShardRecord] = []
    done, total = 0, sum(len(plan.samples) for plan in plans)
    with unwrapped():
        for row in made.iter_rows():
            record = ShardRecord.from_row(row)
            records.append(record)
            done += record.rows.num_rows + record.rejects.num_rows
            progress(done, total)
    return sorted(records, key=lambda record: record.path)


def _finish(config: PreprocessConfig, files: StoreFiles, records: list[ShardRecord]) -> None:
    """Writes the index, the rejects and, last, the manifest."""
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
            f"{dict(Counter(rejects['reason'].to_pylist()))}. For example {rejects['message'][0].as_py()}."
        )
    _write_table(files, INDEX, index)
    _write_table(files, REJECTS, rejects.cast(REJECT_SCHEMA))
    settings = content_config(config)
    manifest = {
        "format": FORMAT,
        "fingerprint": fingerprint(settings, index, rejects),
        "config": settings,
        "samples": index.num_rows,
        "rejects": rejects.num_rows,
        "counts": _counts(zip(index["split"].to_pylist(), index["scene_type"].to_pylist(), strict=True)),
        "rejects_by_reason": dict(sorted(Counter(rejects["reason"].to_pylist()).items())),
        "shards": [
            {"path": r.path, "rows": r.rows.num_rows, "bytes": r.file_bytes, "xxh3_128": r.file_xxh3} for r in records
        ],
        "versions": {name: version(name) for name in ("depthflow", "ray", "pyarrow", "numpy", "opencv-python")},
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    files.write(MANIFEST, json.dumps(manifest, indent=2).encode())


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
