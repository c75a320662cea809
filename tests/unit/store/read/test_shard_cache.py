"""Copies of shards on a local disk: whole and verified, made once, and skipped on a full disk."""

import resource
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from depthflow.errors import StoreError
from depthflow.storage.files import DiskFiles
from depthflow.store.read import shard_cache
from depthflow.store.read.reader import SplitReader
from depthflow.store.read.shard_cache import ShardCache
from depthflow.store.store import SampleStore, open_store

KILLED_WHILE_COPYING = """
import sys, time
from depthflow.store.read import shard_cache
from depthflow.store.store import open_store
shard_cache.CHUNK_BYTES = 1000
store = open_store(sys.argv[1])
copies = shard_cache.ShardCache(store, sys.argv[2])
chunks = copies._verified_chunks
def slow(shard):
    for chunk in chunks(shard):
        yield chunk
        print("copying", flush=True)
        time.sleep(600)
copies._verified_chunks = slow
copies.open(store.manifest["shards"][0])
"""


class CountingFiles(DiskFiles):
    """Counts how often each file is opened."""

    def __init__(self, root):
        super().__init__(root)
        self.opened = []

    def open(self, path):
        self.opened.append(path)
        return super().open(path)


@pytest.fixture
def store(small, tmp_path):
    """A copy of the small store, to be damaged, which counts what is opened."""
    shutil.copytree(small.store.files.root, tmp_path / "store")
    files = CountingFiles(str(tmp_path / "store"))
    return SampleStore(files, small.store.manifest)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "of depthflow"


def parquet_files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def content_of(store, shard):
    return DiskFiles(store.files.root).read(shard["path"]).to_pybytes()


def test_a_copy_is_the_shard(store, folder):
    copies = ShardCache(store, str(folder))
    for shard in store.manifest["shards"]:
        assert copies.open(shard).read() == content_of(store, shard)
    assert len(parquet_files(folder)) == 3


def test_a_copy_is_made_once_for_all_and_serves_later_runs(store, folder):
    """Eight workers at once, then another that finds no source any more."""
    shard = store.manifest["shards"][0]
    content = content_of(store, shard)
    barrier = threading.Barrier(8)

    def open_copy(_):
        barrier.wait()
        return ShardCache(store, str(folder)).open(shard).read()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(open_copy, range(8))) == {content}
    assert store.files.opened == [shard["path"]]
    shutil.rmtree(store.files.root)
    assert ShardCache(store, str(folder)).open(shard).read() == content


def test_stores_of_other_content_have_other_copies(store, folder, tmp_path, write):
    write.tree(tmp_path / "tree", {"train": {"00009_00001_indoors": 3}})
    other = write.store(tmp_path / "other", tmp_path / "tree")
    shards = [store.manifest["shards"][0], other.manifest["shards"][0]]
    assert shards[0]["path"] == shards[1]["path"]
    for of, shard in zip((store, other), shards, strict=True):
        assert ShardCache(of, str(folder)).open(shard).read() == content_of(of, shard)


def test_what_a_killed_worker_left_is_made_again(store, folder):
    shard = store.manifest["shards"][0]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED_WHILE_COPYING, store.files.root, str(folder)], stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout.readline() == "copying\n"
        worker.send_signal(signal.SIGKILL)
    assert [path.suffix for path in parquet_files(folder)] == [".part"]
    assert ShardCache(store, str(folder)).open(shard).read() == content_of(store, shard)
    assert [path.suffix for path in parquet_files(folder)] == [".parquet"]


@pytest.mark.parametrize("damage", ["a flipped bit", "truncated", "gone"])
def test_a_damaged_shard_is_rejected_and_leaves_no_copy(store, folder, tmp_path, damage):
    shard = store.manifest["shards"][0]
    path, content = tmp_path / "store" / shard["path"], content_of(store, shard)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(
            content[:-1] if damage == "truncated" else content[:99] + bytes([content[99] ^ 1]) + content[100:]
        )
    with pytest.raises(StoreError, match=rf"{shard['path']}.*{'vanished' if damage == 'gone' else 'damaged'}.*Restore"):
        ShardCache(store, str(folder)).open(shard)
    assert parquet_files(folder) == []


def test_a_truncated_copy_is_made_again(store, folder):
    shard = store.manifest["shards"][0]
    ShardCache(store, str(folder)).open(shard)
    copy = parquet_files(folder)[0]
    copy.write_bytes(copy.read_bytes()[:-1])
    assert ShardCache(store, str(folder)).open(shard).read() == content_of(store, shard)


# --- full disks ---


@contextmanager
def full_disk():
    """Files over 1000 bytes cannot be written, as on a disk that is full; for no longer than the block, since the
    tests' own log may be such a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_read_around(store, folder):
    with full_disk(), pytest.warns(UserWarning, match="Not enough space in"):
        assert ShardCache(store, str(folder)).open(store.manifest["shards"][0]) is None
    assert parquet_files(folder) == []


def test_the_reserve_stays_free(store, folder, monkeypatch):
    shard = store.manifest["shards"][0]
    usage = shutil.disk_usage(".")
    needed = shard["bytes"] + shard_cache.RESERVE_BYTES
    monkeypatch.setattr(shard_cache.shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    with pytest.warns(UserWarning, match=rf"Not enough space in.*{shard['path']}.*it is read from"):
        assert ShardCache(store, str(folder)).open(shard) is None
    monkeypatch.setattr(shard_cache.shutil, "disk_usage", lambda path: usage._replace(free=needed))
    assert ShardCache(store, str(folder)).open(shard).read() == content_of(store, shard)


def test_a_folder_that_cannot_be_used_is_reported(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Choose another --cache-dir"):
        ShardCache(store, str(tmp_path / "file")).open(store.manifest["shards"][0])


# --- the reader ---


def test_a_reader_reads_the_copies_alone(small, store, folder):
    wanted = SplitReader(small.store, "train").read(range(70))
    reader = SplitReader(store, "train", cache_dir=str(folder), cache_bytes=0)
    shards = [f"split=train/part-0000{k}.parquet" for k in range(2)]
    assert sorted(store.files.opened) == ["index.parquet", "rejects.parquet", *shards]
    shutil.rmtree(store.files.root)
    for plane, found in reader.read(range(70)).planes.items():
        np.testing.assert_array_equal(found, wanted.planes[plane])


def test_a_reader_without_space_for_copies_reads_the_store(small, store, folder, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shard_cache.shutil, "disk_usage", lambda path: usage._replace(free=0))
    with pytest.warns(UserWarning, match="Not enough space"):
        reader = SplitReader(store, "train", cache_dir=str(folder))
    wanted = SplitReader(small.store, "train").read(range(70))
    np.testing.assert_array_equal(reader.read(range(70)).rgb, wanted.rgb)


def test_without_a_cache_folder_nothing_is_copied(store, folder):
    SplitReader(open_store(store.files.root), "train").read(range(70))
    assert not folder.exists()
