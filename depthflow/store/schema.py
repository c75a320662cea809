"""Columns of a sample, in plain Arrow types that any Parquet reader opens.

A plane is one fixed-size binary value per sample; the field's metadata holds its dtype and shape. A store's kind says
which further views of the scene its samples have: each is a plane, and a camera and a pose as lists of numbers.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

PLANE_DTYPES = {"rgb": np.uint8, "log_depth": np.float32, "valid_mask": np.bool_, "edge_mask": np.bool_}
"""Element type of each plane that all samples have; a bool is one byte, 0 or 1."""

KINDS: dict[str, tuple[str, ...]] = {"depth": (), "stereo": ("right",), "video": ("previous", "next")}
"""Kinds of stores, and the further views of the scene that each sample has, whose planes have their names."""

IDENTITY_FIELDS = tuple(
    pa.field(name, pa.string()) for name in ("sample_id", "split", "scene_type", "scene", "scan", "dataset")
)
FIRST_DATASET = "diode"
"""The data set of every sample of a store that was written before stores had the column."""

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
"""Source size, camera at the stored size (null if unknown), and statistics over the stored valid pixels."""

CHECKSUM_FIELDS = tuple(pa.field(name, pa.string()) for name in ("rgb_xxh3", "depth_xxh3", "mask_xxh3", "content_xxh3"))
"""xxh3-128 of the three source files, and of the decoded planes and camera."""

ROW_SCHEMA = pa.schema([*IDENTITY_FIELDS, *FIGURE_FIELDS, *CHECKSUM_FIELDS])
"""Columns of a sample without its planes and without further views."""


VIEW_NUMBERS = {"camera": 4, "pose": 16}
"""Columns of lists that each view has, as VIEW_camera, and how many numbers a list has."""


def view_fields(kind: str) -> list[pa.Field]:
    """Returns the columns that only samples with further views have.

    `VIEW_camera` is fx_px, fy_px, cx_px and cy_px at the stored size. `VIEW_pose` is 4 x 4, row by row, and takes
    points of the frame's camera to the view's: x_view = pose @ x_frame, in metres; null where it is unknown.
    `VIEW_xxh3` is that of the source file. `time_s` is when the frame was taken, in seconds from any origin; null where
    it is unknown.
    """
    numbers = pa.list_(pa.float64())
    fields = [
        pa.field(f"{view}_{name}", of_type)
        for view in KINDS[kind]
        for name, of_type in (("camera", numbers), ("pose", numbers), ("xxh3", pa.string()))
    ]
    return [*fields, pa.field("time_s", pa.float64())] if kind == "video" else fields


def row_schema(kind: str = "depth") -> pa.Schema:
    """Returns the columns of a sample without its planes."""
    return pa.schema([*ROW_SCHEMA, *view_fields(kind)])


SECONDS_FIELD = pa.field("seconds", pa.float32())
"""Seconds a sample took to make; null if its shard already existed. Not part of shards or of the fingerprint."""


def index_schema(kind: str = "depth") -> pa.Schema:
    """Returns the columns of index.parquet: where each sample is, and all its columns except the planes."""
    return pa.schema([*row_schema(kind), SECONDS_FIELD, pa.field("shard", pa.string()), pa.field("row", pa.int64())])


INDEX_SCHEMA = index_schema()
"""That of a store of kind depth."""

REJECT_SCHEMA = pa.schema(
    [pa.field(name, pa.string()) for name in ("sample_id", "split", "source", "reason", "message")]
)
"""rejects.parquet: one row per rejected input."""


def with_dataset(table: pa.Table) -> pa.Table:
    """Returns the table with the column `dataset`, which older stores lack."""
    if "dataset" in table.column_names:
        return table
    place = ROW_SCHEMA.get_field_index("dataset")
    return table.add_column(place, ROW_SCHEMA.field(place), pa.array([FIRST_DATASET] * table.num_rows, pa.string()))


def plane_dtypes(kind: str = "depth") -> dict[str, type]:
    """Returns the element type of each plane, by name."""
    return {**PLANE_DTYPES, **dict.fromkeys(KINDS[kind], np.uint8)}


def plane_shape(name: str, *, height: int, width: int) -> tuple[int, ...]:
    """Returns the shape of a plane, without the batch axis."""
    is_image = name == "rgb" or name not in PLANE_DTYPES
    return (height, width, 3) if is_image else (height, width)


def shard_schema(*, height: int, width: int, metadata: Mapping[str, str], kind: str = "depth") -> pa.Schema:
    """Returns the schema of a shard: `row_schema` and the planes.

    Args:
        height, width: Stored size in pixels.
        metadata: Key-value pairs of the shard.
        kind: A name in `KINDS`.
    """
    planes = []
    for name, dtype in plane_dtypes(kind).items():
        shape = plane_shape(name, height=height, width=width)
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        description = {"dtype": np.dtype(dtype).name, "shape": json.dumps(shape)}
        planes.append(pa.field(name, pa.binary(size_bytes), nullable=False, metadata=description))
    return pa.schema([*row_schema(kind), *planes], metadata=dict(metadata))


def plane_names(schema: pa.Schema) -> list[str]:
    """Returns the columns of a shard that are planes."""
    return [field.name for field in schema if b"shape" in (field.metadata or {})]


def sample_bytes(schema: pa.Schema) -> int:
    """Returns the decoded size of the planes of one sample of a shard."""
    return sum(schema.field(name).type.byte_width for name in plane_names(schema))


def check_planes(schema: pa.Schema, planes: Sequence[str], *, height: int, width: int, kind: str = "depth") -> None:
    """Checks that a shard's planes are stored as `shard_schema` says.

    Raises:
        ValueError: if one is missing, or has another type, dtype or shape.
    """
    stored = shard_schema(height=height, width=width, metadata={}, kind=kind)
    for name in planes:
        wanted = stored.field(name)
        if name not in schema.names:
            raise ValueError(f"it has no column {name}")
        found = schema.field(name)
        metadata = {key: (found.metadata or {}).get(key) for key in wanted.metadata}
        if found.type != wanted.type or metadata != wanted.metadata:
            raise ValueError(f"{name} is stored as {found.type} {metadata}, not as {wanted.type} {wanted.metadata}")


def plane_batch(column: pa.Array | pa.ChunkedArray, field: pa.Field) -> np.ndarray:
    """Returns a plane's column as one array; a view of the column's buffer if it has one chunk.

    Args:
        column: n fixed-size binary values.
        field: Field of the column, which states dtype and shape.

    Returns:
        (n, *shape) of the stated dtype, read-only.
    """
    if isinstance(column, pa.ChunkedArray):
        # combine_chunks would also copy a single chunk.
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
