"""One task's whole job: make a shard from its plan and commit it. Knows nothing of Ray."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from depthflow.diode.camera import Camera, camera_of_frame
from depthflow.diode.triplet import RejectError, decode_triplet
from depthflow.errors import SourceError, StoreError
from depthflow.samples.files import StoreFiles
from depthflow.samples.plan import PlannedSample, ShardPlan
from depthflow.samples.planes import Planes, depth_figures, make_planes
from depthflow.samples.schema import PLANE_DTYPES, REJECT_SCHEMA, ROW_SCHEMA, shard_schema

MAX_ROWS_PER_GROUP = 16
MAX_GROUP_BYTES = 16 * 2**20
"""A row group is what a reader fetches at once: 16 samples at 256 x 256, 2 at 768 x 1024."""


@dataclass(frozen=True, kw_only=True)
class SampleLayout:
    """What makes a sample's content: the part of the configuration that its planes depend on."""

    height: int
    width: int
    edge_relative_jump: float
    edge_radius_px: int


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What is left to know of a committed shard.

    Attributes:
        path: in the store.
        rows: `ROW_SCHEMA`, a row a sample, in the shard's order.
        rejects: `REJECT_SCHEMA`, a row a refused input.
        file_xxh3: xxh3-128 of the file.
        file_bytes: its size.
    """

    path: str
    rows: pa.Table
    rejects: pa.Table
    file_xxh3: str
    file_bytes: int

    def to_row(self) -> dict[str, object]:
        """The record as plain values, to travel through Ray Data; the tables as Arrow IPC streams."""
        return {**vars(self), "rows": _to_ipc(self.rows), "rejects": _to_ipc(self.rejects)}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "ShardRecord":
        """What `to_row` was made from."""
        tables = {name: pa.ipc.open_stream(row[name]).read_all() for name in ("rows", "rejects")}
        return cls(path=row["path"], file_xxh3=row["file_xxh3"], file_bytes=row["file_bytes"], **tables)


def make_shard(
    plan: ShardPlan, *, files: StoreFiles, layout: SampleLayout, cameras: dict[str, Camera | None]
) -> ShardRecord:
    """Makes and commits a shard, or finds it committed.

    The shard's footer holds its plan's digest and its rejects, so that a shard is complete by itself.

    Args:
        cameras: source to the camera its tree states.
    """
    if files.exists(plan.path):
        if committed_plan_digest(files, plan.path) != plan.digest:
            raise StoreError(f"{plan.path} of {files.root} was just written by another run. Choose another --out.")
        return read_shard_record(files, plan.path)
    rejects: list[dict[str, str]] = []
    metadata = {"depthflow.plan": plan.digest}
    schema = shard_schema(height=layout.height, width=layout.width, metadata=metadata)
    group_size = rows_per_group(schema)
    with (
        files.commit(plan.path) as handle,
        pq.ParquetWriter(
            handle,
            schema,
            compression="lz4",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        ) as writer,
    ):
        for rows in _groups(_make_rows(plan, layout, cameras, rejects), group_size):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema), row_group_size=group_size)
        writer.add_key_value_metadata({"depthflow.rejects": json.dumps(rejects)})
    return read_shard_record(files, plan.path)


def rows_per_group(schema: pa.Schema) -> int:
    """Rows of a row group, so that its decoded planes stay under `MAX_GROUP_BYTES`."""
    sample_bytes = sum(schema.field(plane).type.byte_width for plane in PLANE_DTYPES)
    return max(1, min(MAX_ROWS_PER_GROUP, MAX_GROUP_BYTES // sample_bytes))


def read_shard_record(files: StoreFiles, path: str) -> ShardRecord:
    """The record of a committed shard, from the shard alone."""
    content = files.read(path)
    with pq.ParquetFile(pa.BufferReader(content)) as shard:
        rows = shard.read(columns=ROW_SCHEMA.names).cast(ROW_SCHEMA)
        rejects = json.loads(shard.metadata.metadata[b"depthflow.rejects"])
    return ShardRecord(
        path=path,
        rows=rows.replace_schema_metadata(None),
        rejects=pa.Table.from_pylist(rejects, schema=REJECT_SCHEMA),
        file_xxh3=xxhash.xxh3_128_hexdigest(content),
        file_bytes=content.size,
    )


def committed_plan_digest(files: StoreFiles, path: str) -> str:
    """The digest of the plan that a committed shard was made from."""
    try:
        with pq.ParquetFile(files.open(path)) as shard:
            return (shard.schema_arrow.metadata or {}).get(b"depthflow.plan", b"").decode()
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"The shard {path} of {files.root} is damaged: {error}. Delete it, and {files.root}/manifest.json, and run "
            "the same command again."
        ) from None


def _make_rows(
    plan: ShardPlan, layout: SampleLayout, cameras: dict[str, Camera | None], rejects: list[dict[str, str]]
) -> Iterator[dict[str, object]]:
    """A row a sample; what is refused is appended to `rejects` instead."""
    for planned in plan.samples:
        try:
            yield _make_row(planned, layout, cameras.get(planned.source))
        except RejectError as error:
            rejects.append(
                {
                    "sample_id": planned.triplet.sample_id,
                    "split": planned.triplet.split,
                    "source": planned.source,
                    "reason": error.reason,
                    "message": error.message,
                }
            )


def _make_row(planned: PlannedSample, layout: SampleLayout, stated: Camera | None) -> dict[str, object]:
    if planned.reject_reason:
        raise RejectError(planned.reject_reason, planned.reject_message)
    triplet = planned.triplet
    members = {name: _read_member(path) for name, path in triplet.paths.items()}
    frame = decode_triplet(members)
    planes = make_planes(
        rgb=frame.rgb,
        depth_m=frame.depth_m,
        valid_mask=frame.valid_mask,
        height=layout.height,
        width=layout.width,
        edge_relative_jump=layout.edge_relative_jump,
        edge_radius_px=layout.edge_radius_px,
    )
    if not planes.valid_mask.any():
        raise RejectError("no_valid_pixel", f"none is left at {layout.height} x {layout.width}")
    source_height, source_width = frame.valid_mask.shape
    camera = camera_of_frame(stated, height=source_height, width=source_width)
    stored_camera = camera.resized(height=layout.height, width=layout.width) if camera else None
    return {
        **{name: getattr(triplet, name) for name in ("sample_id", "split", "scene_type", "scene", "scan")},
        "source_height": source_height,
        "source_width": source_width,
        **{name: getattr(stored_camera, name, None) for name in ("fx_px", "fy_px", "cx_px", "cy_px")},
        **depth_figures(planes),
        **{f"{name}_xxh3": xxhash.xxh3_128_hexdigest(content) for name, content in members.items()},
        **_plane_values(planes, stored_camera),
    }


def _read_member(path: str) -> bytes:
    """A file's bytes. One that cannot be read stops the run: a disk that went away must not look like bad samples."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read any more: {error.strerror}. Mend the source, then run again."
        ) from None


def _plane_values(planes: Planes, camera: Camera | None) -> dict[str, object]:
    """A row's plane columns, and the checksum of their content and camera."""
    values = {name: np.ascontiguousarray(getattr(planes, name)).tobytes() for name in PLANE_DTYPES}
    content = xxhash.xxh3_128()
    for value in values.values():
        content.update(value)
    content.update(repr(camera).encode())
    return {**values, "content_xxh3": content.hexdigest()}


def _to_ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _groups(rows: Iterator[dict[str, object]], size: int) -> Iterator[list[dict[str, object]]]:
    group: list[dict[str, object]] = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
