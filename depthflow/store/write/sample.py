"""Converts a frame's bytes to the row that a shard stores, and back. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from depthflow.datasets.camera import Camera, camera_of_frame
from depthflow.datasets.decode import decode_frame
from depthflow.datasets.frames import Frame
from depthflow.datasets.reject import RejectError
from depthflow.datasets.stereo_pair import matched_disparity
from depthflow.store.schema import IDENTITY_FIELDS, PLANE_DTYPES, plane_batch, plane_names, with_dataset
from depthflow.store.write.make_views import View, make_views, shows_motion
from depthflow.store.write.planes import Planes, depth_figures, make_planes


@dataclass(frozen=True, kw_only=True)
class SampleLayout:
    """The part of the configuration that a sample depends on; see `PreprocessConfig`."""

    height: int
    width: int
    edge_relative_jump: float
    edge_radius_px: int
    kind: str = "depth"
    min_motion_m: float = 0.0
    depth_from: str = "file"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample in memory.

    Attributes:
        row: A value for each field of its kind's `row_schema`, and the seconds it took to make if they are known.
        planes: Its arrays at the stored size.
        views: (H, W, 3) uint8 images of further views, by name.
    """

    row: dict[str, Any]
    planes: Planes
    views: Mapping[str, np.ndarray] = field(default_factory=dict)

    def plane(self, name: str) -> np.ndarray:
        """Returns the array that a plane of this name holds."""
        return self.views[name] if name in self.views else getattr(self.planes, name)


def make_sample(frame: Frame, members: Mapping[str, bytes], layout: SampleLayout) -> Sample:
    """Decodes, checks and resizes one frame.

    Args:
        members: Content of its files.

    Raises:
        RejectError: if the input cannot become a sample.
    """
    matched = {"depth": matched_disparity(frame, members)} if layout.depth_from == "stereo" else {}
    decoded = decode_frame(
        {**members, **matched},
        frame.encoding,
        camera=frame.camera,
        depth_camera=frame.depth_camera,
        baseline_m=frame.baseline_m,
        right_cx_px=frame.right_cx_px,
        depth_needed=layout.kind == "depth",
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
    if layout.kind == "depth" and not planes.valid_mask.any():
        raise RejectError("no_valid_pixel", f"none is left at {layout.height} x {layout.width}")
    size = {"height": layout.height, "width": layout.width}
    views = make_views(frame, members, layout.kind, rgb=decoded.rgb, **size)
    if layout.kind == "video" and layout.min_motion_m > 0 and not shows_motion(planes.rgb, views):
        raise RejectError("no_motion", "both neighbours show nearly the same image: the camera does not move")
    source_height, source_width = decoded.valid_mask.shape
    stored_camera = camera.resized(height=layout.height, width=layout.width) if camera else None
    row = {
        **{field.name: getattr(frame, field.name) for field in IDENTITY_FIELDS},
        "source_height": source_height,
        "source_width": source_width,
        **{name: getattr(stored_camera, name, None) for name in ("fx_px", "fy_px", "cx_px", "cy_px")},
        **depth_figures(planes),
        **{f"{name}_xxh3": xxhash.xxh3_128_hexdigest(content) for name, content in members.items()},
        **{f"{name}_camera": view.camera for name, view in views.items()},
        **{f"{name}_pose": view.pose for name, view in views.items()},
        **({"time_s": frame.time_s} if layout.kind == "video" else {}),
        "content_xxh3": _content_checksum(
            planes, stored_camera, views, frame.time_s if layout.kind == "video" else None
        ),
    }
    return Sample(row=row, planes=planes, views={name: view.image for name, view in views.items()})


def _content_checksum(planes: Planes, camera: Camera | None, views: Mapping[str, View], time_s: float | None) -> str:
    content = xxhash.xxh3_128()
    for name in PLANE_DTYPES:
        content.update(np.ascontiguousarray(getattr(planes, name)).data)
    content.update(repr(camera).encode())
    for name, view in views.items():
        content.update(np.ascontiguousarray(view.image).data)
        content.update(repr((name, view.camera, view.pose, time_s)).encode())
    return content.hexdigest()


def to_table(samples: Sequence[Sample], schema: pa.Schema) -> pa.Table:
    """Returns samples as rows of a shard; each plane is copied once.

    Args:
        schema: A `shard_schema`.
    """
    names = plane_names(schema)
    row_fields = [field for field in schema if field.name not in names]
    rows = pa.Table.from_pylist([sample.row for sample in samples], schema=pa.schema(row_fields))
    planes = {
        name: _plane_column([sample.plane(name) for sample in samples], schema.field(name).type) for name in names
    }
    return pa.Table.from_arrays([*rows.columns, *planes.values()], schema=schema)


def _plane_column(planes: Sequence[np.ndarray], kind: pa.DataType) -> pa.Array:
    values = np.concatenate([np.ascontiguousarray(plane).reshape(-1).view(np.uint8) for plane in planes])
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(planes), [None, pa.py_buffer(values)])


def from_batch(batch: pa.RecordBatch) -> Sample:
    """Returns the sample of a batch of one row; its planes are views of the batch."""
    fields = batch.schema
    arrays = {name: plane_batch(batch.column(name), fields.field(name))[0] for name in plane_names(fields)}
    [row] = with_dataset(pa.Table.from_batches([batch])).drop_columns([*arrays]).to_pylist()
    planes = Planes(**{name: arrays.pop(name) for name in PLANE_DTYPES})
    return Sample(row=row, planes=planes, views=arrays)
