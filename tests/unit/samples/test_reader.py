"""What is read is what was written, in whatever order it is asked for."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthflow.errors import StoreError
from depthflow.samples import reader as reader_module
from depthflow.samples.epoch import epoch_batches, shuffled_rows
from depthflow.samples.reader import SplitReader, worker_pass
from depthflow.samples.store import open_store


@pytest.fixture
def copy(small, tmp_path):
    """A copy of the small store, to be damaged."""
    shutil.copytree(small.store.files.root, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def train(small):
    return SplitReader(small.store, "train")


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
    reader = SplitReader(small.store, split)
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


@pytest.mark.parametrize("groups_that_fit", [0, 1, 2.5])
def test_a_small_cache_changes_nothing(small, monkeypatch, write, groups_that_fit):
    group_bytes = 16 * write.height * write.width * 9
    monkeypatch.setattr(reader_module, "CACHE_BYTES", int(group_bytes * groups_that_fit))
    reader = SplitReader(small.store, "train")
    for epoch in range(2):
        order = shuffled_rows(reader.group_sizes, seed=0, epoch=epoch)
        for rows in epoch_batches(order, global_batch_size=16):
            check(reader.read(rows), [reader.sample_ids[row] for row in rows], small.tree["train"])
    held = sum(plane.nbytes for planes in reader._cache.values() for plane in planes.values())
    assert held == reader._cached_bytes  # Else the cache would grow, or stay empty, over the epochs.
    assert len(reader._cache) == 1 or held <= group_bytes * groups_that_fit


def test_a_store_that_fits_is_decoded_once(small):
    reader = SplitReader(small.store, "train")
    reader.read(range(70))
    reader._files = reader._groups = None  # No file is left to decode from.
    check(reader.read([3, 68]), [reader.sample_ids[3], reader.sample_ids[68]], small.tree["train"])


def test_a_batch_may_be_written_to(small):
    reader = SplitReader(small.store, "val")
    batch = reader.read([0, 1])
    batch.rgb[:] = 0
    batch.log_depth[:] = 7
    check(reader.read([0, 1]), reader.sample_ids[:2], small.tree["val"])


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
    with pytest.raises(StoreError, match="disagrees with its index"):
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


def test_a_split_with_a_shard_of_refused_inputs_alone(tmp_path, write):
    tree = write.tree(tmp_path / "tree", {"val": {"00001_00001_indoors": 4}})["val"]
    rgb, depth, mask = write.frame(0)
    for i in range(60):
        write.triplet(tmp_path / "tree", "val", f"00001_00001_indoors_{100 + i}_000", rgb, depth, mask * 0)
    store = write.store(tmp_path / "store", tmp_path / "tree")
    reader = SplitReader(store, "val")
    assert len(store.manifest["shards"]) == 2
    check(reader.read(range(len(reader))), reader.sample_ids, tree)
    assert len(reader) == 4
