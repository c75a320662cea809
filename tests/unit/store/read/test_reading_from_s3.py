"""A store on s3:// is read as from a disk, against a real server on the loopback address."""

from collections import Counter

import numpy as np
import pytest

from depthflow.errors import StoreError
from depthflow.storage.files import StoreFiles
from depthflow.store.read.reader import SplitReader
from depthflow.store.read.share import EpochShare, Position
from depthflow.store.store import SampleStore, open_store

s3fs = pytest.importorskip("s3fs", reason="pip install 'depthflow[s3]'")


@pytest.fixture(scope="module")
def remote(small, serving):
    """The small store's twin under s3://bucket/store."""
    with serving():
        s3fs.S3FileSystem().mkdir("bucket")
        files = StoreFiles("s3://bucket/store")
        for path in small.store.files.names("**/*"):
            files.write(path, small.store.files.read(path).to_pybytes())
        yield open_store("s3://bucket/store")


class CountingFiles(StoreFiles):
    """Counts the bytes that are read of each file."""

    def __init__(self, root):
        super().__init__(root)
        self.read_bytes = Counter()

    def open(self, path):
        handle = super().open(path)
        read = handle.read

        def counted(length=-1):
            content = read(length)
            self.read_bytes[path] += len(content)
            return content

        handle.read = counted
        return handle


def epoch_of(store, **arguments):
    reader = SplitReader(store, "train", **arguments)
    return list(EpochShare(reader, position=Position(seed=0, epoch=1), global_batch_size=8, rank=0, num_workers=1))


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_an_epoch_is_the_same_as_from_a_disk(small, remote, tmp_path, copied, cache_bytes):
    cache_dir = str(tmp_path / "cache") if copied else None
    for wanted, found in zip(
        epoch_of(small.store), epoch_of(remote, cache_bytes=cache_bytes, cache_dir=cache_dir), strict=True
    ):
        assert found.samples.sample_ids == wanted.samples.sample_ids
        assert found.samples.planes.keys() == wanted.samples.planes.keys()
        for name, plane in wanted.samples.planes.items():
            np.testing.assert_array_equal(found.samples.planes[name], plane)


def test_the_stores_are_one(small, remote):
    assert remote.fingerprint == small.store.fingerprint
    assert remote.index.equals(small.store.index)


def test_only_the_planes_asked_for_travel(remote):
    totals = {}
    for planes in (("rgb",), ("rgb", "log_depth", "valid_mask", "edge_mask")):
        store = SampleStore(CountingFiles(remote.files.root), remote.manifest)
        reader = SplitReader(store, "train", planes=planes)
        shards = [path for path in store.files.read_bytes if path.startswith("split=")]
        opened = sum(store.files.read_bytes[path] for path in shards)
        reader.read(range(70))
        totals[planes] = sum(store.files.read_bytes[path] for path in shards) - opened
    few, many = totals.values()
    assert 0 < few < many / 2


def test_with_a_cache_folder_each_shard_travels_once(remote, tmp_path):
    for run in range(2):
        store = SampleStore(CountingFiles(remote.files.root), remote.manifest)
        reader = SplitReader(store, "train", cache_dir=str(tmp_path), cache_bytes=0)
        for _ in range(2):
            reader.read(range(70))
        sizes = {shard["path"]: shard["bytes"] for shard in store.manifest["shards"] if "train" in shard["path"]}
        found = {path: count for path, count in store.files.read_bytes.items() if path.startswith("split=")}
        assert found == (sizes if run == 0 else {})


@pytest.mark.parametrize("copied", [False, True])
def test_a_shard_that_has_vanished(small, remote, tmp_path, copied):
    root = "s3://bucket/less"
    files = StoreFiles(root)
    for path in small.store.files.names("**/*"):
        if path != "split=train/part-00001.parquet":
            files.write(path, small.store.files.read(path).to_pybytes())
    with pytest.raises(StoreError, match=r"split=train/part-00001\.parquet of s3://bucket/less.*Restore it"):
        SplitReader(open_store(root), "train", cache_dir=str(tmp_path) if copied else None)
    assert len(SplitReader(open_store(root), "val")) == 5


def test_a_server_that_is_gone_is_told(small, remote):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        s3fs.S3FileSystem.clear_instance_cache()
        store = SampleStore(StoreFiles("s3://bucket/store"), remote.manifest)
        store.__dict__["index"] = small.store.index  # So that the first to be asked for is a shard.
        with pytest.raises(StoreError, match=r"split=train/part.*Check the address, credentials and network"):
            SplitReader(store, "train")
    s3fs.S3FileSystem.clear_instance_cache()
