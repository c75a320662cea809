"""Row groups are mapped where the file holds them as they are, decoded where it does not, and the same either way."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depthflow.errors import StoreError
from depthflow.samples.reader import SplitReader
from depthflow.samples.schema import PLANE_DTYPES
from depthflow.samples.shard_file import ShardFile
from depthflow.samples.store import open_store

PLANES = tuple(PLANE_DTYPES)
UNCOMPRESSED = {"rgb", "log_depth"}


def rewrite(source, target, **options):
    """The same shard, written with other options of Parquet."""
    shard = pq.ParquetFile(source)
    compression = {name: "none" if name in UNCOMPRESSED else "lz4" for name in shard.schema_arrow.names}
    defaults = {"compression": compression, "use_dictionary": False, "write_page_checksum": True}
    with pq.ParquetWriter(target, shard.schema_arrow, **{**defaults, **options}) as writer:
        for number in range(shard.num_row_groups):
            writer.write_table(shard.read_row_group(number))


@pytest.fixture
def plain_store(small, tmp_path):
    """The small store, with rgb and log_depth uncompressed."""
    shutil.copytree(small.store.files.root, tmp_path / "plain")
    for path in small.store.files.names("split=*/*.parquet"):
        rewrite(f"{small.store.files.root}/{path}", tmp_path / "plain" / path)
    return open_store(str(tmp_path / "plain"))


def open_shard(path, planes=PLANES):
    return ShardFile(pa.memory_map(str(path)), planes=planes, is_remote=False)


@pytest.fixture
def original(small):
    return f"{small.store.files.root}/split=train/part-00000.parquet"


def assert_same(group, wanted):
    assert group.planes.keys() == wanted.planes.keys()
    for name, plane in wanted.planes.items():
        assert group.planes[name].dtype == plane.dtype
        np.testing.assert_array_equal(group.planes[name], plane)


def test_what_lies_there_as_it_is_is_mapped(original, tmp_path):
    rewrite(original, tmp_path / "plain.parquet")
    shard, wanted = open_shard(tmp_path / "plain.parquet"), open_shard(original)
    for number in range(len(shard.group_sizes)):
        first, second = shard.read(number), shard.read(number)
        assert first.is_mapped and second.is_mapped
        for name in PLANES:
            shared = np.shares_memory(first.planes[name], second.planes[name])
            assert shared == (name in UNCOMPRESSED)
            assert not second.planes[name].flags.writeable
        assert_same(first, wanted.read(number))
        assert_same(second, wanted.read(number))


def test_what_is_compressed_is_decoded(original):
    shard = open_shard(original)
    first, second = shard.read(0), shard.read(0)
    assert not first.is_mapped and not second.is_mapped
    assert_same(second, first)


@pytest.mark.parametrize(
    "options",
    [
        {"write_batch_size": 1, "data_page_size": 1},
        {"use_dictionary": True},
        {"compression": "zstd"},
        {"data_page_version": "2.0"},
    ],
)
def test_however_a_shard_was_written_it_reads_the_same(original, tmp_path, options):
    """Several pages a column chunk, a dictionary, another codec: nothing is mapped that is not the plane."""
    rewrite(original, tmp_path / "other.parquet", **options)
    shard, wanted = open_shard(tmp_path / "other.parquet"), open_shard(original)
    for number in range(len(shard.group_sizes)):
        for _ in range(2):
            assert_same(shard.read(number), wanted.read(number))


def test_only_the_planes_asked_for_are_there(original, tmp_path):
    rewrite(original, tmp_path / "plain.parquet")
    shard = open_shard(tmp_path / "plain.parquet", planes=("rgb",))
    for _ in range(2):
        assert set(shard.read(0).planes) == {"rgb"}


def test_a_mapped_split_is_the_same_and_takes_no_memory(small, plain_store):
    wanted, reader = SplitReader(small.store, "train"), SplitReader(plain_store, "train")
    generator = np.random.default_rng(0)
    for _ in range(3):
        for rows in (range(4, 12), generator.permutation(70)[:9]):
            found = reader.read(rows)
            for name, plane in wanted.read(rows).planes.items():
                np.testing.assert_array_equal(found.planes[name], plane)
    assert reader._kept == {}


def test_a_damaged_page_is_never_mapped(plain_store):
    """Damage before the first reading, in a page that no decompression would trip over."""
    path = Path(plain_store.files.root, "split=val/part-00000.parquet")
    group = pq.read_metadata(path).row_group(0)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "log_depth")
    with path.open("r+b") as file:
        file.seek(chunk.data_page_offset + chunk.total_compressed_size - 4)
        file.write(b"\x12\x34\x56\x78")
    reader = SplitReader(plain_store, "val")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"split=val/part-00000\.parquet.*cannot be read"):
            reader.read([0, 1])
