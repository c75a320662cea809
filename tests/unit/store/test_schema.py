"""Plain Arrow types, and planes that are views of their column's buffer."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depthflow.store.schema import (
    INDEX_SCHEMA,
    KINDS,
    PLANE_DTYPES,
    REJECT_SCHEMA,
    ROW_SCHEMA,
    check_planes,
    index_schema,
    plane_batch,
    plane_names,
    plane_shape,
    row_schema,
    sample_bytes,
    shard_schema,
)

HEIGHT, WIDTH = 3, 5
SCHEMA = shard_schema(height=HEIGHT, width=WIDTH, metadata={"key": "value"})
LOGICAL = {
    *("sample_id", "dataset", "split", "scene_type", "scene", "scan", "rgb", "log_depth", "valid_mask", "edge_mask"),
    *("source_height", "source_width", "fx_px", "fy_px", "cx_px", "cy_px"),
    *("depth_min_m", "depth_median_m", "depth_max_m", "valid_fraction"),
}


def planes(name: str, count: int) -> np.ndarray:
    generator = np.random.default_rng(len(name))
    shape = (count, *plane_shape(name, height=HEIGHT, width=WIDTH))
    if PLANE_DTYPES[name] is np.bool_:
        return generator.random(shape) > 0.5
    return generator.integers(0, 256, shape).astype(PLANE_DTYPES[name])


def column(name: str, values: np.ndarray) -> pa.Array:
    return pa.array([value.tobytes() for value in values], SCHEMA.field(name).type)


def lies_in(array: np.ndarray, buffer: pa.Buffer) -> bool:
    return np.shares_memory(array, np.frombuffer(buffer, np.uint8))


def test_a_shard_has_the_logical_columns_and_its_metadata():
    assert set(SCHEMA.names) >= LOGICAL
    assert len(set(SCHEMA.names)) == len(SCHEMA.names)
    assert SCHEMA.metadata == {b"key": b"value"}


def test_all_types_are_plain():
    for schema in (SCHEMA, INDEX_SCHEMA, REJECT_SCHEMA):
        for field in schema:
            assert pa.types.is_primitive(field.type) or pa.types.is_string(field.type) or field.name in PLANE_DTYPES
    assert set(ROW_SCHEMA.names) | {"seconds", "shard", "row"} == set(INDEX_SCHEMA.names)


def test_columns_of_views_are_plain_and_only_in_stores_that_have_views():
    assert (row_schema(), index_schema()) == (ROW_SCHEMA, INDEX_SCHEMA)
    for kind, views in KINDS.items():
        added = [field for field in index_schema(kind) if field.name not in INDEX_SCHEMA.names]
        wanted = [f"{view}_{name}" for view in views for name in ("camera", "pose", "xxh3")]
        assert [field.name for field in added] == wanted + ["time_s"] * (kind == "video")
        assert {str(field.type) for field in added} <= {"list<item: double>", "string", "double"}
        assert [name for name in index_schema(kind).names if name in INDEX_SCHEMA.names] == INDEX_SCHEMA.names


@pytest.mark.parametrize("kind", KINDS)
def test_views_are_planes_of_colours(kind):
    schema = shard_schema(height=HEIGHT, width=WIDTH, metadata={}, kind=kind)
    assert plane_names(schema) == [*PLANE_DTYPES, *KINDS[kind]]
    for view in KINDS[kind]:
        assert schema.field(view).type == pa.binary(HEIGHT * WIDTH * 3)
        assert schema.field(view).metadata == SCHEMA.field("rgb").metadata
        check_planes(schema, [view], height=HEIGHT, width=WIDTH, kind=kind)
        with pytest.raises(ValueError, match=f"no column {view}"):
            check_planes(SCHEMA, [view], height=HEIGHT, width=WIDTH, kind=kind)
    assert sample_bytes(schema) == HEIGHT * WIDTH * (3 + 4 + 1 + 1 + 3 * len(KINDS[kind]))


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "size"),
    [
        ("rgb", "uint8", [3, 5, 3], 45),
        ("log_depth", "float32", [3, 5], 60),
        ("valid_mask", "bool", [3, 5], 15),
        ("edge_mask", "bool", [3, 5], 15),
    ],
)
def test_a_plane_is_one_fixed_size_value(name, dtype, shape, size):
    field = SCHEMA.field(name)
    assert pa.types.is_fixed_size_binary(field.type)
    assert field.type.byte_width == size
    assert field.metadata[b"dtype"] == dtype.encode()
    assert json.loads(field.metadata[b"shape"]) == shape
    assert not field.nullable


@pytest.mark.parametrize("name", PLANE_DTYPES)
def test_a_batch_is_a_view_of_the_columns_buffer(name):
    values = planes(name, 4)
    array = column(name, values)
    batch = plane_batch(array, SCHEMA.field(name))
    np.testing.assert_array_equal(batch, values)
    assert batch.dtype == PLANE_DTYPES[name]
    assert lies_in(batch, array.buffers()[1])


@pytest.mark.parametrize("name", PLANE_DTYPES)
@pytest.mark.parametrize(("start", "count"), [(0, 2), (1, 3), (3, 1), (2, 0)])
def test_a_slice_begins_at_its_offset(name, start, count):
    values = planes(name, 4)
    array = column(name, values).slice(start, count)
    batch = plane_batch(array, SCHEMA.field(name))
    np.testing.assert_array_equal(batch, values[start : start + count])
    assert batch.shape == (count, *values.shape[1:])
    assert count == 0 or lies_in(batch, array.buffers()[1])


def test_chunks_are_one_batch():
    values = planes("log_depth", 5)
    chunks = [column("log_depth", values[:2]), column("log_depth", values[:0]), column("log_depth", values[2:])]
    np.testing.assert_array_equal(plane_batch(pa.chunked_array(chunks), SCHEMA.field("log_depth")), values)


def test_a_sliced_chunk_begins_at_its_offset():
    values = planes("rgb", 5)
    chunked = pa.chunked_array([column("rgb", values)]).slice(2, 2)
    np.testing.assert_array_equal(plane_batch(chunked, SCHEMA.field("rgb")), values[2:4])


def test_masks_have_one_byte_per_pixel():
    values = planes("valid_mask", 2)
    array = column("valid_mask", values)
    assert set(array.buffers()[1].to_pybytes()) == {0, 1}
    batch = plane_batch(array, SCHEMA.field("valid_mask"))
    assert batch.dtype == np.bool_
    assert batch.sum() == values.sum()
    np.testing.assert_array_equal(batch, values)


def test_planes_survive_a_parquet_file(tmp_path):
    values = {name: planes(name, 7) for name in PLANE_DTYPES}
    fields = [SCHEMA.field(name) for name in PLANE_DTYPES]
    table = pa.table([column(name, values[name]) for name in PLANE_DTYPES], schema=pa.schema(fields))
    pq.write_table(table, tmp_path / "planes.parquet", row_group_size=3)
    read = pq.read_table(tmp_path / "planes.parquet")
    for name, wanted in values.items():
        np.testing.assert_array_equal(plane_batch(read[name], read.schema.field(name)), wanted)


def test_a_column_of_one_chunk_is_not_copied():
    array = column("rgb", planes("rgb", 4))
    assert lies_in(plane_batch(pa.chunked_array([array]), SCHEMA.field("rgb")), array.buffers()[1])


def test_a_batch_is_read_only():
    assert not plane_batch(column("rgb", planes("rgb", 4)), SCHEMA.field("rgb")).flags.writeable
