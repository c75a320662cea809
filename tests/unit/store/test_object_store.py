"""Sources and stores on an object store, against a real server of S3's protocol on this machine."""

import contextlib
import io
import json
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import s3fs

from depthflow.datasets.archive import archive_identity, open_archive, scan_archive
from depthflow.datasets.camera import Camera
from depthflow.datasets.decode import decode_frame
from depthflow.datasets.frame_table import frames_of
from depthflow.datasets.listing import read_camera
from depthflow.errors import LockLostError, SourceError, StoreError
from depthflow.storage.files import open_files
from depthflow.storage.lock import object_lock
from depthflow.store.store import open_store
from depthflow.store.write.sources import list_archive, read_member, read_tree
from tests.archives import KINDS, pack
from tests.layout_trees import depth_values, write_depth, write_image, write_text
from tests.object_store import serving_bucket
from tests.stores import diode_frames

BUCKET = "depth"
SPLITS = {"train": {"00001_00001_indoors": 5, "00002_00001_outdoor": 3}, "val": {"00003_00001_indoors": 3}}
HEARTBEAT_S, LEASE_S = 0.1, 1.5


@pytest.fixture(scope="module")
def s3():
    """The client of a server that holds one bucket."""
    with serving_bucket(BUCKET) as client:
        yield client


@pytest.fixture
def root(s3, request):
    """A prefix of this test's own."""
    return f"s3://{BUCKET}/{abs(hash(request.node.name))}"


@pytest.fixture
def files(root):
    return open_files(root)


def keys(s3, root):
    """What the bucket holds under a prefix."""
    return sorted(key.removeprefix(root.removeprefix("s3://") + "/") for key in s3.find(root))


# --- files ---


def test_a_committed_file_is_read_back(files, s3, root):
    files.write("split=val/part-00000.parquet", b"content")
    assert files.exists("split=val/part-00000.parquet")
    assert not files.exists("split=val/part-00001.parquet")
    assert files.read("split=val/part-00000.parquet").to_pybytes() == b"content"
    with files.open("split=val/part-00000.parquet") as handle:
        handle.seek(3)
        assert handle.read() == b"tent"
    assert keys(s3, root) == ["split=val/part-00000.parquet"]


def test_nothing_is_seen_before_the_block_ends(files, s3, root):
    with files.commit("a/b.bin") as handle:
        handle.write(b"half")
        handle.flush()
        assert not files.exists("a/b.bin")
        handle.write(b" and half")
    assert files.read("a/b.bin").to_pybytes() == b"half and half"


def fail_while_writing(files, path, error):
    with files.commit(path) as handle:
        handle.write(b"half")
        raise error("stop")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, b"before"])
def test_an_error_keeps_the_previous_content(files, s3, root, error, before):
    if before:
        files.write("a.bin", before)
    with pytest.raises(error, match="stop"):
        fail_while_writing(files, "a.bin", error)
    assert files.exists("a.bin") == bool(before)
    assert not before or files.read("a.bin").to_pybytes() == before


def test_a_larger_file(files):
    content = random.Random(0).randbytes(100_000)
    files.write("large.bin", content)
    assert files.read("large.bin").to_pybytes() == content


def test_names_are_sorted_files_that_match(files):
    for name in ("split=val/part-00001.parquet", "split=train/part-00010.parquet", "split=train/part-00002.parquet"):
        files.write(name, b"x")
    files.write("split=train/other.txt", b"x")
    files.write("split=train/part-folder.parquet/x", b"x")
    wanted = ["split=train/part-00002.parquet", "split=train/part-00010.parquet", "split=val/part-00001.parquet"]
    assert files.names("split=*/part-*.parquet") == wanted
    assert files.names("gone/*") == []


def test_removing_a_folder_removes_only_its_content(files, s3, root):
    for name in (".staging/a/x.arrow", ".staging/y", ".staging-not", "manifest.json"):
        files.write(name, b"x")
    files.remove(".staging")
    files.remove("gone")
    files.remove_temporaries()
    assert keys(s3, root) == [".staging-not", "manifest.json"]


def test_files_can_be_pickled(files, root):
    files.write("a.bin", b"content")
    travelled = pickle.loads(pickle.dumps(files))
    assert travelled.root == root
    assert travelled.read("a.bin").to_pybytes() == b"content"


