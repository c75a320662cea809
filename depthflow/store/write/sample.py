"""Converts a triplet's bytes to the row that a shard stores, and back. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from depthflow.datasets.camera import Camera, camera_of_frame
from depthflow.datasets.decode import decode_frame
from depthflow.datasets.frames import Frame
from depthflow.datasets.reject import RejectError
from depthflow.store.schema import IDENTITY_FIELDS, PLANE_DTYPES, ROW_SCHEMA, plane_batch, with_dataset
from depthflow.store.write.planes import Planes, depth_figures, make_planes


@dataclass(frozen=True, kw_only=True)
class SampleLayout:
    """The part of the configuration that a sample's planes depend on; see `PreprocessConfig`."""

    height: int
    width: int
    edge_relative_jump: float
    edge_radius_px: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample in memory.

    Attributes:
        row: A value for each field of `ROW_SCHEMA`, and the seconds it took to make if they are known.
        planes: Its arrays at the stored size.
    """

    row: dict[str, Any]
    planes: Planes


def make_sample(frame: Frame, members: Mapping[str, bytes], layout: SampleLayout) -> Sample:
    """Decodes, checks and resizes one frame.

    Args:
        members: Content of its files.

    Raises:
        RejectError: if the input cannot become a sample.
    """
    decoded = decode_frame(
        members,
        frame.encoding,
        camera=frame.camera,
        depth_camera=frame.depth_camera,
        baseline_m=frame.baseline_m,
        right_cx_px=frame.right_cx_px,
    )
    height, width = decoded.rgb.shape[:2]
    camera = camera_of_frame(frame.camera, dataset=frame.dataset, height=height, width=width)
    planes = make_planes(
        rgb=decoded.rgb,
        depth_m=decoded.depth_m,
        valid_mask=decoded.valid_mask,
        views=(camera, frame.depth_camera) if camera and frame.depth_camera else None,
        height=layout.height,
        width=layout.width,
        edge_relative_jump=layout.edge_relative_jump,
        edge_radius_px=layout.edge_radius_px,
    )
    if not planes.valid_mask.any():
        raise RejectError("no_valid_pixel", f"none is left at {layout.height} x {layout.width}")
    source_height, source_width = decoded.valid_mask.shape
    stored_camera = camera.resized(height=layout.height, width=layout.width) if camera else None
    row = {
        **{field.name: getattr(frame, field.name) for field in IDENTITY_FIELDS},
        "source_height": source_height,
        "source_width": source_width,
        **{name: getattr(stored_camera, name, None) for name in ("fx_px", "fy_px", "cx_px", "cy_px")},
        **depth_figures(planes),
        **{f"{name}_xxh3": xxhash.xxh3_128_hexdigest(content) for name, content in members.items()},
        "content_xxh3": _content_checksum(planes, stored_camera),
    }
    return Sample(row=row, planes=planes)


def _content_checksum(planes: Planes, camera: Camera | None) -> str:
    content = xxhash.xxh3_128()
    for name in PLANE_DTYPES:
        content.update(np.ascontiguousarray(getattr(planes, name)).data)
    content.update(repr(camera).encode())
    return content.hexdigest()


def to_table(samples: Sequence[Sample], schema: pa.Schema) -> pa.Table:
    """Returns samples as rows of a shard; each plane is copied once.

    Args:
        schema: A `shard_schema`.
    """
    rows = pa.Table.from_pylist([sample.row for sample in samples], schema=ROW_SCHEMA)
    planes = {
        name: _plane_column([getattr(sample.planes, name) for sample in samples], schema.field(name).type)
        for name in PLANE_DTYPES
    }
    return pa.Table.from_arrays([*rows.columns, *planes.values()], schema=schema)


def _plane_column(planes: Sequence[np.ndarray], kind: pa.DataType) -> pa.Array:
    values = np.concatenate([np.ascontiguousarray(plane).reshape(-1).view(np.uint8) for plane in planes])
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(planes), [None, pa.py_buffer(values)])


def from_batch(batch: pa.RecordBatch) -> Sample:
    """Returns the sample of a batch of one row; its planes are views of the batch."""
    fields = batch.schema
    planes = {name: plane_batch(batch.column(name), fields.field(name))[0] for name in PLANE_DTYPES}
    [row] = with_dataset(pa.Table.from_batches([batch])).select(ROW_SCHEMA.names).to_pylist()
    return Sample(row=row, planes=Planes(**planes))
