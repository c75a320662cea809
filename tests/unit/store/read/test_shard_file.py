"""Row groups are mapped where the file holds them as they are, decoded where it does not, and the same either way."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depthflow.errors import StoreError
from depthflow.store.read.reader import SplitReader
from depthflow.store.read.shard_file import ShardFile
from depthflow.store.schema import PLANE_DTYPES
from depthflow.store.store import open_store

PLANES = tuple(PLANE_DTYPES)
MAPPED = {"rgb", "log_depth"}
"""What a store's shards hold uncompressed."""


def rewrite(source, target, **options):
    """The same shard, written with other options of Parquet."""
    shard = pq.ParquetFile(source)
    with pq.ParquetWriter(target, shard.schema_arrow, **{"use_dictionary": False, **options}) as writer:
        for number in range(shard.num_row_groups):
            writer.write_table(shard.read_row_group(number))


def open_shard(path, planes=PLANES):
    checksums = pq.read_table(path, columns=["content_xxh3"], partitioning=None)["content_xxh3"]
    return ShardFile(pa.memory_map(str(path)), planes=planes, checksums=checksums, is_remote=False)


@pytest.fixture
def original(small):
    return f"{small.store.files.root}/split=train/part-00000.parquet"


def assert_same(group, wanted):
    assert group.planes.keys() == wanted.planes.keys()
    for name, plane in wanted.planes.items():
        assert group.planes[name].dtype == plane.dtype
        np.testing.assert_array_equal(group.planes[name], plane)


@pytest.fixture
def packed(original, tmp_path):
    """The shard with every plane compressed."""
    rewrite(original, tmp_path / "packed.parquet", compression="lz4")
    return tmp_path / "packed.parquet"


def test_what_lies_there_as_it_is_is_mapped(original, packed):
    shard, wanted = open_shard(original), open_shard(packed)
    for number in range(len(shard.group_sizes)):
        first, second = shard.read(number), shard.read(number)
        assert first.is_mapped and second.is_mapped
        for name in PLANES:
            assert np.shares_memory(first.planes[name], second.planes[name]) == (name in MAPPED)
            assert not second.planes[name].flags.writeable
        assert_same(first, wanted.read(number))
        assert_same(second, wanted.read(number))


def test_what_is_compressed_is_decoded(packed):
    shard = open_shard(packed)
    first, second = shard.read(0), shard.read(0)
    assert not first.is_mapped and not second.is_mapped
    assert_same(second, first)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "none", "write_batch_size": 1, "data_page_size": 1},
        {"compression": "none", "use_dictionary": True},
        {"compression": "none", "data_page_version": "2.0"},
        {"compression": "zstd"},
    ],
)
def test_however_a_shard_was_written_it_reads_the_same(original, tmp_path, options):
    """Several pages a column chunk, a dictionary, another codec: nothing is mapped that is not the plane."""
    rewrite(original, tmp_path / "other.parquet", **options)
    shard, wanted = open_shard(tmp_path / "other.parquet"), open_shard(original)
    for number in range(len(shard.group_sizes)):
        for _ in range(2):
            assert_same(shard.read(number), wanted.read(number))


def test_only_the_planes_asked_for_are_there(original):
    shard = open_shard(original, planes=("rgb",))
    for _ in range(2):
        assert set(shard.read(0).planes) == {"rgb"}


def test_a_mapped_split_takes_no_memory(small):
    """The system keeps what is mapped: a copy of it would be the second."""
    reader = SplitReader(small.store, "train")
    for _ in range(2):
        reader.read(range(70))
    assert reader._kept == {}


def test_a_damaged_page_is_never_mapped(small, tmp_path):
    """Damage before the first reading, in a page that no decompression would trip over."""
    shutil.copytree(small.store.files.root, tmp_path / "store")
    path = tmp_path / "store" / "split=val/part-00000.parquet"
    group = pq.read_metadata(path).row_group(0)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "log_depth")
    with path.open("r+b") as file:
        file.seek(chunk.data_page_offset + chunk.total_compressed_size - 4)
        file.write(b"\x12\x34\x56\x78")
    reader = SplitReader(open_store(str(tmp_path / "store")), "val")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"split=val/part-00000\.parquet.*cannot be read"):
            reader.read([0, 1])