# --- what an object store refuses is a message, and soon ---


def test_missing_bucket(s3, tmp_path):
    files = open_files("s3://gone/store")
    with pytest.raises(StoreError, match=r"s3://gone/store/a\.bin cannot be written.*bucket does not exist"):
        files.write("a.bin", b"x")
    with pytest.raises(StoreError, match=r"s3://gone/store cannot be locked.*bucket does not exist"):
        files.writer_lock().__enter__()
    with pytest.raises(StoreError, match=r"s3://gone/store is not a sample store"):
        open_store("s3://gone/store")
    with pytest.raises(SourceError, match=r"s3://gone/tree cannot be listed.*bucket does not exist"):
        diode_frames("s3://gone/tree", ("train",))
    with pytest.raises(SourceError, match=r"no archive at s3://gone/a\.tar\.gz"):
        archive_identity("s3://gone/a.tar.gz")


def test_frames_of_other_layouts(s3, root, tmp_path):
    """A folder as 7-Scenes has it, with poses, and a table with absolute and relative paths."""
    for number in (0, 1):
        write_image(tmp_path / f"frame-{number:06d}.color.png", key=number)
        write_depth(tmp_path / f"frame-{number:06d}.depth.png", depth_values(key=number))
        write_text(tmp_path / f"frame-{number:06d}.pose.txt", "1 0 0 0.5", "0 1 0 0", "0 0 1 0", "0 0 0 1")
    s3.put(f"{tmp_path}/", f"{root}/kitchen/", recursive=True)
    image, depth = (f"frame-000000.{name}.png" for name in ("color", "depth"))
    depths = (f"{root}/kitchen/{depth}", f"kitchen/{depth}", f"gone/{depth}")
    rows = [f"kitchen/{image},{place},1000" for place in depths]
    s3.pipe(f"{root}/mine.csv", "\n".join(["image,depth,depth_units_per_m", *rows]).encode())
    source = read_tree(f"{root}/kitchen", ("train",))
    assert source.layout == "seven_scenes"
    frames = frames_of(source.frames)
    assert [frame.pose[3] for frame in frames] == [0.5, 0.5]
    table = frames_of(read_tree(f"{root}/mine.csv", ("train",)).frames)
    assert [frame.reason for frame in table] == ["", "", "missing_member"]
    wanted = depth_values(key=0)
    for frame in (frames[0], table[0], table[1]):
        members = {name: read_member(place) for name, place in frame.members.items()}
        decoded = decode_frame(members, frame.encoding)
        np.testing.assert_allclose(decoded.depth_m, wanted / 1000, rtol=1e-6)


def test_missing_source(root):
    with pytest.raises(SourceError, match="holds no sample of train or val"):
        diode_frames(f"{root}/tree", ("train", "val"))
    with pytest.raises(SourceError, match=r"a\.png can no longer be read: it is gone"):
        read_member(f"{root}/a.png")
    assert read_camera(root) is None


def test_an_array_of_an_hdf5_object_is_read_in_place(s3, root, tmp_path):
    """Of 32 MiB, a few blocks are asked for."""
    depths = np.arange(32 * 2**18, dtype=np.float32).reshape(32, 512, 512)
    with h5py.File(tmp_path / "large.mat", "w") as file:
        file["depths"] = depths
    s3.put(str(tmp_path / "large.mat"), f"{root}/large.mat")
    s3.pipe(f"{root}/small.h5#1.png", b"an image")
    sizes = []
    fetch = s3fs.S3File._fetch_range
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3fs.S3File, "_fetch_range", lambda *args: sizes.append(args[2] - args[1]) or fetch(*args))
        content = read_member(f"{root}/large.mat#depths[20].T")
    np.testing.assert_array_equal(np.load(io.BytesIO(content)), depths[20].T)
    assert 2**20 <= sum(sizes) <= 4 * 2**20
    assert read_member(f"{root}/small.h5#1.png") == b"an image"
    with pytest.raises(SourceError, match=r"gone\.h5#depths can no longer be read: it is gone"):
        read_member(f"{root}/gone.h5#depths")


def test_server_gone(serving, tmp_path):
    with serving() as server:
        server.stop()
        files = open_files(f"s3://{BUCKET}/store")
        took_s = asked_at_once(files, f"s3://{BUCKET}/x.tar.gz", str(tmp_path / "index"))
    assert max(took_s) < 60


