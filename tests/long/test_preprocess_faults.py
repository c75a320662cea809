"""preprocess where something is wrong: it ends, says what, and goes on from there when it is run again."""

import contextlib
import fcntl
import os
import signal
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest

from depthflow.errors import StoreError
from depthflow.storage.lock import LOCK_NAME, disk_lock
from depthflow.store.write.tasks import Limits, run_tasks
from tests.archives import KINDS, pack


@pytest.fixture
def tree(tmp_path, write_triplet):
    """30 whole triplets of one scene, 3 scans."""
    for scan in range(3):
        for view in range(10):
            write_triplet(tmp_path / "tree", scan=scan, view=view)
    return tmp_path / "tree"


def preprocess(run, tree, out, *flags):
    return run("preprocess", "--source", tree, "--out", out, "--height", 32, "--width", 32, *flags, cwd=tree.parent)


def committed(out):
    return {path: path.stat().st_mtime_ns for path in out.rglob("part-*.parquet") if path.name.startswith("part-")}


def first_depth(tree):
    return min(tree.rglob("*_depth.npy"))


@contextmanager
def hanging(path):
    """Lets nobody open a file, as if its disk did not answer: the kernel waits for the lease to be given up."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # Asks for that.
    with path.open("r+b") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield


def test_a_stall_ends_the_run_and_names_the_sample(run, tree, tmp_path):
    depth = first_depth(tree)
    started = time.monotonic()
    with hanging(depth):
        done = preprocess(run, tree, tmp_path / "store", "--sample-timeout-s", 3)
    assert done.code == 1
    assert depth.name.removesuffix("_depth.npy") in done.result["error"]
    assert "--sample-timeout-s" in done.result["error"]
    assert time.monotonic() - started < 60
    assert not (tmp_path / "store" / "manifest.json").exists()
    assert preprocess(run, tree, tmp_path / "store").result["samples"] == 30
    assert not list((tmp_path / "store").rglob(".*"))


@pytest.mark.parametrize(("timeout_s", "error"), [(1.0, StoreError), (300.0, KeyboardInterrupt)])
def test_no_task_outlives_its_run(shared_ray, tmp_path, timeout_s, error):
    """Tasks that never return, first ended by their time limit and then by Ctrl-C."""

    def write_for_ever(name, reporter):
        reporter.begin(name)
        while True:
            (tmp_path / name).write_text(str(time.monotonic()))
            time.sleep(0.02)

    def interrupt(done, rejects):
        if error is KeyboardInterrupt and len(written(tmp_path)) == 2:
            threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()

    limits = Limits(sample_timeout_s=timeout_s, max_rejects=None)
    with pytest.raises(error):
        run_tasks(["a", "b"], write_for_ever, limits=limits, progress=interrupt)
    deadline = time.monotonic() + 30
    before = written(tmp_path)
    assert before
    while time.sleep(1.0) or written(tmp_path) != before:
        before = written(tmp_path)
        assert time.monotonic() < deadline, "they are still writing"


def written(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_too_many_rejects_end_the_run(run, tree, tmp_path):
    bad = sorted(tree.rglob("*_depth.npy"))[:4]
    for depth in bad:
        depth.write_bytes(b"no array")
    done = preprocess(run, tree, tmp_path / "store", "--max-rejects", 3)
    assert done.code == 1
    assert "--max-rejects 3" in done.result["error"]
    assert any(depth.name.removesuffix("_depth.npy") in done.result["error"] for depth in bad)
    allowed = preprocess(run, tree, tmp_path / "store", "--max-rejects", 4)
    assert (allowed.code, allowed.result["samples"], allowed.result["rejects"]) == (3, 26, 4)


def test_a_gap_fails_before_any_work(run, tree, tmp_path):
    done = preprocess(run, tree, tmp_path / "store", "--require-complete")
    assert done.code == 1
    assert "--require-complete" in done.result["error"]
    assert "30 of 8574" in done.result["error"]
    assert not committed(tmp_path / "store")


def test_one_of_two_runs_into_one_folder_fails(run, tree, tmp_path):
    with disk_lock(tmp_path / "store" / LOCK_NAME):
        refused = preprocess(run, tree, tmp_path / "store")
        assert refused.code == 1
        assert "being written by another process" in refused.result["error"]
        assert not committed(tmp_path / "store")
    assert preprocess(run, tree, tmp_path / "store").code == 0


@contextlib.contextmanager
def small_disk(folder, size):
    """A disk of its own, which fills up; where that is not permitted, the test is skipped."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("a disk that fills up needs the right to mount one")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_a_clear_error_and_the_rerun_resumes(run, tree, tmp_path):
    with small_disk(tmp_path / "disk", "200k"):
        full = preprocess(run, tree, tmp_path / "disk" / "store", "--height", 128, "--width", 128)
        assert full.code == 1
        assert "No space left on device" in full.result["error"]
        assert "run the same command again" in full.result["error"]
        subprocess.run(["mount", "-o", "remount,size=20m", str(tmp_path / "disk")], check=True)
        before = committed(tmp_path / "disk" / "store")
        again = preprocess(run, tree, tmp_path / "disk" / "store", "--height", 128, "--width", 128)
        assert (again.code, again.result["samples"]) == (0, 30)
        after = committed(tmp_path / "disk" / "store")
        assert {path: after[path] for path in before} == before
        assert not list((tmp_path / "disk").rglob(".*"))


def test_archives_make_the_store_of_their_tree(run, tree, tmp_path):
    """One of each kind, with one scan each."""

    def preprocess_all(*sources, out):
        return run("preprocess", "--source", *sources, "--out", out, "--height", 32, "--width", 32, cwd=tmp_path)

    archives = [
        pack(tmp_path / f"scans{kind}", tree, lambda files, scan=scan: [file for file in files if scan in file.parts])
        for kind, scan in zip(KINDS, ("scan_00000", "scan_00001", "scan_00002"), strict=True)
    ]
    from_tree = preprocess_all(tree, out="from_tree")
    from_archives = preprocess_all(*archives, out="store")
    assert (from_archives.code, from_archives.result["samples"]) == (0, 30)
    assert from_archives.result["fingerprint"] == from_tree.result["fingerprint"]
    first_depth(tree).write_bytes(b"no array")  # Of the tree alone.
    both = preprocess_all(tree, *archives, out="both")
    assert (both.code, both.result["samples"], both.result["rejects_by_reason"]) == (
        3,
        29,
        {"duplicate": 30, "unreadable_array": 1},
    )
    began = time.monotonic()
    again = preprocess_all(*archives, out="store")
    assert again.result["fingerprint"] == from_archives.result["fingerprint"]
    assert time.monotonic() - began < 60
