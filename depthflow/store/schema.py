"""A sample's columns: plain Arrow types, so that any Parquet reader opens a store.

A plane is one fixed-size binary value a sample; its dtype and shape are in the field's metadata.
"""

import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

PLANE_DTYPES = {"rgb": np.uint8, "log_depth": np.float32, "valid_mask": np.bool_, "edge_mask": np.bool_}
"""Plane to element type; a bool is one byte, 0 or 1."""

IDENTITY_FIELDS = tuple(pa.field(name, pa.string()) for name in ("sample_id", "split", "scene_type", "scene", "scan"))

FIGURE_FIELDS = (
    pa.field("source_height", pa.int32()),
    pa.field("source_width", pa.int32()),
    *(pa.field(name, pa.float64()) for name in ("fx_px", "fy_px", "cx_px", "cy_px")),
    *(
        pa.field(name, pa.float64())
        for name in (
            "depth_min_m",
            "depth_median_m",
            "depth_max_m",
            "log_depth_mean",
            "valid_fraction",
            "edge_fraction",
        )
    ),
)
"""Of the source, the camera at the stored size (null where unknown), and depth over the stored valid pixels."""

CHECKSUM_FIELDS = tuple(pa.field(name, pa.string()) for name in ("rgb_xxh3", "depth_xxh3", "mask_xxh3", "content_xxh3"))
"""xxh3-128 of the source's three files, and of the sample's planes and camera as decoded."""

ROW_SCHEMA = pa.schema([*IDENTITY_FIELDS, *FIGURE_FIELDS, *CHECKSUM_FIELDS])
"""A sample without its planes."""

SECONDS_FIELD = pa.field("seconds", pa.float32())
"""How long a sample took to make; null where its shard was found made. No part of a shard, nor of the fingerprint."""

INDEX_SCHEMA = pa.schema([*ROW_SCHEMA, SECONDS_FIELD, pa.field("shard", pa.string()), pa.field("row", pa.int64())])
"""index.parquet: where each sample is, and everything known of it but its planes."""

REJECT_SCHEMA = pa.schema(
    [pa.field(name, pa.string()) for name in ("sample_id", "split", "source", "reason", "message")]
)
"""rejects.parquet: a row a refused input."""


def plane_shape(name: str, *, height: int, width: int) -> tuple[int, ...]:
    """A plane's shape, without the batch axis."""
    return (height, width, 3) if name == "rgb" else (height, width)


def shard_schema(*, height: int, width: int, metadata: Mapping[str, str]) -> pa.Schema:
    """The schema of a shard: `ROW_SCHEMA` and the planes.

    Args:
        height, width: the stored size in pixels.
        metadata: the shard's own key-value pairs.
    """
    planes = []
    for name, dtype in PLANE_DTYPES.items():
        shape = plane_shape(name, height=height, width=width)
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        description = {"dtype": np.dtype(dtype).name, "shape": json.dumps(shape)}
        planes.append(pa.field(name, pa.binary(size_bytes), nullable=False, metadata=description))
    return pa.schema([*ROW_SCHEMA, *planes], metadata=dict(metadata))


def plane_batch(column: pa.Array | pa.ChunkedArray, field: pa.Field) -> np.ndarray:
    """A plane's column as one array, a view of the column's buffer where it is one chunk.

    Args:
        column: n fixed-size binary values.
        field: the column's field, which states dtype and shape.

    Returns:
        (n, *shape) of the stated dtype, read-only.
    """
    if isinstance(column, pa.ChunkedArray):
        # combine_chunks would copy a single chunk, too.
        array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    else:
        array = column
    dtype = np.dtype(field.metadata[b"dtype"].decode())
    shape = json.loads(field.metadata[b"shape"])
    values = np.frombuffer(array.buffers()[1], dtype=np.uint8)
    size_bytes = array.type.byte_width
    values = values[array.offset * size_bytes : (array.offset + len(array)) * size_bytes]
    values.flags.writeable = False
    return values.view(dtype).reshape(len(array), *shape)