def asked_at_once(files, uri, index):
    """Seconds until each call tells that there is no server: each waits between its attempts."""
    calls = [
        (StoreError, lambda: files.exists("a.bin")),
        (StoreError, lambda: files.names("*")),
        (StoreError, lambda: files.read("a.bin")),
        (StoreError, lambda: files.write("b.bin", b"x")),
        (StoreError, lambda: files.remove(".staging")),
        (StoreError, lambda: files.writer_lock().__enter__()),
        (StoreError, lambda: open_store(files.root)),
        (SourceError, lambda: diode_frames(files.root, ("train",))),
        (SourceError, lambda: read_camera(files.root)),
        (SourceError, lambda: read_member(uri)),
        (SourceError, lambda: read_member(uri.replace("tar.gz", "h5#depth"))),
        (SourceError, lambda: archive_identity(uri)),
        (SourceError, lambda: scan_archive(uri, index, threads=1, progress=lambda name, done: None)),
    ]

    def ask(error, call):
        started = time.monotonic()
        with pytest.raises(error, match="Check the address, credentials and network"):
            call()
        return time.monotonic() - started

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: ask(*call), calls))


def test_no_credentials(s3, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(StoreError, match=r"cannot be written: .*Unable to locate credentials"):
            open_files(f"s3://{BUCKET}/store").write("a.bin", b"x")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


# --- sources and stores ---


@pytest.fixture(scope="module")
def tree(tmp_path_factory, write):
    root = tmp_path_factory.mktemp("tree")
    write.tree(root, SPLITS)
    rgb, depth, mask = write.frame(0)
    write.triplet(root, "train", "00001_00001_indoors_003_000", rgb, depth, mask * 0)
    (root / "camera.json").write_text(
        '{"width": 8, "height": 6, "fx_px": 7.0, "fy_px": 7.0, "cx_px": 4.0, "cy_px": 3.0}'
    )
    return root


@pytest.fixture(scope="module")
def archive(tree, tmp_path_factory):
    return Path(pack(tmp_path_factory.mktemp("archive") / "diode.tar.gz", tree))


@pytest.fixture(scope="module")
def local(tree, tmp_path_factory, write):
    """The tree's store on a disk."""
    return write.store(tmp_path_factory.mktemp("local"), tree)


@pytest.fixture(scope="module")
def remote_tree(s3, tree):
    s3.put(f"{tree}/", f"{BUCKET}/sources/tree/", recursive=True)
    return f"s3://{BUCKET}/sources/tree"


@pytest.fixture(scope="module")
def remote_archives(s3, tree, tmp_path_factory):
    """Kind to URI of an archive of the tree."""
    for kind in KINDS:
        s3.put_file(pack(tmp_path_factory.mktemp("archive") / f"diode{kind}", tree), f"{BUCKET}/sources/diode{kind}")
    return {kind: f"s3://{BUCKET}/sources/diode{kind}" for kind in KINDS}


def test_a_tree_is_listed_as_on_a_disk(tree, remote_tree):
    here, there = diode_frames(str(tree), ("train", "val")), diode_frames(remote_tree, ("train", "val"))
    assert [(t.sample_id, t.split, t.scan, t.problem) for t in there] == [
        (t.sample_id, t.split, t.scan, t.problem) for t in here
    ]
    for a, b in zip(here, there, strict=True):
        assert {name: read_member(path) for name, path in b.members.items()} == {
            name: Path(path).read_bytes() for name, path in a.members.items()
        }


def test_a_split_of_a_tree_is_a_source_too(remote_tree):
    assert len(diode_frames(f"{remote_tree}/val/", ("train", "val"))) == 3
    assert read_camera(f"{remote_tree}/val/") == Camera(width=8, height=6, fx_px=7.0, fy_px=7.0, cx_px=4.0, cy_px=3.0)


def test_a_folder_with_the_same_prefix_is_not_listed(s3, root):
    for folder in ("train", "train-old", "val2"):
        s3.pipe_file(f"{root}/{folder}/indoors/scene_00001/scan_00001/00001_00001_indoors_000_000.png", b"x")
    assert [t.split for t in diode_frames(root, ("train", "val"))] == ["train"]


@pytest.mark.parametrize(
    ("source", "to"),
    [("tree", "disk"), ("tree", "s3"), (".tar.gz", "disk"), (".tar.gz", "s3"), (".tar", "disk"), (".zip", "s3")],
)
def test_a_store_does_not_depend_on_where_it_and_its_source_are(
    source, to, remote_tree, remote_archives, root, local, tmp_path, write
):
    out = root if to == "s3" else tmp_path / "store"
    store = write.store(out, remote_archives.get(source, remote_tree))
    assert store.fingerprint == local.fingerprint
    assert store.index["content_xxh3"].to_pylist() == local.index["content_xxh3"].to_pylist()
    assert store.manifest["rejects_by_reason"] == {"no_valid_pixel": 1}
    content = store.files.read("split=val/part-00000.parquet")
    wanted = local.files.read("split=val/part-00000.parquet")
    assert content.equals(wanted)


def test_a_local_archive_makes_a_remote_store(archive, root, local, write):
    assert write.store(root, archive).fingerprint == local.fingerprint


def test_pyarrow_alone_reads_a_remote_shard(root, tree, write, s3):
    write.store(root, tree)
    table = pq.read_table(
        f"{root.removeprefix('s3://')}/split=val/part-00000.parquet", filesystem=s3, partitioning=None
    )
    assert table.num_rows == 3


def test_a_second_run_changes_no_shard(root, tree, write, s3):
    write.store(root, tree)
    shard = f"{root}/split=train/part-00000.parquet"
    before = s3.info(shard)["LastModified"], s3.info(f"{root}/manifest.json")["LastModified"]
    time.sleep(1.1)  # A second is the finest that it says.
    write.store(root, tree)
    assert s3.info(shard)["LastModified"] == before[0]
    assert s3.info(f"{root}/manifest.json")["LastModified"] > before[1]


def test_an_archives_etag_is_part_of_its_identity(s3, root):
    uri = f"{root}/a.tar.gz"
    s3.pipe_file(uri, b"content")
    before = archive_identity(uri)
    assert archive_identity(uri) == before
    s3.pipe_file(uri, b"CONTENT")
    assert archive_identity(uri) != before
    s3.pipe_file(uri, b"content")
    assert archive_identity(uri) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_is_no_archive(s3, root, kind):
    s3.pipe_file(f"{root}/a{kind}/file", b"x")
    with pytest.raises(SourceError, match=rf"The archive {root}/a{kind} is a folder"):
        archive_identity(f"{root}/a{kind}")


def test_a_damaged_remote_archive_is_rejected(s3, root, archive, tmp_path):
    content = archive.read_bytes()
    half = len(content) // 2
    flipped = content[:half] + bytes([content[half] ^ 0xFF]) + content[half + 1 :]
    for name, damaged in {"short": content[:-50], "flipped": flipped}.items():
        s3.pipe_file(f"{root}/{name}.tar.gz", damaged)
        with pytest.raises(SourceError, match="cannot be read to its end"):
            scan_archive(f"{root}/{name}.tar.gz", str(tmp_path / "index"), threads=2, progress=lambda name, done: None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_goes_away_while_an_archive_is_read(serving, tree, tmp_path, kind):
    with serving() as server:
        client = s3fs.S3FileSystem(use_listings_cache=False)
        client.makedirs(BUCKET, exist_ok=True)
        client.put_file(pack(tmp_path / f"a{kind}", tree), f"{BUCKET}/a{kind}")
        uri, index = f"s3://{BUCKET}/a{kind}", tmp_path / "index"
        index.touch()
        (member, *_) = scan_archive(uri, str(index), threads=2, progress=lambda name, done: None).members
        span = (member.offset, member.size)
        with index.open("rb") as handle, open_archive(uri, handle, begin=span[0], end=sum(span)) as read:
            assert len(read(span)) >= span[1]
            server.stop()
        with (
            index.open("rb") as handle,
            pytest.raises(SourceError),
            open_archive(uri, handle, begin=span[0], end=sum(span)) as read,
        ):
            read(span)


def test_an_archive_is_listed_to_remote_staging(root, archive):
    files, identity = open_files(root), archive_identity(str(archive))
    list_archive(str(archive), identity, files, threads=1, progress=lambda name, done: None)
    assert files.names(".staging/*/*") == [f".staging/{identity}/index.gzidx", f".staging/{identity}/members.parquet"]
    files.remove(".staging")
    assert files.names("**") == []


# --- the lock ---


def lock(s3, root, **changes):
    times = {"heartbeat_s": HEARTBEAT_S, "lease_s": LEASE_S}
    return object_lock(s3, root.removeprefix("s3://"), root, **{**times, **changes})


def refused(root):
    return pytest.raises(StoreError, match=rf"{root} is being written by another process.*Wait for it")


HOLDER = """
import sys
import s3fs
from depthflow.storage.lock import object_lock
s3, root = s3fs.S3FileSystem(use_listings_cache=False), sys.argv[1]
with object_lock(s3, root.removeprefix("s3://"), root, heartbeat_s=float(sys.argv[2]), lease_s=1.5):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def holder(root):
    """A process that holds the lock until a line is written to it."""
    command = [sys.executable, "-c", HOLDER, root, str(HEARTBEAT_S)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_lock_is_held_only_within_the_block(s3, root):
    with lock(s3, root):
        assert keys(s3, root) == [".lock-00000"]
        record = json.loads(s3.cat_file(f"{root}/.lock-00000"))
        assert (record["host"], record["pid"]) == (socket.gethostname(), os.getpid())
    assert keys(s3, root) == []


def test_an_error_releases_it(s3, root):
    with pytest.raises(ValueError, match="stop"), lock(s3, root):
        raise ValueError("stop")
    assert keys(s3, root) == []


def test_a_held_lock_is_renewed(s3, root):
    with lock(s3, root):
        first, until = s3.cat_file(f"{root}/.lock-00000"), time.monotonic() + 30
        while s3.cat_file(f"{root}/.lock-00000") == first:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_a_second_writer_fails_until_the_first_is_done(s3, root):
    with lock(s3, root):
        for _ in range(2):
            with refused(root), lock(s3, root):
                pass
        assert keys(s3, root) == [".lock-00000"]
    with lock(s3, root):
        pass


def test_a_process_that_holds_it_is_named_and_left_alone(s3, root):
    with holder(root) as first:
        with refused(root) as info, lock(s3, root):
            pass
        assert f'"pid": {first.pid}' in str(info.value)
        first.stdin.write("\n")
        first.stdin.flush()
        assert first.wait(timeout=30) == 0
    assert keys(s3, root) == []


def test_the_lock_of_a_killed_process_is_taken_over_after_a_lease(s3, root):
    with holder(root) as first:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert keys(s3, root) == [".lock-00000"]
        started = time.monotonic()
        with lock(s3, root):
            assert time.monotonic() - started >= LEASE_S
            assert keys(s3, root) == [".lock-00000", ".lock-00001"]
            with refused(root), lock(s3, root):
                pass
    assert keys(s3, root) == []


def test_a_frozen_holder_does_not_release_the_lock_of_its_successor(s3, root):
    with holder(root) as first:
        os.kill(first.pid, signal.SIGSTOP)
        with lock(s3, root):
            os.kill(first.pid, signal.SIGCONT)
            first.stdin.write("\n")
            first.stdin.flush()
            assert first.wait(timeout=30) == 0
            assert keys(s3, root) == [".lock-00000", ".lock-00001"]
            with refused(root), lock(s3, root):
                pass
    assert keys(s3, root) == []


def commit_while_it_is_lost(files, s3, root):
    with files.commit("a.bin") as handle:
        handle.write(b"late")
        s3.pipe_file(f"{root}/.lock-00001", b"the successor")


@pytest.mark.parametrize(
    "change",
    [
        lambda files, *_: files.write("a.bin", b"late"),
        lambda files, *_: files.unlink("a.bin"),
        lambda files, *_: files.remove("folder"),
        commit_while_it_is_lost,
    ],
)
def test_whoever_lost_the_lock_changes_nothing(s3, files, root, change):
    with files.writer_lock() as mine:
        mine.write("a.bin", b"in time")
        mine.write("folder/b.bin", b"in time")
        if change is not commit_while_it_is_lost:
            s3.pipe_file(f"{root}/.lock-00001", b"the successor")
        elsewhere = pickle.loads(pickle.dumps(mine))  # As a worker gets it.
        for late in (mine, elsewhere):
            with pytest.raises(LockLostError, match=rf"no longer holds the lock of {root}: .*\(the successor\)"):
                change(late, s3, root)
    assert keys(s3, root) == [".lock-00000", ".lock-00001", "a.bin", "folder/b.bin"]
    assert s3.cat_file(f"{root}/a.bin") == b"in time"


def test_whoever_lost_the_lock_neither_renews_nor_releases_one_of_the_same_name(s3, root):
    with lock(s3, root) as mine:
        name = f"{root}/.lock-00000"
        s3.pipe_file(name, b"that of a successor's successor")
        while any(name in thread.name for thread in threading.enumerate()):  # Until the heartbeat has seen it.
            time.sleep(0.01)
        with pytest.raises(LockLostError):
            mine.check()
    assert s3.cat_file(name) == b"that of a successor's successor"
    s3.rm_file(name)


def test_only_one_of_many_takes_over_a_lock(s3, root):
    s3.pipe_file(f"{root}/.lock-00007", b"left by a dead holder")
    together, done = threading.Barrier(4), threading.Event()
    outcomes = []

    def take():
        together.wait()
        try:
            with lock(s3, root):
                outcomes.append("held")
                done.wait(60)
        except StoreError:
            outcomes.append("refused")
            if outcomes.count("refused") == 3:
                done.set()

    takers = [threading.Thread(target=take) for _ in range(4)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert sorted(outcomes) == ["held", "refused", "refused", "refused"]
    assert keys(s3, root) == []


def test_only_one_of_many_simultaneous_writers_gets_the_lock(s3, root):
    together = threading.Barrier(6)
    inside, most = [], []

    def take(number):
        together.wait()
        with contextlib.suppress(StoreError), lock(s3, root):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.2)
            inside.remove(number)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(take, range(6)))
    assert most
    assert max(most) == 1
    assert keys(s3, root) == []


def test_a_watching_writer_gets_a_released_lock(s3, root):
    released = []

    def hold_for_a_moment(entered):
        with lock(s3, root, heartbeat_s=600):
            entered.set()
            time.sleep(0.5)
            released.append(time.monotonic())

    entered = threading.Event()
    first = threading.Thread(target=hold_for_a_moment, args=(entered,))
    first.start()
    entered.wait()
    with lock(s3, root, lease_s=60):
        assert time.monotonic() > released[0]
        assert keys(s3, root) == [".lock-00000"]
    first.join()


class Interrupted:
    """A client to which something happens just before it creates a lock for the first time."""

    def __init__(self, client, event):
        self.client, self.events = client, [event]

    def __getattr__(self, name):
        return getattr(self.client, name)

    def pipe_file(self, path, content, **kwargs):
        if kwargs.get("mode") == "create" and self.events:
            self.events.pop()()
        return self.client.pipe_file(path, content, **kwargs)


def test_a_holder_that_wakes_up_at_the_last_moment_keeps_its_lock(s3, root):
    asleep = f"{root}/.lock-00003"
    s3.pipe_file(asleep, b"asleep")
    beats = threading.Event()

    def wake():
        s3.pipe_file(asleep, b"awake")
        threading.Thread(target=beat, daemon=True).start()

    def beat():
        while not beats.wait(0.1):
            s3.pipe_file(asleep, random.Random().randbytes(8).hex().encode())

    try:
        with refused(root), lock(Interrupted(s3, wake), root):
            pass
        assert keys(s3, root) == [".lock-00003"]
    finally:
        beats.set()


def test_a_lock_taken_after_a_late_release_is_kept(s3, root):
    stale = f"{root}/.lock-00000"
    s3.pipe_file(stale, b"asleep")
    with contextlib.ExitStack() as stack:

        def release_and_let_another_in():
            s3.rm_file(stale)
            stack.enter_context(lock(s3, root))

        with refused(root), lock(Interrupted(s3, release_and_let_another_in), root):
            pass
        assert keys(s3, root) == [".lock-00000"]
    assert keys(s3, root) == []


def test_a_writer_on_s3_takes_this_lock(s3, files, root):
    with files.writer_lock():
        assert keys(s3, root) == [".lock-00000"]
    with lock(s3, root), refused(root), files.writer_lock():
        pass
