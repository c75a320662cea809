"""What is read is what was written, in whatever order it is asked for."""

import itertools
import json
import shutil
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthflow.errors import StoreError
from depthflow.store.read.epoch import epoch_batches, shuffled_rows
from depthflow.store.read.reader import SplitReader, worker_pass
from depthflow.store.schema import PLANE_DTYPES
from depthflow.store.store import open_store

ALL_PLANES = tuple(PLANE_DTYPES)


@pytest.fixture
def copy(small, tmp_path):
    """A copy of the small store, to be damaged."""
    shutil.copytree(small.store.files.root, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def train(small):
    return SplitReader(small.store, "train", planes=ALL_PLANES)


def check(batch, ids, frames):
    """The batch is these samples, with their source's values."""
    assert batch.sample_ids == tuple(ids)
    assert batch.scene_types == tuple(sample_id.split("_")[2] for sample_id in ids)
    assert (batch.rgb.dtype, batch.log_depth.dtype) == (np.uint8, np.float32)
    assert batch.valid_mask.dtype == batch.edge_mask.dtype == np.bool_
    for i, sample_id in enumerate(ids):
        rgb, depth, mask = frames[sample_id]
        valid = mask > 0
        np.testing.assert_array_equal(batch.rgb[i], rgb)
        np.testing.assert_array_equal(batch.valid_mask[i], valid)
        np.testing.assert_allclose(np.exp(batch.log_depth[i].astype(np.float64))[valid], depth[valid], rtol=1e-4)
        assert not batch.log_depth[i][~valid].any()
        assert batch.edge_mask.shape == batch.valid_mask.shape


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_whole_split_is_as_it_was_written(small, split):
    reader = SplitReader(small.store, split, planes=ALL_PLANES)
    assert len(reader) == len(small.tree[split]) == sum(reader.group_sizes)
    assert sorted(reader.sample_ids) == sorted(small.tree[split])
    check(reader.read(range(len(reader))), reader.sample_ids, small.tree[split])


def test_groups_are_those_of_the_files(train):
    # 71 inputs are dealt 36 and 35; one of them was refused.
    assert sorted(train.group_sizes, reverse=True)[:4] == [16, 16, 16, 16]
    assert len(train.group_sizes) == 6
    assert sum(train.group_sizes) == 70


@settings(deadline=None, max_examples=40)
@given(rows=st.lists(st.integers(0, 69), min_size=1, max_size=20))
def test_rows_come_in_the_order_asked_for(small, train, rows):
    check(train.read(rows), [train.sample_ids[row] for row in rows], small.tree["train"])


# --- planes ---


def test_planes_that_were_not_asked_for_are_not_there(small):
    batch = SplitReader(small.store, "val", planes=("valid_mask",)).read([0, 2])
    assert set(batch.planes) == {"valid_mask"}
    assert batch.valid_mask.shape == (2, 6, 8)
    with pytest.raises(AttributeError, match=r"edge_mask was not read.*valid_mask"):
        _ = batch.edge_mask


def test_by_default_what_training_needs_is_read(small):
    assert set(SplitReader(small.store, "val").read([0]).planes) == {"rgb", "log_depth", "valid_mask"}


def test_no_rows_are_an_empty_batch(train):
    batch = train.read([])
    assert (batch.rgb.shape, batch.log_depth.shape, batch.edge_mask.shape) == ((0, 6, 8, 3), (0, 6, 8), (0, 6, 8))
    assert (batch.rgb.dtype, batch.log_depth.dtype, batch.edge_mask.dtype) == (np.uint8, np.float32, np.bool_)
    assert batch.sample_ids == batch.scene_types == ()


# --- copies ---


def test_neighbours_in_a_row_group_are_views(train):
    """A view of the column's buffer is read-only, and two views of one group share its memory."""
    first, second = train.read(range(2, 9)), train.read([8, 9])
    for name in ALL_PLANES:
        assert np.shares_memory(first.planes[name], second.planes[name])
        assert not first.planes[name].flags.owndata
        assert not first.planes[name].flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        first.rgb[:] = 0


@pytest.mark.parametrize("rows", [[5, 4], [3, 3], [0, 2], [15, 16], [40, 1, 2, 3]])
def test_other_rows_are_copies_that_may_be_written_to(small, train, rows):
    batch = train.read(rows)
    for plane in batch.planes.values():
        plane[:] = 1
    check(train.read(rows), [train.sample_ids[row] for row in rows], small.tree["train"])


# --- the cache ---


@pytest.fixture(scope="module")
def packed_store(small, tmp_path_factory):
    """The small store with every plane compressed, so that none can be mapped and all must be decoded."""
    root = tmp_path_factory.mktemp("packed") / "store"
    shutil.copytree(small.store.files.root, root)
    for path in root.glob("split=*/*.parquet"):
        shard = pq.ParquetFile(pa.BufferReader(path.read_bytes()))
        with pq.ParquetWriter(path, shard.schema_arrow, compression="lz4", use_dictionary=False) as writer:
            for number in range(shard.num_row_groups):
                writer.write_table(shard.read_row_group(number))
    return open_store(str(root))


@pytest.fixture
def counting(packed_store, monkeypatch):
    """Makes a reader of train that counts how often it decodes each group."""

    def make(cache_bytes):
        reader = SplitReader(packed_store, "train", planes=ALL_PLANES, cache_bytes=int(cache_bytes))
        decodes = Counter()
        begin = reader._row_groups.begin

        def counted(group):
            decodes[group] += 1
            return begin(group)

        monkeypatch.setattr(reader._row_groups, "begin", counted)
        return reader, decodes

    return make


def held_bytes(reader):
    return sum(
        group.nbytes for group in (*reader._kept.values(), *(reading.result() for reading in reader._in_use.values()))
    )


GROUP_BYTES = 16 * 6 * 8 * 9


def read_epoch(reader, epoch, batch=8):
    """Each batch, and the rows of it and of the one after it."""
    order = shuffled_rows(reader.group_sizes, seed=0, epoch=epoch)
    batches = [*epoch_batches(order, global_batch_size=batch), np.arange(0)]
    for rows, upcoming in itertools.pairwise(batches):
        yield np.concatenate([rows, upcoming]), reader.read(rows, upcoming=upcoming)


@pytest.mark.parametrize("groups_that_fit", [0, 1, 2.5, 100])
def test_a_small_cache_changes_nothing(small, counting, groups_that_fit):
    reader, _ = counting(GROUP_BYTES * groups_that_fit)
    for epoch in range(3):
        for rows, batch in read_epoch(reader, epoch):
            names = [reader.sample_ids[row] for row in rows]
            check(batch, names[: len(batch.sample_ids)], small.tree["train"])


@pytest.mark.parametrize("groups_that_fit", [0, 1, 2.5])
def test_memory_is_the_cache_and_the_groups_of_two_batches(counting, groups_that_fit):
    reader, _ = counting(GROUP_BYTES * groups_that_fit)
    starts = np.cumsum([0, *reader.group_sizes])
    for epoch in range(3):
        for rows, _batch in read_epoch(reader, epoch, batch=3):
            groups = len(set(np.searchsorted(starts, rows, side="right")))
            assert held_bytes(reader) <= GROUP_BYTES * (groups_that_fit + groups)
    assert sum(group.nbytes for group in reader._kept.values()) <= GROUP_BYTES * groups_that_fit


def test_a_store_that_fits_is_decoded_once(counting):
    reader, decodes = counting(GROUP_BYTES * 100)
    for epoch in range(3):
        list(read_epoch(reader, epoch))
    assert set(decodes) == set(range(6))
    assert set(decodes.values()) == {1}


def test_without_a_cache_a_group_is_decoded_once_for_each_stream_that_reads_it(counting):
    """Three streams cut the sequence of groups twice, so two groups at most are read by two streams."""
    for epoch in range(4):
        reader, decodes = counting(0)
        list(read_epoch(reader, epoch, batch=3))
        assert len(decodes) == 6
        assert decodes.total() <= 6 + 2


def test_what_fits_stays_through_every_pass(counting):
    """Where the oldest is given up for the newest, a pass finds little of the pass before."""
    reader, decodes = counting(GROUP_BYTES * 3.1)
    list(read_epoch(reader, 0))
    kept = set(reader._kept)
    assert len(kept) >= 3
    for epoch in range(1, 4):
        decodes.clear()
        list(read_epoch(reader, epoch))
        assert kept == set(reader._kept)
        assert not kept & decodes.keys()


# --- a worker's pass ---


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 80])
@pytest.mark.parametrize("max_batch_size", [1, 8, 100])
def test_the_workers_passes_are_the_split_once(small, train, workers, max_batch_size):
    seen = []
    for rank in range(workers):
        sizes = []
        for batch in worker_pass(train, max_batch_size=max_batch_size, rank=rank, num_workers=workers):
            check(batch, batch.sample_ids, small.tree["train"])
            sizes.append(len(batch.sample_ids))
            seen.extend(batch.sample_ids)
        assert all(size == max_batch_size for size in sizes[:-1])
        assert all(1 <= size <= max_batch_size for size in sizes)
        assert sum(sizes) in (70 // workers, -(-70 // workers))
    assert seen == train.sample_ids


# --- damage ---


def test_a_split_that_is_not_there(tmp_path, write):
    write.tree(tmp_path / "tree", {"val": {"00001_00001_indoors": 3}})
    store = write.store(tmp_path / "store", tmp_path / "tree")
    with pytest.raises(StoreError, match="no train split"):
        SplitReader(store, "train")


def test_a_shard_that_has_vanished(copy):
    (copy / "split=train/part-00001.parquet").unlink()
    with pytest.raises(StoreError, match=r"split=train/part-00001\.parquet.*Restore it"):
        SplitReader(open_store(str(copy)), "train")
    assert len(SplitReader(open_store(str(copy)), "val")) == 5


def test_a_shard_of_other_rows_than_the_index(copy):
    shutil.copy(copy / "split=val/part-00000.parquet", copy / "split=train/part-00001.parquet")
    with pytest.raises(StoreError, match=r"train/part-00001\.parquet .*it holds 5 samples, and \d+ by the index"):
        SplitReader(open_store(str(copy)), "train")


def test_a_manifest_that_has_lost_a_shard(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["shards"] = [s for s in manifest["shards"] if s["path"] != "split=train/part-00000.parquet"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="disagrees with its index"):
        SplitReader(open_store(str(copy)), "train")


@pytest.mark.parametrize("length", [0, 100, -10])
def test_a_truncated_shard(copy, length):
    shard = copy / "split=train/part-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:length])
    with pytest.raises(StoreError):
        SplitReader(open_store(str(copy)), "train")


def flip_last_byte(shard, column):
    """Damages the last page of a column in the shard's first row group, and nothing else."""
    group = pq.read_metadata(shard).row_group(0)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column)
    content = bytearray(shard.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
    shard.write_bytes(content)


def test_a_damaged_page_is_never_read_as_data(copy):
    flip_last_byte(copy / "split=train/part-00001.parquet", "rgb")
    reader = SplitReader(open_store(str(copy)), "train")
    start = reader.group_sizes.index(min(reader.group_sizes[:-1])) + 1  # The second shard's first group.
    rows = np.arange(sum(reader.group_sizes[:start]), sum(reader.group_sizes[: start + 1]))
    for _ in range(2):
        with pytest.raises(StoreError, match=r"split=train/part-00001\.parquet.*cannot be read.*preprocess\.py"):
            reader.read(rows)


def test_a_plane_that_was_not_asked_for_is_not_read(copy):
    flip_last_byte(copy / "split=val/part-00000.parquet", "edge_mask")
    store = open_store(str(copy))
    SplitReader(store, "val").read([0, 1])
    with pytest.raises(StoreError, match="cannot be read"):
        SplitReader(store, "val", planes=("edge_mask",)).read([0, 1])


def test_a_split_with_a_shard_of_refused_inputs_alone(tmp_path, write):
    tree = write.tree(tmp_path / "tree", {"val": {"00001_00001_indoors": 4}})["val"]
    rgb, depth, mask = write.frame(0)
    for i in range(60):
        write.triplet(tmp_path / "tree", "val", f"00001_00001_indoors_{100 + i}_000", rgb, depth, mask * 0)
    store = write.store(tmp_path / "store", tmp_path / "tree")
    reader = SplitReader(store, "val", planes=ALL_PLANES)
    assert len(store.manifest["shards"]) == 2
    check(reader.read(range(len(reader))), reader.sample_ids, tree)
    assert len(reader) == 4
